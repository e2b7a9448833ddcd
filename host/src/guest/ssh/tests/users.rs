//! Passwords, su and sudo. Only root can make the users that this takes; as another user these tests see to it that what is
//! refused is told as refused.

use super::*;

const PAM: &str = "UsePAM yes\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\n";
const INTERACTIVE: &str = "UsePAM yes\nPasswordAuthentication no\nKbdInteractiveAuthentication yes\n";

fn as_root(command: Command) -> Command {
    Command { r#become: true, ..command }
}

/// Instead of a test that only root can make: becoming root fails, and says so.
async fn refused_without_root() {
    let sshd = Sshd::start();
    let login = sshd.key_login(&current_user(), becoming(BecomeMethod::Su, "root", Some("surely wrong")));
    let connection = sshd.connect_as(&login).await.unwrap();
    let result = capture(&*connection.guest, &as_root(Command::new(["id", "-u"])), 1000).await;
    assert!(matches!(result, Err(GuestError::BecomeRefused { .. })), "{result:?}");
}

#[tokio::test]
async fn password_login_by_either_method_and_refusal_of_a_wrong_one() {
    if !is_root() {
        return refused_without_root().await;
    }
    let user = TestUser::new();
    for (config, method) in [(PAM, "password"), (INTERACTIVE, "keyboard-interactive")] {
        let sshd = Sshd::with(config);
        let login = |password: &str| Login {
            user: user.name.clone(),
            credentials: vec![Credential::Password(Secret::new(password))],
            r#become: becoming(BecomeMethod::Su, "root", None),
        };
        let connection = sshd.connect_as(&login(&user.password)).await.unwrap();
        let output = shell(&*connection.guest, "id -un").await;
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), user.name);
        let result = sshd.connect_as(&login("wrong")).await;
        let Err(GuestError::LoginRefused { tried, user: told, .. }) = result else { panic!() };
        assert!(tried.contains(method), "{tried}");
        assert_eq!(told, user.name);
    }
}

#[tokio::test]
async fn what_start_files_print_is_not_output() {
    if !is_root() {
        return refused_without_root().await;
    }
    let (sshd, user) = (Sshd::start(), TestUser::new());
    // bash reads it for commands that come by SSH.
    fs::write(format!("{}/.bashrc", user.home()), "echo noise; echo noise >&2\n").unwrap();
    let login = sshd.key_login(&user.name, becoming(BecomeMethod::Sudo, "root", None));
    let connection = sshd.connect_as(&login).await.unwrap();
    let output = shell(&*connection.guest, "echo out; echo err >&2").await;
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    // A login shell that lets nobody in says so.
    run("usermod", &["-s", "/usr/sbin/nologin", &user.name], "");
    let connection = sshd.connect_as(&login).await.unwrap();
    let output = shell(&*connection.guest, "echo out").await;
    assert_eq!(output.exit, Exit::Status(1));
    assert!(String::from_utf8(output.stdout).unwrap().contains("not available"));
}

/// What becoming another user promises, whichever the method.
async fn becomes(sshd: &Sshd, login: &Login, other: &str) {
    let connection = sshd.connect_as(login).await.unwrap();
    let guest = &*connection.guest;
    // It is the other user, with the login user's folder; streams, input, arguments and environment are the command's own.
    let stdin: Vec<u8> = (0..=255u8).cycle().take(300_000).collect();
    let text = "id -un >&2; pwd >&2; printf '%s\\n' \"$1\" \"$V\" >&2; cat";
    let command = Command {
        stdin: stdin.clone(),
        env: vec![("V".into(), "a'b\nc".into())],
        ..Command::new(["sh", "-c", text, "sh", "x\ny $z"])
    };
    let output = capture(guest, &as_root(command), 1 << 20).await.unwrap();
    let home = format!("/home/{}", login.user);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("{other}\n{home}\nx\ny $z\na'b\nc\n"));
    assert!(output.stdout == stdin);
    assert_eq!(output.exit, Exit::Status(0));
    // Without `become` it is the login user.
    assert_eq!(String::from_utf8(shell(guest, "id -un").await.stdout).unwrap().trim(), login.user);
    // A failing command is no refusal.
    let output = capture(
        guest,
        &as_root(Command::new(["sh", "-c", "echo 'su: Authentication failure' >&2; exit 1"])),
        1000,
    )
    .await
    .unwrap();
    assert_eq!(
        (output.exit, output.stderr.as_slice()),
        (Exit::Status(1), &b"su: Authentication failure\n"[..])
    );
    // No password and no variable is in any process's arguments.
    if let Some(password) = &login.r#become.password {
        let text = "printf %s \"$V\" | grep -alsFf - /proc/[0-9]*/cmdline | wc -l";
        let command =
            Command { env: vec![("V".into(), password.reveal().into())], ..Command::new(["sh", "-c", text]) };
        assert_eq!(capture(guest, &as_root(command), 1000).await.unwrap().stdout, b"0\n");
    }
    // It ends with its time-out, children and all.
    let mark = unique();
    let text = format!("sleep {mark} & sleep {mark}; sleep {mark}");
    let command =
        Command { timeout: Some(Duration::from_secs(5)), ..as_root(Command::new(["sh", "-c", &text])) };
    let result = capture(guest, &command, 0).await;
    assert!(matches!(result, Err(GuestError::TimedOut(_))), "{result:?}");
    gone(&mark).await;
    // Files are the other user's.
    let path = format!("/tmp/farmhand-test-{mark}");
    guest.write_file(&path, b"content", 0o600, true).await.unwrap();
    assert_eq!(guest.read_file(&path, 100, true).await.unwrap(), b"content");
    let result = guest.read_file(&path, 100, false).await;
    assert!(matches!(result, Err(GuestError::File { .. })), "{result:?}");
    let owner = shell(guest, &format!("stat -c '%U %a' {path}")).await.stdout;
    assert_eq!(String::from_utf8(owner).unwrap(), format!("{other} 600\n"));
    fs::remove_file(path).unwrap();
}

async fn refuses(sshd: &Sshd, login: &Login, words: &str) {
    let connection = sshd.connect_as(login).await.unwrap();
    let command = as_root(Command { stdin: b"not a password\n".repeat(10), ..Command::new(["id", "-u"]) });
    let result = capture(&*connection.guest, &command, 1000).await;
    let Err(GuestError::BecomeRefused { message, method, user }) = result else { panic!("{result:?}") };
    assert!(message.contains(words), "{message}");
    assert_eq!((method, &user), (login.r#become.method, &login.r#become.user));
}

#[tokio::test]
async fn su_with_its_password() {
    if !is_root() {
        return refused_without_root().await;
    }
    let (sshd, user, other) = (Sshd::start(), TestUser::new(), TestUser::new());
    run("chmod", &["0755", &user.home()], "");
    let login = |password| sshd.key_login(&user.name, becoming(BecomeMethod::Su, &other.name, password));
    becomes(&sshd, &login(Some(&other.password)), &other.name).await;
    refuses(&sshd, &login(Some("wrong")), "su: Authentication failure").await;
    refuses(&sshd, &login(None), "su: Authentication failure").await;
    let login = sshd.key_login(&user.name, becoming(BecomeMethod::Su, "farmhand-nobody", None));
    refuses(&sshd, &login, "farmhand-nobody").await;
}

#[tokio::test]
async fn su_that_asks_for_no_password_though_one_is_given() {
    if !is_root() {
        return refused_without_root().await;
    }
    let (sshd, user) = (Sshd::start(), TestUser::new());
    // Root needs none; the line must not reach the command or the shell.
    let login =
        sshd.key_login("root", becoming(BecomeMethod::Su, &user.name, Some("touch /tmp/farmhand-evil")));
    let connection = sshd.connect_as(&login).await.unwrap();
    let command = as_root(Command { stdin: b"input".to_vec(), ..Command::new(["sh", "-c", "cat; id -un"]) });
    let output = capture(&*connection.guest, &command, 1000).await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("input{}\n", user.name));
    assert!(!fs::exists("/tmp/farmhand-evil").unwrap());
}

#[tokio::test]
async fn sudo_with_and_without_its_password() {
    if !is_root() {
        return refused_without_root().await;
    }
    let (sshd, user) = (Sshd::start(), TestUser::new());
    let login = |password| sshd.key_login(&user.name, becoming(BecomeMethod::Sudo, "root", password));
    refuses(&sshd, &login(Some(&user.password)), "not in the sudoers file").await;
    refuses(&sshd, &login(None), "sudo: a password is required").await;
    user.allow_sudo("ALL=(ALL) ALL");
    refuses(&sshd, &login(Some("wrong")), "Sorry, try again").await;
    refuses(&sshd, &login(None), "sudo: a password is required").await;
    becomes(&sshd, &login(Some(&user.password)), "root").await;
    user.allow_sudo("ALL=(ALL) NOPASSWD: ALL");
    becomes(&sshd, &login(None), "root").await;
    becomes(&sshd, &login(Some(&user.password)), "root").await;
    // A refusal that cites the request is not taken for the shell's first word.
    user.allow_sudo("ALL=(ALL) NOPASSWD: /bin/true");
    refuses(&sshd, &login(Some(&user.password)), "not allowed to execute").await;
}

#[tokio::test]
async fn root_finds_roots_programs_after_su() {
    if !is_root() {
        return refused_without_root().await;
    }
    let (sshd, user) = (Sshd::start(), TestUser::new());
    user.allow_sudo("ALL=(ALL) NOPASSWD: ALL");
    let login = sshd.key_login(&user.name, becoming(BecomeMethod::Sudo, "root", None));
    let connection = sshd.connect_as(&login).await.unwrap();
    let output =
        capture(&*connection.guest, &as_root(Command::new(["useradd", "--help"])), 10_000).await.unwrap();
    assert_eq!(output.exit, Exit::Status(0));
}
