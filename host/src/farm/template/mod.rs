//! Jinja expressions in definition files, in Ansible's manner: each text is a template of its own.

mod context;
mod convert;
mod filters;
mod names;
mod render;
mod syntax;
#[cfg(test)]
mod tests;

use std::{ops::Range, sync::Arc};

use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, value::Serde};

pub(super) use context::Scope;
pub(super) use render::Rendering;
pub(super) use syntax::literals;

use self::{context::Root, context::Watch, convert::Unusable};
use super::yaml::{self, Limits, Node, Place};
use crate::base::{Problem, xml_escape};

/// Steps of the template machine that one text may take: enough for any honest definition, and an end to loops.
const FUEL: u64 = 100_000;

/// How long the text may be that a template gives, in bytes.
const MAX_TEXT: usize = 64 << 10;

/// Renders the texts of definition files, phase files and domain templates.
pub(super) struct Templates(Environment<'static>);

/// Without the texts that it has compiled, which may be anybody's.
impl std::fmt::Debug for Templates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Templates")
    }
}

/// What a machine's templates may cost, all together.
#[derive(Debug)]
pub(super) struct Budget {
    /// Steps of the template machine.
    fuel: u64,
    /// Bytes of results.
    size: usize,
    /// Whether it was told that all is spent, which is told once.
    told: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self { fuel: 50 * FUEL, size: Limits::DEFINITION.size, told: false }
    }
}

/// Why a text could not be rendered, and where in it (bytes).
#[derive(Debug)]
pub(super) struct TemplateError {
    pub(super) message: String,
    pub(super) range: Option<Range<usize>>,
    pub(super) line: Option<usize>,
}

impl Templates {
    pub(super) fn new() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(64);
        // So that errors say which expression was not defined.
        environment.set_debug(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_auto_escape_callback(|name| {
            if name.starts_with(XML) { AutoEscape::Custom("xml".into()) } else { AutoEscape::None }
        });
        environment.set_formatter(|output, state, value| match state.auto_escape() {
            // minijinja's own escaping is for HTML.
            AutoEscape::Custom(_) => {
                output.write_str(&xml_escape(&value.to_string())).map_err(|_| ErrorKind::WriteFailure.into())
            }
            _ => match python_word(value) {
                Some(word) => output.write_str(word).map_err(|_| ErrorKind::WriteFailure.into()),
                None => minijinja::escape_formatter(output, state, value),
            },
        });
        // Texts are compiled once for all machines: they are their templates' names.
        environment.set_loader(|name| {
            Ok(name.strip_prefix(TEXT).or_else(|| name.strip_prefix(XML)).map(str::to_owned))
        });
        filters::add_to(&mut environment);
        Self(environment)
    }

    /// Renders a text of a definition, which stands at `place`. A text that is one single expression keeps the expression's type;
    /// any other gives a text.
    ///
    /// An error without a problem is one that was told already: the text uses a value that could not be made.
    pub(super) fn value(
        &self,
        text: &str,
        place: Option<&Place>,
        scope: &Scope,
        budget: &mut Budget,
    ) -> Result<Arc<Node>, Option<Problem>> {
        if budget.told {
            return Err(None);
        }
        if budget.fuel == 0 {
            budget.told = true;
            let message = "the templates of this machine are too much work, all taken together".to_owned();
            return Err(Some(Failure { message, ..Failure::default() }.problem(text, place, scope)));
        }
        let watch = Watch::new(text);
        let source = Source::new(text);
        let root = Root { scope: scope.clone(), watch: watch.clone() };
        let rendered = self.render(&source, root, budget).and_then(|value| {
            let limits = Limits { size: budget.size, ..Limits::DEFINITION };
            convert::node(&value, place, limits).map_err(|unusable| {
                budget.told = matches!(unusable, Unusable::TooLarge);
                source.unusable(unusable)
            })
        });
        if watch.broken() {
            return Err(None);
        }
        match rendered {
            Ok(mut node) => {
                budget.size =
                    budget.size.saturating_sub(node.weigh(Limits::DEFINITION).unwrap_or(usize::MAX));
                watch.mark(&mut node);
                Ok(node)
            }
            Err(failure) => Err(Some(failure.problem(text, place, scope))),
        }
    }

    fn render(&self, source: &Source<'_>, root: Root, budget: &mut Budget) -> Result<Value, Failure> {
        let mut spend = |fuel: u64| budget.fuel = budget.fuel.saturating_sub(fuel.max(1));
        let captured = self
            .0
            .get_template(&source.name)
            .and_then(|template| template.render_captured(Value::from_object(root)))
            .map_err(|error| {
                // What it took is not known then.
                spend(if error.kind() == ErrorKind::OutOfFuel { FUEL } else { FUEL / 10 });
                source.failure(&error)
            })?;
        spend(captured.state().fuel_levels().map_or(FUEL, |(consumed, _)| consumed));
        if source.inner.is_some() {
            return Ok(captured.state().lookup(RESULT).unwrap_or_default());
        }
        Ok(Value::from(captured.into_output()))
    }

    /// Renders a template of an XML document: its expressions are escaped for XML.
    pub(super) fn xml(&self, text: &str, context: &serde_json::Value) -> Result<String, TemplateError> {
        let template = self.0.get_template(&[XML, text].concat());
        template
            .and_then(|template| template.render(Serde(context)))
            .map_err(|error| TemplateError::new(&error))
    }
}

/// How Python writes what minijinja writes in another way: `True`, `False`, and nothing for `None` as Ansible has it.
fn python_word(value: &Value) -> Option<&'static str> {
    use minijinja::value::ValueKind;
    match value.kind() {
        ValueKind::Bool => Some(if value.is_true() { "True" } else { "False" }),
        ValueKind::None => Some(""),
        _ => None,
    }
}

/// The beginning of the name of a text that is a template. No template file's name begins so.
const TEXT: &str = "\0text:";

/// The beginning of the name of a text that is a template of an XML document.
const XML: &str = "\0xml:";

/// The variable that takes the value of a single expression.
const RESULT: &str = "__result";

/// A text, as the engine gets it.
struct Source<'a> {
    text: &'a str,
    /// The engine's name for it: [`TEXT`] and its source.
    name: String,
    /// The expression, when the text is nothing else.
    inner: Option<Range<usize>>,
}

impl<'a> Source<'a> {
    const BEFORE: &'static str = "{% set __result = (";
    /// The comparison fails when the result is not defined, with the name that was not.
    const AFTER: &'static str = ") %}{% set __is_zero = __result == 0 %}";

    fn new(text: &'a str) -> Self {
        let inner = syntax::single_expression(text);
        let name = match &inner {
            Some(inner) => [TEXT, Self::BEFORE, &text[inner.clone()], Self::AFTER].concat(),
            None => [TEXT, text].concat(),
        };
        Self { text, name, inner }
    }

    fn failure(&self, error: &Error) -> Failure {
        let range = error.range().and_then(|range| match &self.inner {
            None => Some(range),
            Some(inner) => {
                let start = (range.start + inner.start).checked_sub(Self::BEFORE.len())?;
                let end = (range.end + inner.start).checked_sub(Self::BEFORE.len())?;
                (start <= inner.end).then(|| start.max(inner.start)..end.min(inner.end).max(start))
            }
        });
        let range = range.filter(|range| self.text.get(range.clone()).is_some());
        let detail = error.detail();
        match error.kind() {
            ErrorKind::UndefinedError => {
                let expression = detail.and_then(|detail| detail.split('`').nth(1)).map(str::to_owned);
                Failure { undefined: true, expression, range, ..Failure::default() }
            }
            ErrorKind::OutOfFuel => {
                let message = format!("the template is too much work: it was stopped after {FUEL} steps");
                Failure { message, ..Failure::default() }
            }
            kind => {
                let message = match (kind, detail) {
                    (ErrorKind::SyntaxError, Some(detail)) => format!("{kind}: {detail}"),
                    // The detail says it all.
                    (_, Some(detail)) => detail.to_owned(),
                    (_, None) => kind.to_string(),
                };
                Failure { message, range, ..Failure::default() }
            }
        }
    }

    fn unusable(&self, unusable: Unusable) -> Failure {
        let range = self.inner.clone();
        match unusable {
            Unusable::Undefined => Failure { undefined: true, range, ..Failure::default() },
            Unusable::TooLarge => {
                let message = "the template gives too much for a definition".to_owned();
                Failure { message, range, ..Failure::default() }
            }
            Unusable::TooLong(length) => {
                let message = format!("the template gives a text of {length} bytes; it may have {MAX_TEXT}");
                Failure { message, range, ..Failure::default() }
            }
            Unusable::Kind(message) => Failure { message, range, ..Failure::default() },
        }
    }
}

/// Why a text gives nothing.
#[derive(Debug, Default)]
struct Failure {
    message: String,
    /// Where, in the text.
    range: Option<Range<usize>>,
    /// Whether a name is not defined.
    undefined: bool,
    /// The engine's words for what is not defined.
    expression: Option<String>,
}

impl Failure {
    fn problem(self, text: &str, place: Option<&Place>, scope: &Scope) -> Problem {
        let at = |range: Range<usize>, message: String| match place {
            Some(place) => yaml::find_in_text(place, text, range).problem(message),
            None => Problem::new(message),
        };
        let whole = || format!("in the template `{}`", shorten(text));
        if self.undefined {
            let expression = self.expression.as_deref();
            if let Some(unknown) = names::unknown(text, self.range.clone(), expression, scope) {
                let message = format!("`{}` is not defined", unknown.path);
                return at(unknown.range, message).help(unknown.help);
            }
            let message = match expression {
                Some(expression) => format!("`{expression}` is not defined"),
                None => "a value that this uses is not defined".to_owned(),
            };
            return at(self.range.unwrap_or(0..text.len()), message).help(whole());
        }
        match self.range {
            Some(range) => at(range, self.message).help(whole()),
            None => match place {
                Some(place) => place.problem(self.message).help(whole()),
                None => Problem::new(self.message).help(whole()),
            },
        }
    }
}

/// A text in a line of bounded length.
fn shorten(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = text.chars().take(100).collect();
    if short.len() < text.len() { short + "..." } else { short }
}

impl TemplateError {
    fn new(error: &Error) -> Self {
        let mut message = error.kind().to_string();
        if let Some(detail) = error.detail() {
            message = format!("{message}: {detail}");
        }
        Self { message, range: error.range(), line: error.line() }
    }
}
