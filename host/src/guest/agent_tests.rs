//! Against a real guest agent, on this host.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    sync::Mutex,
};

use super::*;
use crate::{
    base::{Become, BecomeMethod},
    guest::{
        capture,
        contract::{Subject, contract_tests},
    },
};

/// `qemu-ga` of this host, on a socket of its own.
struct Agent {
    process: Child,
    folder: tempfile::TempDir,
    /// Whose files are to be removed in the end.
    link: Option<Arc<Link>>,
}

impl Agent {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).into_os_string();
        let process = std::process::Command::new("qemu-ga")
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["--method", "unix-listen", "--path"])
            .arg(path("socket"))
            .arg("--statedir")
            .arg(folder.path())
            .arg("--pidfile")
            .arg(path("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("qemu-ga is installed by tests/testbed/install-packages.sh");
        Self { process, folder, link: None }
    }

    async fn connect(&self) -> Arc<dyn AgentChannel> {
        let socket = self.folder.path().join("socket");
        for _ in 0..500 {
            if let Ok(stream) = UnixStream::connect(&socket).await {
                return Arc::new(Socket(Arc::new(Mutex::new(BufReader::new(stream)))));
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("the guest agent does not listen");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(folder) = self.link.as_ref().and_then(|link| link.folder.get()) {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

struct Socket(Arc<Mutex<BufReader<UnixStream>>>);

#[async_trait]
impl AgentChannel for Socket {
    async fn command(&self, command: &Value) -> Result<Value, String> {
        let (stream, command) = (Arc::clone(&self.0), command.clone());
        // As with libvirt, a command that was sent is answered, also when nobody waits any more.
        let exchange = async move {
            let mut stream = stream.lock().await;
            stream.write_all(format!("{command}\n").as_bytes()).await.map_err(|error| error.to_string())?;
            let mut line = String::new();
            stream.read_line(&mut line).await.map_err(|error| error.to_string())?;
            serde_json::from_str(&line).map_err(|error| error.to_string())
        };
        tokio::spawn(exchange).await.map_err(|error| error.to_string())?
    }
}

fn login(user: &str) -> Login {
    let r#become = Become { method: BecomeMethod::Sudo, user: "root".into(), password: None };
    Login { user: user.into(), credentials: vec![], r#become }
}

/// The agent runs as the tests' own user, which is taken for root: nobody else is to be become.
async fn guest(user: &str) -> (AgentGuest, Agent) {
    let mut agent = Agent::start();
    let guest = AgentGuest::new(agent.connect().await, login(user));
    agent.link = Some(Arc::clone(&guest.link));
    (guest, agent)
}

async fn subject() -> Subject {
    let (guest, agent) = guest("root").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap().to_owned();
    Subject { guest: Arc::new(guest), folder: path, _keep: Box::new((agent, folder)) }
}

contract_tests!(subject());

#[tokio::test]
async fn output_comes_while_the_command_runs() {
    let (guest, _agent) = guest("root").await;
    let (sender, mut came) = tokio::sync::mpsc::unbounded_channel();
    let command = Command::new(["sh", "-c", "echo first; sleep 30"]);
    let mut output = move |_: Stream, chunk: &[u8]| drop(sender.send(chunk.to_vec()));
    let running = guest.exec(&command, &mut output);
    tokio::select! {
        ended = running => panic!("{ended:?}"),
        first = came.recv() => assert_eq!(first.unwrap(), b"first\n"),
    }
}

#[tokio::test]
async fn the_folder_of_its_files_is_private_and_goes_in_the_end() {
    let (guest, _agent) = guest("root").await;
    for _ in 0..3 {
        capture(&guest, &Command::new(["true"]), 0).await.unwrap();
    }
    let folder = guest.link.folder.get().unwrap().clone();
    let kept = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(kept, 2, "only those of the last command");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    guest.close().await;
    assert!(!std::path::Path::new(&folder).exists());
}

#[tokio::test]
async fn commands_run_as_the_login_user_unless_they_become_another() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (guest, _agent) = guest("nobody").await;
    let id = |r#become| {
        let guest = &guest;
        async move {
            let command = Command { r#become, ..Command::new(["sh", "-c", "id -un; echo $USER; exit 3"]) };
            let output = capture(guest, &command, 1 << 10).await.unwrap();
            assert_eq!(output.exit, Exit::Status(3));
            String::from_utf8(output.stdout).unwrap()
        }
    };
    assert_eq!(id(false).await, "nobody\nnobody\n");
    assert_eq!(id(true).await, "root\nroot\n");
    let killed = capture(&guest, &Command::new(["sh", "-c", "kill -TERM $$"]), 0).await.unwrap();
    assert_eq!(killed.exit, Exit::Signal("TERM".into()));
}

#[tokio::test]
async fn agent_that_goes_away_is_a_lost_connection() {
    let (guest, mut agent) = guest("root").await;
    capture(&guest, &Command::new(["true"]), 0).await.unwrap();
    agent.process.kill().unwrap();
    let lost = capture(&guest, &Command::new(["true"]), 0).await;
    assert!(matches!(lost, Err(GuestError::Disconnected(_))), "{lost:?}");
}
