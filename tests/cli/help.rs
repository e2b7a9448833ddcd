//! `--help` of every command.

use std::process::Command;

#[test]
fn help_of_every_command() {
    for command in [
        "",
        "up",
        "plan",
        "report",
        "machines",
        "init",
        "check",
        "schema",
        "status",
        "ssh",
        "copy",
        "console",
        "ssh-config",
        "snapshot",
        "snapshot list",
        "snapshot revert",
        "snapshot delete",
        "snapshot prune",
        "destroy",
        "prune",
        "image",
        "image list",
        "image pull",
        "image prune",
        "module",
        "module new",
        "module build",
        "module test",
        "module inspect",
        "module list",
        "module lock",
        "module accept",
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_farmhand"))
            .args(command.split_whitespace())
            .arg("--help")
            .env("COLUMNS", "100")
            .env_remove("FARMHAND_FARM")
            .env_remove("FARMHAND_CONNECT")
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}");
        let name = format!("help {command}").trim_end().replace(' ', "-");
        insta::assert_snapshot!(name, String::from_utf8(output.stdout).unwrap());
    }
}
