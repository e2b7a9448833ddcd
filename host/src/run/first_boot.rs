//! The seed of a machine's first boot: the definition, keys and hashes put together.

use camino::Utf8Path;
use serde_json::json;
use uuid::Uuid;

use crate::{
    farm::{FirstBoot, PublicKey},
    guest::keypair::{self, HostKey},
    image::{self, SeedData},
};

/// A public key is one line.
const MAX_PUBLIC_KEY: u64 = 64 << 10;

/// Writes the seed, and gives the host key that the guest will have. It blocks.
pub(super) fn write_seed(
    first_boot: &FirstBoot,
    login_key: &Utf8Path,
    path: &Utf8Path,
) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let host_key = HostKey::generate()?;
    let mut keys = Vec::new();
    for user in &first_boot.users {
        let mut lines = Vec::new();
        if user.login_key {
            lines.push(keypair::ensure_login_key(login_key)?.to_string());
        }
        for key in &user.private_keys {
            lines.push(keypair::public_half(key)?.to_string());
        }
        for key in &user.public_keys {
            lines.push(line(key)?);
        }
        keys.push(lines);
    }
    let user_data = image::cloud_config(first_boot, &keys, &host_key.private, host_key.public.as_str())?;
    // A new one each time: the disk is new, too.
    let instance = format!("farmhand-{}", Uuid::new_v4());
    let meta_data = json!({ "instance-id": instance, "local-hostname": first_boot.hostname });
    let network_config = first_boot.network_config.clone();
    image::write_seed(path, &SeedData { user_data, meta_data, network_config })?;
    Ok(host_key.public.as_str().to_owned())
}

fn line(key: &PublicKey) -> Result<String, String> {
    match key {
        PublicKey::Line(line) => Ok(line.clone()),
        PublicKey::File(path) => {
            let size = std::fs::metadata(path).map(|metadata| metadata.len());
            let size = size.map_err(|error| format!("can't read the public key {path}: {error}"))?;
            if size > MAX_PUBLIC_KEY {
                return Err(format!("{path} is too large for a public key"));
            }
            let text =
                std::fs::read_to_string(path).map_err(|error| format!("can't read {path}: {error}"))?;
            let text = text.trim();
            if text.is_empty() || text.contains('\n') || text.contains("PRIVATE KEY") {
                return Err(format!("{path} holds no public SSH key"));
            }
            Ok(text.to_owned())
        }
    }
}
