//! What a guest's operating system is: os-release(5) and uname(1), read by one command.

use std::{collections::HashMap, time::Duration};

use super::{Command, Facts, Guest, GuestError, capture};

/// How long the command may take.
const LIMIT: Duration = Duration::from_secs(60);
/// More of os-release than this is not read, and no fact is longer than [`LONGEST_FACT`].
const MAX_SIZE: usize = 64 << 10;
const LONGEST_FACT: usize = 256;
/// Package managers that a guest may have.
pub const PACKAGE_MANAGERS: [&str; 6] = ["apt-get", "dnf", "yum", "zypper", "pacman", "apk"];
/// The order of the files is os-release(5)'s. uname comes first, then a package manager or nothing: their lines are three,
/// whatever the file holds.
const PROBE: &str = "uname -r && uname -m && { for name in apt-get dnf yum zypper pacman apk; do \
    command -v \"$name\" >/dev/null 2>&1 && break; name=; done; echo \"$name\"; } && { cat /etc/os-release 2>/dev/null || cat /usr/lib/os-release 2>/dev/null || :; }";

/// The command with which [`probe`] asks.
pub fn probe_command() -> Command {
    Command { timeout: Some(LIMIT), ..Command::new(["sh", "-c", PROBE]) }
}

/// Asks a guest, by one command.
pub async fn probe(guest: &dyn Guest) -> Result<Facts, GuestError> {
    let output = capture(guest, &probe_command(), MAX_SIZE).await?;
    let facts = output.exit.success().then(|| parse(&String::from_utf8_lossy(&output.stdout))).flatten();
    facts.ok_or_else(|| GuestError::Failed {
        purpose: "find out the operating system",
        message: output.words(),
    })
}

/// Reads what [`probe_command`] printed: a line of `uname -r`, a line of `uname -m`, a line with the package manager, then
/// os-release(5), which may be empty.
/// `None` when the first two lines are not there.
pub fn parse(output: &str) -> Option<Facts> {
    let mut lines = output.lines();
    let mut uname = || lines.next().map(|line| bounded(line.trim())).filter(|line| !line.is_empty());
    let (kernel, architecture) = (uname()?, uname()?);
    let package_manager =
        lines.next().map(str::trim).filter(|name| PACKAGE_MANAGERS.contains(name)).map(str::to_owned);
    let mut release = parse_os_release(lines);
    let mut take = |name| release.remove(name).filter(|value| !value.is_empty());
    Some(Facts {
        os_id: take("ID").unwrap_or_else(|| "linux".into()),
        os_id_like: take("ID_LIKE")
            .map(|ids| ids.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default(),
        os_version_id: take("VERSION_ID"),
        os_pretty_name: take("PRETTY_NAME").unwrap_or_else(|| "Linux".into()),
        kernel,
        architecture,
        package_manager,
    })
}

/// The assignments of an os-release(5) file. Lines that are none are passed over; of two with one name the later one holds.
fn parse_os_release<'a>(lines: impl Iterator<Item = &'a str>) -> HashMap<&'a str, String> {
    let assignment = |line: &'a str| {
        let (name, value) = line.trim().split_once('=')?;
        let valid = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        valid.then(|| (name, bounded(&unquote(value))))
    };
    lines.filter_map(assignment).collect()
}

/// The value of a shell assignment without expansions: `'…'`, `"…"` with backslash escapes of `$`, `"`, `\` and `` ` ``, and
/// bare text in which a backslash takes the next character as it is. An unquoted blank ends it.
fn unquote(word: &str) -> String {
    let mut value = String::new();
    let mut quote = None;
    let mut chars = word.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, ' ' | '\t') => break,
            (None, '\\') => value.extend(chars.next()),
            (Some('"'), '\\') => match chars.next_if(|next| matches!(next, '$' | '"' | '\\' | '`')) {
                Some(escaped) => value.push(escaped),
                None => value.push('\\'),
            },
            _ => value.push(c),
        }
    }
    value
}

/// Without control codes and not too long: facts are shown to people.
fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LONGEST_FACT).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn debian() {
        let facts = parse(
            "6.1.0-31-cloud-amd64\nx86_64\napt-get\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\n\
             VERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nID=debian\nHOME_URL=\"https://www.debian.org/\"\n",
        );
        let expected = Facts {
            os_id: "debian".into(),
            os_id_like: vec![],
            os_version_id: Some("12".into()),
            os_pretty_name: "Debian GNU/Linux 12 (bookworm)".into(),
            kernel: "6.1.0-31-cloud-amd64".into(),
            architecture: "x86_64".into(),
            package_manager: Some("apt-get".into()),
        };
        assert_eq!(facts, Some(expected));
    }

    #[test]
    fn rolling_release_that_is_like_others() {
        let facts = parse(
            "6.9\naarch64\n\n# a comment\n\nID='endeavouros'\nID_LIKE=\"arch  archlinux\"\nPRETTY_NAME=E\n",
        )
        .unwrap();
        assert_eq!((facts.os_id.as_str(), facts.os_version_id), ("endeavouros", None));
        assert_eq!(facts.os_id_like, ["arch", "archlinux"]);
    }

    #[test]
    fn defaults_of_the_manual_when_there_is_no_os_release() {
        let facts = parse("6.9\narmv7l\n").unwrap();
        assert_eq!((facts.os_id.as_str(), facts.os_pretty_name.as_str()), ("linux", "Linux"));
        assert_eq!(parse("6.9\n"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn quoting_is_the_shells() {
        for (word, value) in [
            ("plain", "plain"),
            (r#""a \"b\" \$c \\ \` \d""#, r#"a "b" $c \ ` \d"#),
            (r"'a \b'", r"a \b"),
            (r"a\ b", "a b"),
            (r#"a"b c"'d e'"#, "ab cd e"),
            ("\"open", "open"),
            ("\\", ""),
            ("bare # comment", "bare"),
        ] {
            assert_eq!(unquote(word), value, "{word}");
        }
    }

    proptest! {
        #[test]
        fn quoted_values_come_back(value in "[^\\p{C}]{0,80}") {
            let mut quoted = String::from("\"");
            for c in value.chars() {
                if matches!(c, '$' | '"' | '\\' | '`') {
                    quoted.push('\\');
                }
                quoted.push(c);
            }
            quoted.push('"');
            let facts = parse(&format!("1\nm\n\nPRETTY_NAME={quoted}\n")).unwrap();
            let expected = if value.is_empty() { "Linux" } else { &value };
            prop_assert_eq!(facts.os_pretty_name, expected);
        }

        #[test]
        fn any_text_is_read_without_a_panic_and_bounded(output in "\\PC*(\n\\PC*){0,9}") {
            if let Some(facts) = parse(&output) {
                prop_assert!(facts.os_id.chars().count() <= LONGEST_FACT && !facts.os_id.is_empty());
                prop_assert!(!facts.kernel.contains('\n'));
            }
        }
    }
}
