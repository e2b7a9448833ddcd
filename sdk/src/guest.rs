use std::{fmt, time::Duration};

use crate::{
    Content, Exit, Facts, Failure, FileReader, FileWriter, GuestError, Pieces, Writing,
    bindings::farmhand::phase::guest as wit,
};

/// A command as the host takes it.
pub type Command = wit::Command;

/// What carries out calls: the host's guest, a [script](crate::testing::Script) or a
/// [recording](crate::testing::Recording).
pub trait Backend {
    /// What is known of the guest's operating system.
    fn facts(&self) -> Result<Facts, GuestError>;
    /// Runs a command to its end.
    fn exec(&self, command: &Command) -> Result<CommandOutput, GuestError>;
    /// Starts a command.
    fn start(&self, command: &Command) -> Result<Box<dyn Running>, GuestError>;
    /// Reads a file of at most `max_size` bytes.
    fn read_file(&self, path: &str, max_size: u32, r#become: bool) -> Result<Vec<u8>, GuestError>;
    /// Replaces a file's content in one step.
    fn write_file(
        &self,
        path: &str,
        content: &[Content],
        mode: u32,
        r#become: bool,
    ) -> Result<(), GuestError>;
    /// Opens a file to be read piece by piece.
    fn open_file(&self, path: &str, r#become: bool) -> Result<Box<dyn Pieces + '_>, GuestError>;
    /// Begins to write a file piece by piece.
    fn create_file(&self, path: &str, mode: u32, r#become: bool)
    -> Result<Box<dyn Writing + '_>, GuestError>;
    /// Keeps bytes in the run's folder.
    fn save_artifact(&self, name: &str, content: &[u8]) -> Result<(), GuestError>;
    /// Keeps a file of the guest's in the run's folder.
    fn save_file(&self, name: &str, path: &str, r#become: bool) -> Result<(), GuestError>;
}

/// A command that runs. Dropped before its end, it is ended.
pub trait Running {
    /// Waits for what comes next.
    fn next(&self) -> Result<Event, GuestError>;
}

/// What comes from a command that runs.
pub type Event = wit::Event;

/// The machine that the module works on, for the time of one call.
///
/// Commands and files are reached as root when the step says `become: true`, else as the login user.
pub struct Guest<'a> {
    backend: &'a dyn Backend,
    r#become: bool,
}

impl<'a> Guest<'a> {
    /// A guest on top of a backend. Only tests need it.
    pub fn new(backend: &'a dyn Backend, r#become: bool) -> Self {
        Self { backend, r#become }
    }

    /// What is known of the guest's operating system. Needs the capability `facts`.
    pub fn facts(&self) -> Result<Facts, GuestError> {
        self.backend.facts()
    }

    /// Runs a program with arguments (no shell is involved) to its end. Fails when its exit status is not 0.
    pub fn run(&self, argv: impl IntoIterator<Item = impl Into<String>>) -> Result<CommandOutput, Failure> {
        self.command(argv).run()
    }

    /// Runs a program that only looks, and gives what it writes to standard output, without blanks at its ends. Fails when
    /// its exit status is not 0. `farmhand plan --deep` answers it.
    pub fn read(&self, argv: impl IntoIterator<Item = impl Into<String>>) -> Result<String, Failure> {
        Ok(self.command(argv).read_only().run()?.text().trim().to_owned())
    }

    /// Whether a program that only looks exits with status 0.
    pub fn check(&self, argv: impl IntoIterator<Item = impl Into<String>>) -> Result<bool, Failure> {
        Ok(self.command(argv).read_only().any_status().run()?.success())
    }

    /// Prepares a command, for more than [`run`](Self::run) offers.
    pub fn command(&self, argv: impl IntoIterator<Item = impl Into<String>>) -> CommandBuilder<'a> {
        CommandBuilder {
            backend: self.backend,
            expected: Some(vec![0]),
            command: Command {
                argv: argv.into_iter().map(Into::into).collect(),
                env: Vec::new(),
                cwd: None,
                stdin: Vec::new(),
                become_: self.r#become,
                timeout: None,
                log_output: false,
                read_only: false,
            },
        }
    }

    /// Reads a file of at most `max_size` bytes. Needs the capability `files` for its path.
    pub fn read_file(&self, path: &str, max_size: u32) -> Result<Vec<u8>, GuestError> {
        self.backend.read_file(path, max_size, self.r#become)
    }

    /// Replaces a file's content in one step, with permission bits `mode` (e.g. `0o644`). Needs the capability `files` for its
    /// path.
    pub fn write_file(&self, path: &str, content: impl Into<Content>, mode: u32) -> Result<(), GuestError> {
        self.write_parts(path, &[content.into()], mode)
    }

    /// The same with a content of several parts, secrets among them.
    pub fn write_parts(&self, path: &str, content: &[Content], mode: u32) -> Result<(), GuestError> {
        self.backend.write_file(path, content, mode, self.r#become)
    }

    /// Opens a file to be read piece by piece, of 1 GiB by default. Needs the capability `files` for its path.
    pub fn open_file(&self, path: &str) -> Result<FileReader<'a>, GuestError> {
        self.backend.open_file(path, self.r#become).map(FileReader::new)
    }

    /// Begins to write a file piece by piece, with permission bits `mode`. It takes the place of the one that is there by
    /// [`FileWriter::finish`]. Needs the capability `files` for its path.
    pub fn create_file(&self, path: &str, mode: u32) -> Result<FileWriter<'a>, GuestError> {
        self.backend.create_file(path, mode, self.r#become).map(FileWriter::new)
    }

    /// Keeps bytes in the run's folder. Needs the capability `artifacts`.
    pub fn save_artifact(&self, name: &str, content: impl AsRef<[u8]>) -> Result<(), GuestError> {
        self.backend.save_artifact(name, content.as_ref())
    }

    /// Keeps a file of the guest's in the run's folder. Needs the capabilities `artifacts`, and `files` for its path.
    pub fn save_file(&self, name: &str, path: &str) -> Result<(), GuestError> {
        self.backend.save_file(name, path, self.r#become)
    }
}

/// A command that is being prepared; [`run`](Self::run) runs it.
#[must_use = "nothing happens before `run`"]
pub struct CommandBuilder<'a> {
    backend: &'a dyn Backend,
    command: Command,
    /// Exit statuses that are not a failure; `None` is any, and any signal.
    expected: Option<Vec<u32>>,
}

impl CommandBuilder<'_> {
    /// Sets an environment variable: to a text, or to a secret.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<Content>) -> Self {
        self.command.env.push(wit::Variable { name: name.into(), value: value.into() });
        self
    }

    /// Sets environment variables.
    pub fn envs(self, variables: impl IntoIterator<Item = (impl Into<String>, impl Into<Content>)>) -> Self {
        variables.into_iter().fold(self, |command, (name, value)| command.env(name, value))
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.command.argv.push(argument.into());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.command.argv.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// What it reads from its standard input; nothing by default. Called again, it adds to that.
    pub fn stdin(mut self, content: impl Into<Content>) -> Self {
        self.command.stdin.push(content.into());
        self
    }

    /// The folder it runs in; the login user's home by default.
    pub fn cwd(mut self, folder: impl Into<String>) -> Self {
        self.command.cwd = Some(folder.into());
        self
    }

    /// Runs it as root whatever the step says. Needs the capability `become`.
    pub fn as_root(mut self) -> Self {
        self.command.become_ = true;
        self
    }

    /// Runs it as the login user whatever the step says.
    pub fn as_login_user(mut self) -> Self {
        self.command.become_ = false;
        self
    }

    /// After how long it is ended, in whole seconds (rounded up); the step's own time-out by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        self.command.timeout = Some(u32::try_from(seconds).unwrap_or(u32::MAX));
        self
    }

    /// Shows its output to the operator line by line as it comes.
    pub fn logged(mut self) -> Self {
        self.command.log_output = true;
        self
    }

    /// Says that it only looks and changes nothing: `farmhand plan --deep` answers it, all others are held back.
    pub fn read_only(mut self) -> Self {
        self.command.read_only = true;
        self
    }

    /// Takes these exit statuses for success instead of 0 alone.
    pub fn expect_status(mut self, statuses: impl IntoIterator<Item = u32>) -> Self {
        self.expected = Some(statuses.into_iter().collect());
        self
    }

    /// Takes any end for success: the caller looks at [`CommandOutput::exit`].
    pub fn any_status(mut self) -> Self {
        self.expected = None;
        self
    }

    /// Runs it to its end. Fails when it ends otherwise than it should; the text says how, and the last lines that it wrote.
    pub fn run(self) -> Result<CommandOutput, Failure> {
        let output = self.backend.exec(&self.command)?;
        let as_it_should = match (&self.expected, &output.exit) {
            (None, _) => true,
            (Some(statuses), Exit::Status(status)) => statuses.contains(status),
            (Some(_), Exit::Signal(_)) => false,
        };
        if as_it_should { Ok(output) } else { Err(Failure::CommandFailed(explain(&self.command, &output))) }
    }

    /// Starts it and does not wait. What comes from it is given as it comes.
    pub fn start(self) -> Result<Process, GuestError> {
        Ok(Process(self.backend.start(&self.command)?))
    }
}

/// A command that runs while the module goes on. Dropped before its end, it is ended in the guest.
pub struct Process(Box<dyn Running>);

impl Process {
    /// Waits for what comes next: a piece of output, or the end, after which nothing comes.
    pub fn next_event(&self) -> Result<Event, GuestError> {
        self.0.next()
    }
}

/// The events up to the end, which is the last one.
impl IntoIterator for Process {
    type Item = Result<Event, GuestError>;
    type IntoIter = Events;

    fn into_iter(self) -> Events {
        Events(Some(self))
    }
}

/// The events of a command.
pub struct Events(Option<Process>);

impl Iterator for Events {
    type Item = Result<Event, GuestError>;

    fn next(&mut self) -> Option<Self::Item> {
        let event = self.0.as_ref()?.next_event();
        if !matches!(event, Ok(Event::Stdout(_) | Event::Stderr(_))) {
            self.0 = None;
        }
        Some(event)
    }
}

/// What a command left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutput {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output: the first part up to the host's limit (1 MiB by default).
    pub stdout: Vec<u8>,
    /// Its standard error, bounded alike.
    pub stderr: Vec<u8>,
    /// Whether output was left out because of that limit.
    pub truncated: bool,
}

impl CommandOutput {
    /// Whether it exited with status 0.
    pub fn success(&self) -> bool {
        self.exit == Exit::Status(0)
    }

    /// Its standard output as text. Bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The last few lines that it wrote to standard error (to standard output if there are none), for a failure's text.
    pub fn last_lines(&self) -> Vec<String> {
        // Many programs complain on standard output.
        let words = if self.stderr.trim_ascii().is_empty() { &self.stdout } else { &self.stderr };
        let words = String::from_utf8_lossy(words);
        let lines: Vec<&str> = words.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        last.iter().map(|line| line.chars().take(LINE_LENGTH).collect()).collect()
    }
}

impl From<wit::Output> for CommandOutput {
    fn from(output: wit::Output) -> Self {
        Self { exit: output.exit, stdout: output.stdout, stderr: output.stderr, truncated: output.truncated }
    }
}

impl From<GuestError> for Failure {
    fn from(error: GuestError) -> Self {
        Self::Guest(error)
    }
}

/// So many of the last lines go into a failure, each cut at so many characters.
const LAST_LINES: usize = 8;
const LINE_LENGTH: usize = 300;

/// What failed, how, and its last words.
fn explain(command: &Command, output: &CommandOutput) -> String {
    let ended = match &output.exit {
        Exit::Status(status) => format!("exited with status {status}"),
        Exit::Signal(signal) => format!("was ended by signal {signal}"),
    };
    let mut text = format!("`{}` {ended}", Argv(&command.argv));
    for line in output.last_lines() {
        text.push('\n');
        text.push_str(&line);
    }
    text
}

/// Arguments as one would type them; long ones are cut.
struct Argv<'a>(&'a [String]);

impl fmt::Display for Argv<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:+,@%~".contains(c);
        for (index, argument) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { " " };
            if index == 32 {
                return write!(f, "{separator}…");
            }
            let mut shown: String = argument.chars().take(LINE_LENGTH).collect();
            if shown.len() < argument.len() {
                shown.push('…');
            }
            if !argument.is_empty() && argument.chars().all(plain) {
                write!(f, "{separator}{shown}")?;
            } else {
                write!(f, "{separator}'{}'", shown.replace('\'', r"'\''"))?;
            }
        }
        Ok(())
    }
}
