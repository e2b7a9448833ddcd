use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
};

use super::streamed::{InPieces, Parts};
use crate::{
    Backend, Command, CommandOutput, Content, Context, Event, Exit, Facts, Failure, Guest, GuestError,
    Outcome, PhaseModule, Pieces, Running, Writing, export,
};

/// A guest that expects commands in order and answers what it was told. Files are kept in memory; a secret in one is written
/// as `<secret NAME>`. Panics at a command that it does not expect and,
/// when it goes out of scope, if commands that it expects did not come.
#[derive(Default)]
pub struct Script {
    commands: RefCell<VecDeque<Step>>,
    facts: RefCell<Facts>,
    files: RefCell<Vec<(String, Vec<u8>)>>,
    artifacts: RefCell<Vec<(String, Vec<u8>)>>,
    failed: Cell<bool>,
}

struct Step {
    argv: Vec<String>,
    root: bool,
    answer: Result<CommandOutput, GuestError>,
    check: Option<Check>,
}

type Check = Box<dyn Fn(&Command)>;

impl Default for Facts {
    fn default() -> Self {
        Self {
            os_id: "debian".to_owned(),
            os_id_like: Vec::new(),
            os_version_id: Some("12".to_owned()),
            os_pretty_name: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            kernel: "6.1.0".to_owned(),
            architecture: "x86_64".to_owned(),
            package_manager: Some("apt-get".to_owned()),
        }
    }
}

impl Script {
    /// A script without commands, for a Debian guest.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the guest is.
    pub fn set_facts(&self, facts: Facts) {
        *self.facts.borrow_mut() = facts;
    }

    /// Puts a file into the guest.
    pub fn add_file(&self, path: impl Into<String>, content: impl Into<Vec<u8>>) {
        self.files.borrow_mut().push((path.into(), content.into()));
    }

    /// A file's content, as it is now.
    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        self.files.borrow().iter().rev().find(|(name, _)| name == path).map(|(_, content)| content.clone())
    }

    /// An artifact that the module kept.
    pub fn artifact(&self, name: &str) -> Option<Vec<u8>> {
        let artifacts = self.artifacts.borrow();
        artifacts.iter().rev().find(|(kept, _)| kept == name).map(|(_, content)| content.clone())
    }

    /// Expects a command next, run as login user. Unless told otherwise it writes nothing and exits with 0. An argument `…`
    /// stands for any number of arguments.
    pub fn expect(&self, argv: impl IntoIterator<Item = impl Into<String>>) -> Answer<'_> {
        let output =
            CommandOutput { exit: Exit::Status(0), stdout: Vec::new(), stderr: Vec::new(), truncated: false };
        self.commands.borrow_mut().push_back(Step {
            argv: argv.into_iter().map(Into::into).collect(),
            root: false,
            answer: Ok(output),
            check: None,
        });
        Answer { script: self }
    }

    /// Takes the next command of the script, if it is this one.
    fn take(&self, command: &Command) -> Result<CommandOutput, GuestError> {
        let Some(step) = self.commands.borrow_mut().pop_front() else {
            self.fail(&format!("no command is expected, but the module ran {:?}", command.argv));
        };
        if !matches(&step.argv, &command.argv) {
            self.fail(&format!("expected {:?}, but the module ran {:?}", step.argv, command.argv));
        }
        if step.root != command.become_ {
            self.fail(&format!("{:?}: expected root: {}, was: {}", step.argv, step.root, command.become_));
        }
        if let Some(check) = &step.check {
            check(command);
        }
        step.answer
    }

    /// Runs a module on it, with settings as they stand in a phase file. Settings that the module's type refuses are
    /// [`Failure::InvalidSettings`].
    pub fn run_module<M: PhaseModule>(
        &self,
        context: &Context,
        settings: serde_json::Value,
    ) -> Result<Outcome, Failure> {
        M::run(context, export::parse::<M>(&settings.to_string())?, &Guest::new(self, context.r#become))
    }

    fn fail(&self, message: &str) -> ! {
        self.failed.set(true);
        #[allow(clippy::panic)] // That is how a test fails.
        {
            panic!("{message}")
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let left: Vec<Vec<String>> = self.commands.borrow().iter().map(|step| step.argv.clone()).collect();
        if !left.is_empty() && !self.failed.get() && !std::thread::panicking() {
            self.fail(&format!("the module did not run: {left:?}"));
        }
    }
}

/// The answer to the command that was expected last.
pub struct Answer<'a> {
    script: &'a Script,
}

impl Answer<'_> {
    fn change(self, change: impl FnOnce(&mut Step)) -> Self {
        if let Some(step) = self.script.commands.borrow_mut().back_mut() {
            change(step);
        }
        self
    }

    fn change_output(self, change: impl FnOnce(&mut CommandOutput)) -> Self {
        self.change(|step| {
            if let Ok(output) = &mut step.answer {
                change(output);
            }
        })
    }

    /// It is run as root.
    pub fn as_root(self) -> Self {
        self.change(|step| step.root = true)
    }

    /// It exits with this status.
    pub fn exits(self, status: u32) -> Self {
        self.change_output(|output| output.exit = Exit::Status(status))
    }

    /// It writes this to standard output.
    pub fn stdout(self, text: impl Into<String>) -> Self {
        self.change_output(|output| output.stdout = text.into().into_bytes())
    }

    /// It writes this to standard error.
    pub fn stderr(self, text: impl Into<String>) -> Self {
        self.change_output(|output| output.stderr = text.into().into_bytes())
    }

    /// The call itself fails.
    pub fn fails(self, error: GuestError) -> Self {
        self.change(|step| step.answer = Err(error))
    }

    /// More is asserted about the command: its environment, input, folder.
    pub fn check(self, check: impl Fn(&Command) + 'static) -> Self {
        self.change(|step| step.check = Some(Box::new(check)))
    }
}

impl Backend for Script {
    fn facts(&self) -> Result<Facts, GuestError> {
        Ok(self.facts.borrow().clone())
    }

    fn exec(&self, command: &Command) -> Result<CommandOutput, GuestError> {
        self.take(command)
    }

    fn start(&self, command: &Command) -> Result<Box<dyn Running>, GuestError> {
        Ok(Box::new(Events::of(self.take(command)?)))
    }

    fn read_file(&self, path: &str, max_size: u32, _become: bool) -> Result<Vec<u8>, GuestError> {
        let content = self.file(path).ok_or_else(|| GuestError::NotFound(path.to_owned()))?;
        if content.len() > max_size as usize {
            return Err(GuestError::LimitExceeded(format!("{path} is larger than {max_size} bytes")));
        }
        Ok(content)
    }

    fn write_file(
        &self,
        path: &str,
        content: &[Content],
        _mode: u32,
        _become: bool,
    ) -> Result<(), GuestError> {
        let bytes = |part: &Content| match part {
            Content::Bytes(bytes) => bytes.clone(),
            Content::Secret(name) => format!("<secret {name}>").into_bytes(),
        };
        self.add_file(path, content.iter().flat_map(bytes).collect::<Vec<u8>>());
        Ok(())
    }

    fn open_file(&self, path: &str, _become: bool) -> Result<Box<dyn Pieces + '_>, GuestError> {
        let content = self.file(path).ok_or_else(|| GuestError::NotFound(path.to_owned()))?;
        Ok(Box::new(InPieces::of(content)))
    }

    fn create_file(
        &self,
        path: &str,
        mode: u32,
        r#become: bool,
    ) -> Result<Box<dyn Writing + '_>, GuestError> {
        let path = path.to_owned();
        Ok(Box::new(Parts::new(move |parts| self.write_file(&path, parts, mode, r#become))))
    }

    fn save_artifact(&self, name: &str, content: &[u8]) -> Result<(), GuestError> {
        self.artifacts.borrow_mut().push((name.to_owned(), content.to_vec()));
        Ok(())
    }

    fn save_file(&self, name: &str, path: &str, _become: bool) -> Result<(), GuestError> {
        let content = self.file(path).ok_or_else(|| GuestError::NotFound(path.to_owned()))?;
        self.save_artifact(name, &content)
    }
}

/// What is left of a command's events.
pub(super) struct Events {
    pieces: RefCell<VecDeque<Event>>,
    exit: Exit,
}

impl Events {
    pub(super) fn of(output: CommandOutput) -> Self {
        let pieces = [Event::Stdout(output.stdout), Event::Stderr(output.stderr)];
        let has_bytes =
            |event: &Event| matches!(event, Event::Stdout(bytes) | Event::Stderr(bytes) if !bytes.is_empty());
        Self { pieces: RefCell::new(pieces.into_iter().filter(has_bytes).collect()), exit: output.exit }
    }
}

impl Running for Events {
    fn next(&self) -> Result<Event, GuestError> {
        Ok(self.pieces.borrow_mut().pop_front().unwrap_or_else(|| Event::Exited(self.exit.clone())))
    }
}

/// Whether arguments match a pattern, in which `…` stands for any number of them.
fn matches(pattern: &[String], argv: &[String]) -> bool {
    match pattern.split_first() {
        None => argv.is_empty(),
        Some((first, rest)) if first == "…" => {
            (0..=argv.len()).any(|skipped| matches(rest, &argv[skipped..]))
        }
        Some((first, rest)) => {
            argv.split_first().is_some_and(|(argument, others)| first == argument && matches(rest, others))
        }
    }
}
