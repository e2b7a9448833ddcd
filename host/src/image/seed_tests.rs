use std::{os::unix::fs::PermissionsExt as _, process::Command};

use super::*;
use crate::farm::FirstBootUser;

const KEY: &str = "ssh-ed25519 AAAA farmhand";

fn user(name: &str, password: Option<&str>) -> FirstBootUser {
    FirstBootUser {
        name: name.to_owned(),
        password: password.map(Secret::new),
        public_keys: vec![],
        private_keys: vec![],
        login_key: true,
    }
}

fn first_boot(users: Vec<FirstBootUser>, user_data: Value) -> FirstBoot {
    let Value::Object(user_data) = user_data else { panic!("no mapping") };
    FirstBoot { hostname: "debian".into(), users, root_password: None, user_data, network_config: None }
}

fn config(first_boot: &FirstBoot) -> Value {
    let keys = vec![vec![KEY.to_owned()]; first_boot.users.len()];
    cloud_config(first_boot, &keys, &Secret::new("PRIVATE"), "ssh-ed25519 BBBB").unwrap()
}

#[test]
fn user_logs_in_by_key_and_becomes_root() {
    let expected = json!({
        "hostname": "debian",
        "manage_etc_hosts": "localhost",
        "users": [{
            "name": "tester",
            "lock_passwd": true,
            "ssh_authorized_keys": [KEY],
            "sudo": "ALL=(ALL) NOPASSWD:ALL",
        }],
        "disable_root": true,
        "ssh_pwauth": false,
        "ssh_deletekeys": true,
        "ssh_keys": { "ed25519_private": "PRIVATE", "ed25519_public": "ssh-ed25519 BBBB" },
    });
    assert_eq!(config(&first_boot(vec![user("tester", None)], json!({}))), expected);
}

#[test]
fn passwords_are_hashed_as_shadow_has_them() {
    let mut first_boot = first_boot(vec![user("tester", Some("tester's"))], json!({}));
    first_boot.root_password = Some(Secret::new("toor"));
    let config = config(&first_boot);
    assert!(!config.to_string().contains("tester's") && !config.to_string().contains("toor"), "{config}");
    assert_eq!(config["ssh_pwauth"], true);
    let listed = config["chpasswd"]["users"].as_array().unwrap();
    assert_eq!(listed.iter().map(|user| &user["name"]).collect::<Vec<_>>(), ["tester", "root"]);
    for (user, password) in listed.iter().zip(["tester's", "toor"]) {
        let hash = user["password"].as_str().unwrap();
        let salt = hash.rsplit_once('$').unwrap().0;
        // crypt(3) of the system says the same.
        let output =
            Command::new("perl").args(["-e", "print crypt($ARGV[0], $ARGV[1])", password, salt]).output();
        assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), hash);
    }
}

#[test]
fn the_definitions_own_data_comes_over_it() {
    let data = json!({
        "hostname": "other",
        "packages": ["curl"],
        "users": [{ "name": "tester", "shell": "/bin/zsh", "ssh_authorized_keys": ["mine"] }, { "name": "second" }, "default"],
    });
    let config = config(&first_boot(vec![user("tester", None)], data));
    assert_eq!((&config["hostname"], &config["packages"]), (&json!("other"), &json!(["curl"])));
    let users = config["users"].as_array().unwrap();
    assert_eq!(users.len(), 3);
    assert_eq!(users[0]["shell"], "/bin/zsh");
    assert_eq!(users[0]["ssh_authorized_keys"], json!([KEY, "mine"]));
    assert_eq!((&users[1], &users[2]), (&json!({ "name": "second" }), &json!("default")));
}

#[test]
fn seed_is_an_image_that_others_read_and_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(folder.path()).unwrap().join("seed.iso");
    let Value::Object(network_config) = json!({ "version": 2 }) else { panic!() };
    let data = SeedData {
        user_data: json!({ "text": "x".repeat(5000) }),
        meta_data: json!({ "instance-id": "a" }),
        network_config: Some(network_config),
    };
    write_seed(&path, &data).unwrap();
    write_seed(&path, &data).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let read = |name: &str| {
        let output = Command::new("bsdtar").args(["-xOf", path.as_str(), name]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(read("meta-data"), "{\"instance-id\":\"a\"}\n");
    assert_eq!(read("network-config"), "{\"version\":2}\n");
    assert_eq!(read("user-data"), format!("#cloud-config\n{}\n", data.user_data));
    // The label by which cloud-init finds it.
    let image = std::fs::read(&path).unwrap();
    assert_eq!(&image[16 * 2048 + 40..][..7], b"cidata ");
}
