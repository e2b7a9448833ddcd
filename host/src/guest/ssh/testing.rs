//! Real SSH servers and users for the tests: Debian's `openssh-server` and `sudo` must be installed. What is missing fails the
//! test that needs it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use uuid::Uuid;

use super::SshConnector;
use crate::{
    base::{Become, BecomeMethod, Credential, Login, Secret},
    guest::{Connection, Connector as _, Endpoint, GuestError, keypair::ensure_login_key},
};

/// Whether the tests run as root, who alone can make users.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a program that must succeed, and gives its output.
pub(super) fn run(program: &str, arguments: &[&str], stdin: &str) -> String {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child =
        child.unwrap_or_else(|error| panic!("{program} must be installed for this test: {error}"));
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The user who runs the tests.
pub(super) fn current_user() -> String {
    run("id", &["-un"], "").trim().to_owned()
}

/// An SSH server on a free port of loopback, with keys of its own.
pub(super) struct Sshd {
    child: Child,
    folder: tempfile::TempDir,
    /// Its port.
    pub(super) port: u16,
}

impl Sshd {
    /// Starts one that takes the key [`Sshd::key`] of any user.
    pub(super) fn start() -> Self {
        Self::with("UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n")
    }

    /// Starts one with these lines of sshd_config(5) instead of the ones above.
    pub(super) fn with(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Other users read authorized_keys there.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        ensure_login_key(path("host_ed25519").as_str().into()).unwrap();
        run("ssh-keygen", &["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", &path("host_rsa")], "");
        let login = ensure_login_key(path("login").as_str().into()).unwrap();
        fs::write(path("authorized_keys"), login.to_string()).unwrap();
        if is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\n\
             PermitRootLogin yes\nMaxStartups 100\nPrintMotd no\n{config}",
            path("host_ed25519"),
            path("host_rsa"),
            path("authorized_keys")
        );
        fs::write(path("sshd_config"), text).unwrap();
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f", &path("sshd_config")])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child =
            child.unwrap_or_else(|error| panic!("openssh-server must be installed for this test: {error}"));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        loop {
            let Some(Ok(line)) = lines.next() else { panic!("sshd did not start: {said}") };
            if line.contains("Server listening") {
                break;
            }
            said.push_str(&line);
        }
        // What it says further must be read, or it blocks.
        thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { child, folder, port }
    }

    pub(super) fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.folder.path()).unwrap().join(name)
    }

    /// The private key that it takes.
    pub(super) fn key(&self) -> Utf8PathBuf {
        self.path("login")
    }

    /// One of its host keys: `ed25519` or `rsa`.
    pub(super) fn host_key(&self, kind: &str) -> String {
        let line = run("ssh-keygen", &["-y", "-f", self.path(&format!("host_{kind}")).as_str()], "");
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint { host: "127.0.0.1".into(), port: self.port, jump: None, host_key: None }
    }

    /// The login of a user by key, who becomes `r#become`.
    pub(super) fn key_login(&self, user: &str, r#become: Become) -> Login {
        Login { user: user.into(), credentials: vec![Credential::Key(self.key())], r#become }
    }

    /// A connection by key as the user who runs the tests.
    pub(super) async fn connect(&self) -> Connection {
        self.connect_as(&self.key_login(&current_user(), becoming(BecomeMethod::Sudo, "root", None)))
            .await
            .unwrap()
    }

    pub(super) async fn connect_as(&self, login: &Login) -> Result<Connection, GuestError> {
        SshConnector.connect(&self.endpoint(), login, Duration::from_secs(30)).await
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn becoming(method: BecomeMethod, user: &str, password: Option<&str>) -> Become {
    Become { method, user: user.into(), password: password.map(Secret::new) }
}

/// A user of this system for the time of a test. Only root can make one.
pub(super) struct TestUser {
    pub(super) name: String,
    pub(super) password: String,
    _lock: fs::File,
}

impl TestUser {
    pub(super) fn new() -> Self {
        // useradd, run twice at once, fails.
        let lock = fs::File::create("/tmp/farmhand-test-users.lock").unwrap();
        lock.lock().unwrap();
        let name = format!("fh-test-{}", &Uuid::new_v4().simple().to_string()[..8]);
        let password = Uuid::new_v4().to_string();
        run("useradd", &["-m", "-s", "/bin/bash", &name], "");
        run("chpasswd", &[], &format!("{name}:{password}\n"));
        lock.unlock().unwrap();
        Self { name, password, _lock: lock }
    }

    pub(super) fn home(&self) -> String {
        format!("/home/{}", self.name)
    }

    /// Gives it a rule of sudoers(5).
    pub(super) fn allow_sudo(&self, rule: &str) {
        let path = self.sudoers();
        fs::write(&path, format!("{} {rule}\n", self.name)).unwrap();
        run("visudo", &["-c", "-q", "-f", &path], "");
    }

    fn sudoers(&self) -> String {
        format!("/etc/sudoers.d/{}", self.name)
    }
}

impl Drop for TestUser {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.sudoers());
        let _ = self._lock.lock();
        let quiet = |program: &str, arguments: &[&str]| {
            let _ =
                Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        };
        quiet("pkill", &["-KILL", "-u", &self.name]);
        quiet("userdel", &["-f", "-r", &self.name]);
    }
}

/// The processes of this system whose arguments hold `text`.
pub(super) fn processes(text: &str) -> usize {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let own = std::process::id().to_string();
    pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()) && *pid != own)
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(text))
        })
        .count()
}
