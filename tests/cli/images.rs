//! `farmhand image`: no hypervisor is needed for it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
};

/// A server that answers each request with what `content` holds at that time. Gives its address and the requests' first lines.
fn serve(content: Arc<Mutex<Vec<u8>>>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&requests);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                head.extend(byte);
            }
            let line = String::from_utf8(head).unwrap().lines().next().unwrap().to_owned();
            seen.lock().unwrap().push(line);
            let content = content.lock().unwrap().clone();
            let length = content.len();
            let _ =
                write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
            let _ = stream.write_all(&content);
        }
    });
    (address, requests)
}

struct Farm {
    folder: tempfile::TempDir,
}

impl Farm {
    fn new(uri: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "farm.yaml",
            "project: { id: test }\npermutations: { targets: [amd64], platforms: [debian] }\n",
        );
        write(
            "setup_vm/platforms/debian.yaml",
            &format!("vm:\n  metadata: {{ name: debian }}\n  disks: [{{ src: \"{uri}\" }}]\n"),
        );
        Self { folder }
    }

    fn run(&self, arguments: &[&str], proxy: Option<&str>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farmhand"));
        command
            .args(["--connect", "test:///never-reached"])
            .args(arguments)
            .current_dir(self.folder.path())
            .env("FARMHAND_HOME", self.folder.path().join("home"))
            .env("NO_COLOR", "1")
            .env_remove("http_proxy")
            .env_remove("no_proxy");
        if let Some(proxy) = proxy {
            command.env("http_proxy", proxy);
        }
        command.output().unwrap()
    }

    #[track_caller]
    fn prints(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments, None);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn lock(&self) -> String {
        fs::read_to_string(self.folder.path().join("farmhand.lock")).unwrap()
    }
}

#[test]
fn image_without_a_checksum_is_pinned_and_its_change_must_be_accepted() {
    let content = Arc::new(Mutex::new(vec![1; 1024]));
    let (address, requests) = serve(Arc::clone(&content));
    let uri = format!("http://{address}/disk.raw");
    let farm = Farm::new(&uri);
    let first = "5a648d8015900d89664e00e125df179636301a2d8fa191c1aa2bd9358ea53a69";
    insta::assert_snapshot!("image_pull", farm.prints(&["image", "pull"]));
    assert!(farm.lock().contains(&uri) && farm.lock().contains(first), "{}", farm.lock());
    farm.prints(&["image", "pull"]);
    assert_eq!(requests.lock().unwrap().len(), 1, "what is there is not fetched again");
    let listed = farm.prints(&["image", "list"]).replace(&address, "ADDRESS");
    insta::assert_snapshot!("image_list", listed);

    // Somebody else who shares the farm, or the same one later.
    assert!(farm.prints(&["image", "prune", "--dry-run"]).ends_with("1 file would be deleted, 0.0 MB\n"));
    assert!(farm.prints(&["image", "prune"]).ends_with("1 file deleted, 0.0 MB\n"));
    content.lock().unwrap()[0] = 2;
    let refused = farm.run(&["image", "pull"], None);
    assert_eq!(refused.status.code(), Some(1));
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(message.contains(first) && message.contains("farmhand image pull --accept"), "{message}");
    assert!(farm.lock().contains(first));
    assert_eq!(farm.prints(&["image", "list", "--json"]), "[]\n", "nothing of it was kept");

    farm.prints(&["image", "pull", "--accept"]);
    assert!(!farm.lock().contains(first));
    farm.prints(&["image", "pull"]);
}

#[test]
fn downloads_go_through_the_proxy_that_the_environment_names() {
    let (proxy, requests) = serve(Arc::new(Mutex::new(vec![1; 1024])));
    let farm = Farm::new("http://images.invalid/disk.raw");
    let output = farm.run(&["image", "pull"], Some(&format!("http://{proxy}")));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(*requests.lock().unwrap(), ["GET http://images.invalid/disk.raw HTTP/1.1"]);
    assert!(Path::new(&farm.folder.path().join("farmhand.lock")).exists());
}
