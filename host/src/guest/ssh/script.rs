//! What is sent to the guest for a command: the request that opens it, and what goes to its standard input.
//!
//! The request is the same for every command but for a random token: it starts `/bin/sh`, as another user if need be, and has
//! it print a marker, read one line from standard input and evaluate it. So
//! - no environment variable, and no password, is ever in a process's arguments, where other users of the guest see it;
//! - what the login shell's start files, `su`, `sudo` and PAM print comes before the marker and is told apart;
//! - the login shell may be another than a POSIX one;
//! - the marker brings the process group, by which the command can be ended.
//!
//! The line then becomes the command by `exec`. `read` takes one byte at a time from a pipe, so what follows the line is the
//! command's standard input.

use uuid::Uuid;

use crate::{
    base::{Become, BecomeMethod, Login, Secret},
    guest::{Command, GuestError, files::as_path},
};

/// The longest line, in bytes, that is sent for a command.
const LONGEST: usize = 1 << 20;

/// A command made ready to be sent.
pub(super) struct Invocation {
    /// The text of the SSH request `exec`.
    pub(super) request: String,
    /// How the login user becomes another one; `None` when the command runs as the login user.
    pub(super) r#become: Option<Become>,
    /// What the marker on both streams is.
    pub(super) marker: String,
    /// What `sudo` is told to ask for the password with.
    pub(super) prompt: String,
    /// The line that the shell evaluates, with its line end.
    line: Secret,
}

impl Invocation {
    /// Makes `command` ready. Fails with [`GuestError::Invalid`] when it can't be sent.
    pub(super) fn new(command: &Command, login: &Login) -> Result<Self, GuestError> {
        let r#become = Some(&login.r#become).filter(|other| command.r#become && other.user != login.user);
        let (first, second) = (token(), token());
        let marker = format!("{first}{second}");
        let prompt = format!("{}:", token());
        let line = Secret::new(format!("{marker}{}\n", line(command, login)?));
        // In the arguments the marker has quotes inside: a refusal that cites them is not taken for the marker itself.
        let text = quote(&bootstrap(&format!("{first}\"{second}\"")));
        let request = match r#become {
            None => format!("exec /bin/sh -c {text}"),
            Some(other) => format!("exec {}", become_command(other, &text, &prompt)?),
        };
        Ok(Self { request, r#become: r#become.cloned(), marker, prompt, line })
    }

    /// The line that the shell evaluates.
    pub(super) fn line(&self) -> &str {
        self.line.reveal()
    }

    /// What the program that changes the user reads first. `su` without a password gets an empty line, so that it refuses at
    /// once where it wants one; `sudo` then is told not to ask (`-n`). The shell passes over a line that nobody has read.
    pub(super) fn password_line(&self) -> Option<Secret> {
        let other = self.r#become.as_ref()?;
        match (&other.password, other.method) {
            (Some(password), _) => Some(Secret::new(format!("{}\n", password.reveal()))),
            (None, BecomeMethod::Su) => Some(Secret::new("\n")),
            (None, BecomeMethod::Sudo) => None,
        }
    }
}

/// 122 random bits.
fn token() -> String {
    Uuid::new_v4().simple().to_string()
}

/// What the shell does first. The fifth field of `/proc/PID/stat` is the process group (proc(5)). No `'`, `!` and line end:
/// the whole stands between single quotes, and other shells than POSIX ones read those in their own way.
fn bootstrap(marker: &str) -> String {
    format!(
        "{{ read -r fh_a fh_a fh_a fh_a fh_b fh_a </proc/$$/stat; }} 2>/dev/null; \
         echo {marker}; echo {marker} ${{fh_b:-$$}} >&2; \
         while IFS= read -r fh_a; do case $fh_a in {marker}*) eval \"${{fh_a#{marker}}}\"; exit 127;; esac; done; exit 127"
    )
}

/// The program that has another user's shell evaluate `text`.
fn become_command(other: &Become, text: &str, prompt: &str) -> Result<String, GuestError> {
    if other.user.is_empty() || other.user.starts_with('-') || other.user.contains(['\0', '\n', '\r']) {
        return Err(GuestError::Invalid(format!("`{}` is not a user's name", other.user.escape_debug())));
    }
    if other.password.as_ref().is_some_and(|password| password.reveal().contains(['\0', '\n', '\r'])) {
        return Err(GuestError::Invalid(format!(
            "the password for becoming {} holds a line end or a NUL",
            other.user
        )));
    }
    let user = quote(&other.user);
    Ok(match (other.method, &other.password) {
        (BecomeMethod::Su, _) => format!("su -s /bin/sh -c {text} {user}"),
        (BecomeMethod::Sudo, Some(_)) => format!("sudo -S -p {prompt} -u {user} -- /bin/sh -c {text}"),
        (BecomeMethod::Sudo, None) => format!("sudo -n -u {user} -- /bin/sh -c {text}"),
    })
}

/// The line that turns the shell into the command.
fn line(command: &Command, login: &Login) -> Result<String, GuestError> {
    command.check()?;
    let mut line = String::from("fh_b=$(printf \"\\nx\"); fh_b=${fh_b%x}; ");
    if command.r#become && login.r#become.user == "root" {
        // su keeps the login user's PATH, without which root finds no service, no ldconfig.
        line.push_str(
            "case :$PATH: in *:/usr/sbin:*) ;; *) PATH=/usr/local/sbin:/usr/sbin:/sbin:$PATH; export PATH;; esac; ",
        );
    }
    for (name, value) in &command.env {
        line.push_str(&format!("export {name}={}; ", quote_in_line(value)));
    }
    if let Some(cwd) = &command.cwd {
        // As in env(1), 125 says that the command was never run.
        line.push_str(&format!("CDPATH= cd -- {} || exit 125; ", quote_in_line(&as_path(cwd))));
    }
    line.push_str("exec");
    for argument in &command.argv {
        line.push(' ');
        line.push_str(&quote_in_line(argument));
    }
    if line.len() > LONGEST {
        return Err(GuestError::Invalid(format!(
            "a command of {} bytes; the longest is {LONGEST}",
            line.len()
        )));
    }
    Ok(line)
}

/// A word quoted for a POSIX shell.
pub(in crate::guest) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A word quoted for a POSIX shell, without a line end: `fh_b` holds one.
fn quote_in_line(text: &str) -> String {
    quote(text).replace('\n', "'\"$fh_b\"'")
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Output, Stdio},
    };

    use proptest::prelude::*;

    use super::*;

    fn login(method: BecomeMethod, password: Option<&str>) -> Login {
        let r#become = Become { method, user: "root".into(), password: password.map(Secret::new) };
        Login { user: "tester".into(), credentials: vec![], r#become }
    }

    /// What a login shell makes of the request, and the shell of what follows.
    fn run(shell: &[&str], command: &Command) -> Output {
        let invocation = Invocation::new(command, &login(BecomeMethod::Sudo, None)).unwrap();
        let mut child = std::process::Command::new(shell[0])
            .args(&shell[1..])
            .args(["-c", &invocation.request])
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(invocation.line().as_bytes()).unwrap();
        stdin.write_all(&command.stdin).unwrap();
        drop(stdin);
        let mut output = child.wait_with_output().unwrap();
        let after = |marker: &str, bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            text.split_once(marker).unwrap().1.as_bytes().to_vec()
        };
        output.stdout = after(&format!("{}\n", invocation.marker), &output.stdout);
        output.stderr = after(&format!("{} ", invocation.marker), &output.stderr);
        output
    }

    fn arguments() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec(
            prop_oneof![
                "[^\0]{0,20}",
                "['\"\\\\$`!\n\r\t *?~#&|;<>(){}\\[\\]=%-]{0,12}",
                Just("-n".to_owned())
            ],
            0..6,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_argument_variable_and_input_arrives_as_it_is(
            arguments in arguments(), value in "[^\0]{0,20}", stdin in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            // Prints the variable, the arguments, and copies the input.
            let text = "printf '%s\\0' \"$VALUE\" \"$@\"; exec cat";
            let mut argv = vec!["sh".to_owned(), "-c".into(), text.into(), "sh".into()];
            argv.extend(arguments.iter().cloned());
            let command = Command { env: vec![("VALUE".into(), value.clone())], stdin: stdin.clone(), ..Command::new(argv) };
            let mut expected: Vec<u8> = Vec::new();
            for text in [&value].into_iter().chain(&arguments) {
                expected.extend_from_slice(text.as_bytes());
                expected.push(0);
            }
            // The marker cuts `stdout` as text: keep the input out of it.
            let output = run(&["sh"], &Command { stdin: vec![], ..command.clone() });
            prop_assert_eq!(&output.stdout, &expected);
            let bytes: Vec<u8> = stdin.iter().map(|byte| byte & 0x7f).collect();
            let output = run(&["bash"], &Command { stdin: bytes.clone(), ..command });
            expected.extend(bytes);
            prop_assert_eq!(&output.stdout, &expected);
        }
    }

    #[test]
    fn works_in_every_shell_that_is_there() {
        let command = Command {
            cwd: Some("/usr".into()),
            ..Command::new(["sh", "-c", "pwd; echo \"$1\"; exit 7", "-", "a\nb'"])
        };
        let shells: [&[&str]; 3] = [&["dash"], &["bash"], &["busybox", "sh"]];
        for shell in shells {
            let output = run(shell, &command);
            assert_eq!(
                (output.stdout.as_slice(), output.status.code()),
                (&b"/usr\na\nb'\n"[..], Some(7)),
                "{shell:?}"
            );
        }
    }

    #[test]
    fn a_folder_that_is_missing_ends_with_125_and_a_program_with_127() {
        let output = run(&["sh"], &Command { cwd: Some("/no/such".into()), ..Command::new(["true"]) });
        assert_eq!(output.status.code(), Some(125));
        assert!(String::from_utf8(output.stderr).unwrap().contains("/no/such"));
        assert_eq!(run(&["sh"], &Command::new(["no-such-program"])).status.code(), Some(127));
    }

    #[test]
    fn secrets_and_arguments_are_not_in_the_request() {
        let command = Command {
            env: vec![("TOKEN".into(), "s3cret".into())],
            r#become: true,
            ..Command::new(["echo", "s3cret"])
        };
        for method in [BecomeMethod::Su, BecomeMethod::Sudo] {
            let invocation = Invocation::new(&command, &login(method, Some("passw0rd"))).unwrap();
            assert!(!invocation.request.contains("s3cret") && !invocation.request.contains("passw0rd"));
            assert!(!invocation.request.contains(&invocation.marker), "a refusal may cite the request");
            assert!(!invocation.request.contains(['\n', '!']));
            assert_eq!(invocation.password_line().unwrap().reveal(), "passw0rd\n");
        }
    }

    #[test]
    fn tokens_differ() {
        let make = || Invocation::new(&Command::new(["true"]), &login(BecomeMethod::Su, None)).unwrap();
        assert_ne!(make().marker, make().marker);
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        let command = Command::new(["true"]);
        for bad in [
            Command::default(),
            Command::new([""]),
            Command::new(["-x"]),
            Command::new(["a\0b"]),
            Command::new(["true".to_owned(), "x".repeat(LONGEST)]),
            Command { cwd: Some("\0".into()), ..command.clone() },
            Command { env: vec![("A".into(), "\0".into())], ..command.clone() },
            Command { env: vec![("A B".into(), String::new())], ..command.clone() },
            Command { env: vec![("1A".into(), String::new())], ..command.clone() },
            Command { env: vec![(String::new(), String::new())], ..command.clone() },
            Command { env: vec![("A;reboot;B".into(), String::new())], ..command.clone() },
        ] {
            let result = Invocation::new(&bad, &login(BecomeMethod::Su, None));
            assert!(matches!(result, Err(GuestError::Invalid(_))));
        }
        let command = Command { r#become: true, ..command };
        for (user, password) in [("-c", None), ("", None), ("root", Some("a\nb"))] {
            let mut login = login(BecomeMethod::Su, password);
            user.clone_into(&mut login.r#become.user);
            assert!(matches!(Invocation::new(&command, &login), Err(GuestError::Invalid(_))));
        }
    }
}
