//! The seed of a first boot for cloud-init's data source NoCloud: a small ISO 9660 image with the label `cidata`
//! (<https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html>).

use std::{
    io::{self, Cursor, Write as _},
    sync::Arc,
};

use camino::Utf8Path;
use hadris_iso::{
    read::PathSeparator,
    write::{
        File as IsoFile, InputFiles, IsoImageWriter,
        options::{CreationFeatures, IsoFormatOptions},
    },
};
use serde_json::{Map, Value, json};
use sha_crypt::{PasswordHash, PasswordHasher as _, ShaCrypt};
use uuid::Uuid;

use crate::{base::Secret, farm::FirstBoot};

/// What cloud-init reads.
#[derive(Debug, Clone, PartialEq)]
pub struct SeedData {
    /// cloud-config.
    pub user_data: Value,
    /// Who this instance is.
    pub meta_data: Value,
    /// The network's configuration; cloud-init's default if absent.
    pub network_config: Option<Map<String, Value>>,
}

/// Why a seed can't be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeedError {
    /// A password can't be hashed.
    #[error("can't hash a password: {0}")]
    Password(String),
    /// The image can't be made.
    #[error("can't make an ISO 9660 image: {0}")]
    Image(String),
    /// The file can't be written.
    #[error("can't write it: {0}")]
    Io(#[from] io::Error),
}

/// A password as it stands in shadow(5): hashed by SHA-512 with a random salt.
///
/// # Errors
/// When it is longer than can be hashed.
pub fn hash_password(password: &Secret) -> Result<String, SeedError> {
    // crypt(3) knows salts of at most 16 characters: 12 bytes, here mostly random ones.
    let [random @ .., _, _, _, _] = Uuid::new_v4().into_bytes();
    let hash: Result<PasswordHash, _> =
        ShaCrypt::SHA512.hash_password_with_salt(password.reveal().as_bytes(), &random);
    hash.map(|hash| hash.as_str().to_owned()).map_err(|error| SeedError::Password(error.to_string()))
}

/// The cloud-config of a first boot. `keys` are the public keys of its users, in their order. Passwords are in it by their
/// hashes only; the private half of the host key is in it, so it is a secret.
///
/// # Errors
/// [`SeedError::Password`].
pub fn cloud_config(
    first_boot: &FirstBoot,
    keys: &[Vec<String>],
    host_key: &Secret,
    public_host_key: &str,
) -> Result<Value, SeedError> {
    let mut users = Vec::new();
    let mut passwords = Vec::new();
    let mut add = |name: &str, password: &Secret| {
        let hash = hash_password(password)?;
        passwords.push(json!({ "name": name, "password": hash, "type": "hash" }));
        Ok::<_, SeedError>(hash)
    };
    for (user, keys) in first_boot.users.iter().zip(keys) {
        let mut entry = json!({
            "name": user.name,
            "lock_passwd": user.password.is_none(),
            "ssh_authorized_keys": keys,
        });
        if user.name != "root" {
            entry["sudo"] = "ALL=(ALL) NOPASSWD:ALL".into();
        }
        if let Some(password) = &user.password {
            // Older versions know only this, and heed it only when they make the user.
            entry["hashed_passwd"] = add(&user.name, password)?.into();
        }
        users.push(entry);
    }
    if let Some(password) = &first_boot.root_password {
        add("root", password)?;
    }
    let logs_in_by_password = first_boot.users.iter().any(|user| user.password.is_some());
    let mut config = json!({
        "hostname": first_boot.hostname,
        "manage_etc_hosts": "localhost",
        "users": users,
        "disable_root": !first_boot.users.iter().any(|user| user.name == "root"),
        "ssh_pwauth": logs_in_by_password,
        "ssh_deletekeys": true,
        "ssh_keys": { "ed25519_private": host_key.reveal(), "ed25519_public": public_host_key },
    });
    if !passwords.is_empty() {
        config["chpasswd"] = json!({ "expire": false, "users": passwords });
    }
    merge(&mut config, &Value::Object(first_boot.user_data.clone()));
    Ok(config)
}

/// Puts `over` over `config`: mappings key by key, lists of users by their names, everything else as a whole.
fn merge(config: &mut Value, over: &Value) {
    let (Value::Object(config), Value::Object(over)) = (config, over) else { return };
    for (key, value) in over {
        match (config.get_mut(key), value) {
            (Some(mine @ Value::Object(_)), Value::Object(_)) => merge(mine, value),
            (Some(Value::Array(mine)), Value::Array(theirs)) if key == "users" => {
                for user in theirs {
                    let same = |mine: &&mut Value| {
                        mine.get("name") == user.get("name") && user.get("name").is_some()
                    };
                    match mine.iter_mut().find(same) {
                        Some(mine) => merge(mine, user),
                        None => mine.push(user.clone()),
                    }
                }
            }
            (Some(Value::Array(mine)), Value::Array(theirs)) if key == "ssh_authorized_keys" => {
                mine.extend(theirs.iter().cloned());
            }
            _ => {
                config.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Writes a seed image that only its owner can read: it appears whole, or not at all. libvirt hands it to QEMU's user where
/// that is another one.
///
/// # Errors
/// When the image can't be made or written.
pub fn write_seed(path: &Utf8Path, data: &SeedData) -> Result<(), SeedError> {
    let image = iso(data)?;
    let folder = path.parent().unwrap_or(Utf8Path::new("."));
    // Only the owner can read a temporary file.
    let mut file = tempfile::Builder::new().prefix(".seed-").tempfile_in(folder)?;
    file.write_all(&image)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn iso(data: &SeedData) -> Result<Vec<u8>, SeedError> {
    let SeedData { user_data, meta_data, network_config } = data;
    // JSON is YAML.
    let mut files =
        vec![("meta-data", format!("{meta_data}\n")), ("user-data", format!("#cloud-config\n{user_data}\n"))];
    if let Some(network_config) = network_config {
        files.push(("network-config", format!("{}\n", Value::Object(network_config.clone()))));
    }
    let file = |(name, content): (&str, String)| IsoFile::File {
        name: Arc::new(name.to_owned()),
        contents: content.into_bytes(),
    };
    let path_separator = PathSeparator::ForwardSlash;
    let files = InputFiles { path_separator, files: files.into_iter().map(file).collect() };
    let options = IsoFormatOptions {
        volume_name: "cidata".to_owned(),
        system_id: None,
        volume_set_id: None,
        publisher_id: None,
        preparer_id: None,
        application_id: None,
        sector_size: 2048,
        path_separator,
        // The names have more than eight letters.
        features: CreationFeatures::rock_ridge(),
        strict_charset: false,
    };
    let mut image = Cursor::new(Vec::new());
    IsoImageWriter::create(&mut image, files, options)
        .map_err(|error| SeedError::Image(error.to_string()))?;
    Ok(image.into_inner())
}

#[cfg(test)]
#[path = "seed_tests.rs"]
mod tests;
