// Every call of the contract that needs a grant, by name (as the settings have it). For modules that are built against
// released versions of the contract: each brings its own bindings along, with `Guest` and `types` in scope.

fn command(become_: bool) -> guest::Command {
    guest::Command {
        argv: vec!["true".to_owned()],
        env: Vec::new(),
        cwd: None,
        stdin: Vec::new(),
        become_,
        timeout: None,
        log_output: false,
        read_only: false,
    }
}

fn secret() -> guest::Content {
    guest::Content::Secret("TOKEN".to_owned())
}

fn bytes() -> Vec<guest::Content> {
    vec![guest::Content::Bytes(b"x".to_vec())]
}

fn call(name: &str, guest: &guest::Guest_) -> Result<(), types::GuestError> {
    let env = || vec![guest::Variable { name: "T".to_owned(), value: secret() }];
    match name {
        "exec" => guest.exec(&command(false)).map(drop),
        "exec as root" => guest.exec(&command(true)).map(drop),
        "exec with a secret in its environment" => {
            guest.exec(&guest::Command { env: env(), ..command(false) }).map(drop)
        }
        "exec with a secret as its input" => {
            guest.exec(&guest::Command { stdin: vec![secret()], ..command(false) }).map(drop)
        }
        "start" => guest.start(&command(false)).map(drop),
        "start as root" => guest.start(&command(true)).map(drop),
        "read" => guest.read_file("/etc/motd", 100, false).map(drop),
        "read as root" => guest.read_file("/etc/motd", 100, true).map(drop),
        "write" => guest.write_file("/etc/motd", &bytes(), 0o600, false),
        "write as root" => guest.write_file("/etc/motd", &bytes(), 0o600, true),
        "write a secret" => guest.write_file("/etc/motd", &[secret()], 0o600, false),
        "keep bytes" => guest.save_artifact("a.txt", b"x"),
        "keep a file" => guest.save_file("a.txt", "/etc/motd", false),
        "facts" => guest.facts().map(drop),
        other => Err(types::GuestError::Other(format!("there is no call {other}"))),
    }
}
