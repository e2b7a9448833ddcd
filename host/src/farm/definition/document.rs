//! What a definition file says, whichever of the three shapes in use it has.

use std::sync::Arc;

use super::files::Kind;
use crate::{
    base::{Problem, Problems, SourceFile},
    farm::yaml::{self, Data, Entry, Node, Place},
};

/// A definition file.
#[derive(Debug)]
pub(super) struct Document {
    /// What it says, in the order in which that is worked out.
    pub(super) statements: Vec<Statement>,
}

/// One thing that a definition file says.
#[derive(Debug, Clone)]
pub(super) enum Statement {
    /// What is merged into the machine: a mapping, or a template that gives one.
    Vm(Arc<Node>),
    /// A variable for the templates that come after it.
    Variable(Arc<str>, Arc<Node>),
}

/// The two names of the one module that a task of a definition may use.
const SET_FACT: [&str; 2] = ["set_fact", "ansible.builtin.set_fact"];

const HELP: &str = "a definition is a mapping with the key `vm`, whose value is a mapping, or a list of Ansible tasks that \
    set the fact `vm`";

impl Document {
    /// Reads a definition file: a mapping with `vm`, or a list of tasks.
    pub(super) fn read(file: Arc<SourceFile>, kind: Kind) -> Result<Self, Problems> {
        let root = yaml::load(&file)?;
        let mut problems = Vec::new();
        let statements = match &root.data {
            Data::Map(entries) => {
                let mut statements: Vec<_> = entries
                    .iter()
                    .filter_map(|(key, entry)| {
                        statement(key, entry).map_err(|found| problems.push(found)).ok()
                    })
                    .collect();
                // To Ansible a file's variables have no order. Here those below `vm` come before it unless they need it.
                let vm = entries.get_index_of("vm").unwrap_or_default();
                let below = |name: &str| entries.get_index_of(name).is_some_and(|index| index > vm);
                statements.sort_by_key(|statement| match statement {
                    Statement::Variable(name, node) if below(name) && uses_vm(node) => 2,
                    Statement::Vm(_) => 1,
                    Statement::Variable(..) => 0,
                });
                statements
            }
            Data::List(tasks) => {
                tasks.iter().flat_map(|task| self::task(&file, task, &mut problems)).collect()
            }
            _ => Vec::new(),
        };
        let defines = statements.iter().any(|statement| matches!(statement, Statement::Vm(_)));
        if problems.is_empty() && !defines {
            problems.push(file.problem(0..0, format!("this defines no {}", kind.word())).help(HELP));
        }
        Problems::unless_empty(problems, Self { statements })
    }
}

fn statement(key: &Arc<str>, entry: &Entry) -> Result<Statement, Problem> {
    if &**key != "vm" {
        return Ok(Statement::Variable(key.clone(), entry.value.clone()));
    }
    let node = &entry.value;
    match node.data {
        Data::Map(_) => Ok(Statement::Vm(node.clone())),
        Data::Text(_) if node.templated => Ok(Statement::Vm(node.clone())),
        _ => {
            let message = format!("`vm` must be a mapping, but this is {}", node.kind());
            Err(problem(node.place.as_ref().or(entry.key.as_ref()), message).help(HELP))
        }
    }
}

/// What a task sets. Anything else that a task could do is refused: it would be lost.
fn task(file: &Arc<SourceFile>, task: &Arc<Node>, problems: &mut Vec<Problem>) -> Vec<Statement> {
    let here = task.place.as_ref();
    let Data::Map(keywords) = &task.data else {
        problems
            .push(problem(here, format!("a task must be a mapping, but this is {}", task.kind())).help(HELP));
        return Vec::new();
    };
    let mut statements = Vec::new();
    let mut sets = false;
    for (keyword, entry) in keywords {
        let place = entry.key.as_ref().or(here);
        if SET_FACT.contains(&&**keyword) {
            sets = true;
            let Data::Map(facts) = &entry.value.data else {
                let message =
                    format!("`{keyword}` must be a mapping of facts, but this is {}", entry.value.kind());
                problems.push(problem(place, message).help("write `set_fact: { vm: { ... } }`"));
                continue;
            };
            for (name, fact) in facts.iter().filter(|(name, _)| &***name != "cacheable") {
                match statement(name, fact) {
                    Ok(statement) => statements.push(statement),
                    Err(found) => problems.push(found),
                }
            }
        } else if &**keyword != "name" {
            let help = "only `name` and `set_fact` are read in a definition; what a machine needs to be made belongs into its \
                sources and phases";
            problems
                .push(problem(place, format!("`{keyword}` can't stand in a definition's task")).help(help));
        }
    }
    if !sets && keywords.keys().all(|keyword| &**keyword == "name") {
        problems.push(file.problem(here.map_or(0..0, Place::range), "this task sets no fact").help(HELP));
    }
    statements
}

fn problem(place: Option<&Place>, message: String) -> Problem {
    match place {
        Some(place) => place.problem(message),
        None => Problem::new(message),
    }
}

/// Whether a template in a value mentions `vm`.
fn uses_vm(node: &Node) -> bool {
    match &node.data {
        _ if !node.templated => false,
        Data::Text(text) => {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            text.match_indices("vm").any(|(at, vm)| {
                !text[..at].ends_with(|c| is_word(c) || c == '.')
                    && !text[at + vm.len()..].starts_with(is_word)
            })
        }
        Data::List(items) => items.iter().any(|item| uses_vm(item)),
        Data::Map(entries) => entries.values().any(|entry| uses_vm(&entry.value)),
        _ => false,
    }
}
