//! `docs/tutorial.md`, from its first line to its last, in an empty folder: what it tells to do is done, in one shell, and
//! what it says is printed must be printed.
//!
//! A block of `sh` is run; one of `sh fails` must fail. A block that names a file after its language is that file's content.
//! The lines of a block of `text` must come, in their order, in what the block before it printed.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Stands before each block in what the shell prints.
const MARK: &str = "::block::";

#[derive(Debug)]
enum Block {
    Commands { text: String, fails: bool },
    File { name: String, content: String },
    Output(Vec<String>),
}

/// The blocks of the tutorial.
fn blocks(tutorial: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = tutorial.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let content: String =
            lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
        blocks.push(match info.split_once(' ') {
            None if info == "sh" => Block::Commands { text: content, fails: false },
            Some(("sh", "fails")) => Block::Commands { text: content, fails: true },
            None if info == "text" => {
                Block::Output(content.lines().map(|line| line.trim().to_owned()).collect())
            }
            Some((_, name)) => Block::File { name: name.to_owned(), content },
            None => panic!("a block of {info} is neither run nor written to a file"),
        });
    }
    blocks
}

/// The blocks as one script for a shell. Each block's output comes after its mark.
fn script(blocks: &[Block]) -> String {
    let mut script = String::new();
    for (number, block) in blocks.iter().enumerate() {
        script += &format!("echo {MARK}{number}\n");
        match block {
            Block::Commands { text, fails: false } => script += text,
            // Its last command is the one that must fail.
            Block::Commands { text, fails: true } => {
                let (before, last) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
                script += &format!("{before}\nif {last}; then echo 'it should have failed'; exit 1; fi\n");
            }
            Block::File { name, content } => {
                script += &format!(
                    "mkdir -p \"$(dirname {name})\"\ncat >{name} <<'END OF FILE'\n{content}END OF FILE\n"
                );
            }
            Block::Output(_) => {}
        }
    }
    script
}

/// Removes the machine, also when the tutorial got stuck.
struct Cleanup<'a>(&'a dyn Fn(&str) -> Command);

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        let script = "cd target/tutorial && farmhand destroy";
        let removed = (self.0)(script).output().unwrap();
        let nothing_there = std::thread::panicking();
        assert!(removed.status.success() || nothing_there, "{}", String::from_utf8_lossy(&removed.stderr));
    }
}

#[test]
fn the_tutorial_works_as_it_stands() {
    let images = Path::new(REPOSITORY).join("target/testbed");
    assert!(images.join("SHA256SUMS").is_file(), "the guest images are not built: run `make images` first");
    // Below /var/tmp, where QEMU's own user can reach it; a stand-in for the repository's root.
    let folder = tempfile::Builder::new().prefix("farmhand-tutorial-").tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::create_dir(folder.path().join("target")).unwrap();
    std::os::unix::fs::symlink(images.canonicalize().unwrap(), folder.path().join("target/testbed")).unwrap();
    let id = folder.path().file_name().unwrap().to_str().unwrap().rsplit('-').next().unwrap();
    let machine = format!("greeter-{id}");
    let program = Path::new(env!("CARGO_BIN_EXE_farmhand"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let shell = |script: &str| {
        let mut command = Command::new("bash");
        command
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .env("PATH", &path)
            .env("FARMHAND_HOME", folder.path().join("home"))
            .env_remove("FARMHAND_FARM")
            .env_remove("CARGO_TARGET_DIR")
            .env("NO_COLOR", "1");
        command
    };
    // Tests run beside each other: the machine has a name of its own, and more time to boot than a reader's needs.
    let tutorial = fs::read_to_string(Path::new(REPOSITORY).join("docs/tutorial.md")).unwrap();
    let tutorial = tutorial
        .replace("greeter", &machine)
        .replace("project: { id: tutorial", "connection_timeout: 600\nproject: { id: tutorial");
    let blocks = blocks(&tutorial);
    let _cleanup = Cleanup(&shell);
    let output = shell(&format!("exec 2>&1\n{}", script(&blocks))).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let printed = |number: usize| {
        let (_, after) = output.split_once(&format!("{MARK}{number}\n"))?;
        Some(after.split(MARK).next().unwrap_or_default())
    };
    let mut missing = Vec::new();
    for (number, block) in blocks.iter().enumerate() {
        let Block::Output(expected) = block else { continue };
        let printed = printed(number - 1).unwrap_or_default();
        let mut lines = printed.lines();
        for line in expected {
            if !lines.any(|printed| printed.contains(line.as_str())) {
                missing.push(format!(
                    "`{line}` is missing, or out of order, in what {:?} printed:\n{printed}",
                    blocks[number - 1]
                ));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(printed(blocks.len() - 1).is_some(), "it did not come to its end:\n{output}");
}
