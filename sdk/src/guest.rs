use std::{fmt, time::Duration};

use crate::{Exit, Facts, Failure, GuestError, bindings::farmhand::phase::guest as wit};

/// A command as the host takes it.
pub type Command = wit::Command;

/// What carries out calls: the host's guest, or a [script](crate::testing::Script).
pub trait Backend {
    /// What is known of the guest's operating system.
    fn facts(&self) -> Facts;
    /// Runs a command to its end.
    fn exec(&self, command: &Command) -> Result<CommandOutput, GuestError>;
    /// Reads a file of at most `max_size` bytes.
    fn read_file(&self, path: &str, max_size: u32, r#become: bool) -> Result<Vec<u8>, GuestError>;
    /// Replaces a file's content in one step.
    fn write_file(&self, path: &str, content: &[u8], mode: u32, r#become: bool) -> Result<(), GuestError>;
}

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

    /// What is known of the guest's operating system.
    pub fn facts(&self) -> Facts {
        self.backend.facts()
    }

    /// Runs a program with arguments (no shell is involved) to its end. Fails when its exit status is not 0.
    pub fn run(&self, argv: impl IntoIterator<Item = impl Into<String>>) -> Result<CommandOutput, Failure> {
        self.command(argv).run()
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
            },
        }
    }

    /// Reads a file of at most `max_size` bytes.
    pub fn read_file(&self, path: &str, max_size: u32) -> Result<Vec<u8>, GuestError> {
        self.backend.read_file(path, max_size, self.r#become)
    }

    /// Replaces a file's content in one step, with permission bits `mode` (e.g. `0o644`).
    pub fn write_file(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<(), GuestError> {
        self.backend.write_file(path, content.as_ref(), mode, self.r#become)
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
    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.command.env.push((name.into(), value.into()));
        self
    }

    /// Sets environment variables.
    pub fn envs(
        mut self,
        variables: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Self {
        self.command.env.extend(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
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

    /// What it reads from its standard input; nothing by default.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.command.stdin = bytes.into();
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
