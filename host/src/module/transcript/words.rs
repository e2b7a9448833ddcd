use super::{CommandCall, Content, GuestCall};
use crate::{base::Digest, module::text};

/// A call for people, in one line, free of control codes.
pub fn in_words(call: &GuestCall) -> String {
    let root = |r#become: &bool| if *r#become { " as root" } else { "" };
    text::plain(&match call {
        GuestCall::Exec(command) => command.in_words(),
        GuestCall::ReadFile { path, r#become } => format!("read {}{}", quoted(path), root(r#become)),
        GuestCall::WriteFile { path, content, mode, r#become } => {
            let (path, root, content) = (quoted(path), root(r#become), contents_in_words(content));
            format!("write {path} with mode {mode:04o}{root}: {content}")
        }
        GuestCall::SaveArtifact { name, .. } => format!("keep artifact {}", quoted(name)),
        GuestCall::SaveFile { name, path, r#become } => {
            format!("keep {} as artifact {}{}", quoted(path), quoted(name), root(r#become))
        }
    })
}

/// Longer texts are not shown, but for their length and digest.
const MAX_SHOWN: usize = 200;

fn contents_in_words(content: &[Content]) -> String {
    let part = |content: &Content| match content {
        Content::Secret { secret } => format!("<secret {secret}>"),
        Content::Large { size, digest } => format!("({size} bytes, {})", digest.short()),
        Content::Bytes(bytes) => match std::str::from_utf8(&bytes.0) {
            Ok(text) if text.len() <= MAX_SHOWN => quoted(text),
            _ => format!("({} bytes, {})", bytes.0.len(), Digest::of(&bytes.0).short()),
        },
    };
    content.iter().map(part).collect::<Vec<_>>().join(" + ")
}

impl CommandCall {
    /// As one would type it. Environment and folder stand before it, input after it.
    fn in_words(&self) -> String {
        let mut words = Vec::new();
        if let Some(folder) = &self.cwd {
            words.push(format!("cd {} &&", quoted(folder)));
        }
        for (name, value) in &self.env {
            words.push(match value {
                Content::Secret { secret } => format!("{name}=<secret {secret}>"),
                Content::Bytes(bytes) => format!("{name}={}", quoted(&String::from_utf8_lossy(&bytes.0))),
                large @ Content::Large { .. } => {
                    format!("{name}={}", contents_in_words(std::slice::from_ref(large)))
                }
            });
        }
        words.extend(self.argv.iter().map(|argument| quoted(argument)));
        if !self.stdin.is_empty() {
            words.push(format!("< {}", contents_in_words(&self.stdin)));
        }
        if self.r#become {
            words.push("[root]".to_owned());
        }
        words.join(" ")
    }
}

/// A word as one would type it in a shell. What can't be seen is shown as in Rust (`\n`, `\u{1b}`), so that nothing hides.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:+,@%~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let shown = |c: char| match c {
        '\'' => r"'\''".to_owned(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    format!("'{}'", word.chars().map(shown).collect::<String>())
}
