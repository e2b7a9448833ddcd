use crate::{
    base::Login,
    guest::{Command, GuestError, files::as_path, ssh::script::quote},
};

/// The script that becomes the command.
pub(super) fn script(
    command: &Command,
    login: &Login,
    input: Option<&str>,
    out: &str,
    err: &str,
    done: &[String],
) -> Result<String, GuestError> {
    let user = if command.r#become { &login.r#become.user } else { &login.user };
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if user.is_empty() || user.starts_with('-') || !user.chars().all(fine) {
        return Err(GuestError::Invalid(format!("`{}` is not a user's name", user.escape_debug())));
    }
    let input_file = input.unwrap_or("/dev/null");
    // All of it is read before the command may read its own input.
    let mut script = format!("main() {{\nexec <{input_file} >{out} 2>{err}\numask 022\n");
    let unneeded: Vec<_> = input.into_iter().chain(done.iter().map(String::as_str)).collect();
    if !unneeded.is_empty() {
        script.push_str(&format!("rm -f {}\n", unneeded.join(" ")));
    }
    let path = if user == "root" {
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    } else {
        "/usr/local/bin:/usr/bin:/bin"
    };
    // As login(1) does it. The home's name is expanded by the shell: the user's name is plain.
    script.push_str(&format!(
        "unset INVOCATION_ID JOURNAL_STREAM NOTIFY_SOCKET SYSTEMD_EXEC_PID\nexport HOME=~{user} USER={user} LOGNAME={user} SHELL=/bin/sh PATH={path}\n"
    ));
    for (name, value) in &command.env {
        script.push_str(&format!("export {name}={}\n", quote(value)));
    }
    let cwd = command.cwd.as_deref().map(|cwd| quote(&as_path(cwd)));
    let cwd = cwd.as_deref().unwrap_or("\"$HOME\"");
    let mut words = String::from("exec");
    for argument in &command.argv {
        words.push(' ');
        words.push_str(&quote(argument));
    }
    // As in env(1), 125 says that the command was never run. A login user without a home begins at the root.
    let enter = match command.cwd {
        Some(_) => format!("CDPATH= cd -- {cwd} || exit 125"),
        None => format!("CDPATH= cd -- {cwd} 2>/dev/null || cd /"),
    };
    if user == "root" {
        script.push_str(&format!("{enter}\n{words}\n"));
    } else {
        let inner = quote(&format!("{enter}\n{words}\n"));
        // setpriv becomes the command; su stays beside it, and so hides the signal that ended it.
        script.push_str(&format!(
            "if command -v setpriv >/dev/null; then exec setpriv --reuid={user} --regid=\"$(id -g {user})\" --init-groups -- /bin/sh -c {inner}; fi\n\
             exec su -m -s /bin/sh -c {inner} {user}\n"
        ));
    }
    script.push_str("exit 127\n}\nmain\n");
    Ok(script)
}
