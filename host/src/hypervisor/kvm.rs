//! Whether a guest truly runs under KVM on this host.
//!
//! Where a virtual machine is rented, `/dev/kvm` can be there and even create machines, while a guest crawls (each
//! instruction is emulated) or hangs. libvirt can't tell, so a tiny guest is run: it takes a timer interrupt, enters 64-bit
//! mode with paging, counts to a hundred million and powers off. Where KVM works that takes well below a second; where
//! instructions are emulated it takes minutes.

use std::{io, process::Stdio, time::Duration};

use camino::Utf8Path;
use serde::{Deserialize, Serialize};

use super::Capabilities;

/// How long the tiny guest may take. A busy host is given time; a host where KVM hangs loses it once in a while.
const LIMIT: Duration = Duration::from_secs(5);

/// How many seconds it holds that the guest hung.
const HANGS_FOR: i64 = 3600;

/// Firmware takes a disk below this size for none.
const DISK_SIZE: u64 = 1 << 20;

/// The tiny guest, as a boot sector is loaded to 0x7c00; bytes 510 and 511 are its signature.
#[rustfmt::skip]
const GUEST: &[u8] = &[
    // 16-bit code: clear the registers, put the stack below the code.
    0xfc,                               // 00 cld
    0x66, 0x31, 0xc0,                   // 01 xor eax, eax
    0x8e, 0xd8,                         // 04 mov ds, ax
    0x8e, 0xc0,                         // 06 mov es, ax
    0x8e, 0xd0,                         // 08 mov ss, ax
    0xbc, 0x00, 0x7c,                   // 0a mov sp, 0x7c00
    // Wait for the firmware's timer interrupt.
    0xfb,                               // 0d sti
    0xf4,                               // 0e hlt
    0xfa,                               // 0f cli
    // Page tables at 0x1000, 0x2000, 0x3000 map the first 2 MiB to themselves.
    0xbf, 0x00, 0x10,                   // 10 mov di, 0x1000
    0xb9, 0x00, 0x0c,                   // 13 mov cx, 0xc00
    0x66, 0xf3, 0xab,                   // 16 rep stosd
    0xc7, 0x06, 0x00, 0x10, 0x03, 0x20, // 19 mov word [0x1000], 0x2003
    0xc7, 0x06, 0x00, 0x20, 0x03, 0x30, // 1f mov word [0x2000], 0x3003
    0xc7, 0x06, 0x00, 0x30, 0x83, 0x00, // 25 mov word [0x3000], 0x0083
    0x0f, 0x01, 0x16, 0x7f, 0x7c,       // 2b lgdt [0x7c7f]
    0xb0, 0x20,                         // 30 mov al, 0x20
    0x0f, 0x22, 0xe0,                   // 32 mov cr4, eax          ; PAE
    0xb8, 0x00, 0x10,                   // 35 mov ax, 0x1000
    0x0f, 0x22, 0xd8,                   // 38 mov cr3, eax
    0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0, // 3b mov ecx, 0xc0000080
    0x0f, 0x32,                         // 41 rdmsr
    0x80, 0xcc, 0x01,                   // 43 or ah, 1              ; EFER.LME
    0x0f, 0x30,                         // 46 wrmsr
    0x0f, 0x20, 0xc0,                   // 48 mov eax, cr0
    0x66, 0x0d, 0x01, 0x00, 0x00, 0x80, // 4b or eax, 0x80000001    ; PG, PE
    0x0f, 0x22, 0xc0,                   // 51 mov cr0, eax
    0xea, 0x59, 0x7c, 0x08, 0x00,       // 54 jmp 8:0x7c59
    // 64-bit code: count, then ask ACPI (PM1a control, at 0x604 on `q35`) for power off.
    0xb9, 0x00, 0xe1, 0xf5, 0x05,       // 59 mov ecx, 100000000
    0xff, 0xc9,                         // 5e dec ecx
    0x75, 0xfc,                         // 60 jnz 0x5e
    0x66, 0xba, 0x04, 0x06,             // 62 mov dx, 0x604
    0x66, 0xb8, 0x00, 0x20,             // 66 mov ax, 0x2000        ; SLP_EN
    0x66, 0xef,                         // 6a out dx, ax
    0xf4,                               // 6c hlt
    0xeb, 0xfd,                         // 6d jmp 0x6c
    // Segments: none, 64-bit code.
    0, 0, 0, 0, 0, 0, 0, 0,             // 6f
    0, 0, 0, 0, 0, 0x9a, 0x20, 0,       // 77
    // Their table's limit and address.
    0x0f, 0x00, 0x6f, 0x7c, 0, 0,       // 7f
];

/// What is known of KVM on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// A guest ran.
    Works,
    /// A guest did not run.
    Fails,
    /// A guest did not get to its end in time. It may be that the host did nothing for a while.
    Hangs,
    /// It can't be tried by this user: libvirt is trusted.
    Unknown,
}

/// A verdict and what it holds for.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    boot: String,
    emulator: String,
    emulator_modified: i64,
    /// When it was found, in seconds of Unix time.
    at: i64,
    verdict: Verdict,
}

impl Kept {
    /// Whether it still holds for what is there `now`.
    fn holds(&self, now: &Self) -> bool {
        (&self.boot, &self.emulator, self.emulator_modified)
            == (&now.boot, &now.emulator, now.emulator_modified)
            && (self.verdict != Verdict::Hangs || (self.at..self.at + HANGS_FOR).contains(&now.at))
    }
}

/// Takes `kvm` out of a local hypervisor's capabilities where no guest runs under it.
///
/// `session`: the emulator will run as this user, not as one of libvirt's own. `cache`: the folder where the answer is kept
/// until the host is booted again or the emulator changes.
pub(super) async fn keep_if_usable(capabilities: &mut Capabilities, session: bool, cache: Option<&Utf8Path>) {
    let host_arch = capabilities.host_arch.clone();
    let emulator = capabilities
        .guests
        .iter()
        .find(|guest| guest.arch == host_arch && guest.domain_type == "kvm")
        .map(|guest| guest.emulator.clone());
    // Nothing to try it with: what libvirt says stands.
    let Some(emulator) = emulator else { return };
    let verdict = match tokio::task::spawn_blocking(open_device).await {
        Ok(Ok(())) if host_arch == "x86_64" => verdict(&emulator, cache, LIMIT).await,
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied && !session => Verdict::Unknown,
        Ok(Err(_)) => Verdict::Fails,
        Ok(Ok(())) | Err(_) => Verdict::Unknown,
    };
    if matches!(verdict, Verdict::Fails | Verdict::Hangs) {
        capabilities.guests.retain(|guest| guest.domain_type != "kvm");
    }
}

fn open_device() -> io::Result<()> {
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").map(drop)
}

async fn verdict(emulator: &Utf8Path, cache: Option<&Utf8Path>, limit: Duration) -> Verdict {
    let mut now = tokio::task::spawn_blocking({
        let emulator = emulator.to_owned();
        move || holds_for(&emulator)
    })
    .await
    .ok()
    .flatten();
    let file = cache.map(|cache| cache.join("kvm.json"));
    if let (Some(now), Some(file)) = (&now, &file) {
        let kept =
            tokio::fs::read(file).await.ok().and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
        if let Some(kept) = kept.filter(|kept| kept.holds(now)) {
            return kept.verdict;
        }
    }
    let verdict = run_guest(emulator, "kvm", "host", GUEST, limit).await;
    if let (Some(now), Some(file)) = (&mut now, file)
        && verdict != Verdict::Unknown
    {
        now.verdict = verdict;
        if let Ok(json) = serde_json::to_vec(now) {
            // Only time is lost when it can't be kept.
            let _ = tokio::task::spawn_blocking(move || keep(&file, &json)).await;
        }
    }
    verdict
}

/// What a verdict found now would hold for.
fn holds_for(emulator: &Utf8Path) -> Option<Kept> {
    use std::os::unix::fs::MetadataExt as _;
    Some(Kept {
        boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned(),
        emulator: emulator.to_string(),
        emulator_modified: std::fs::metadata(emulator).ok()?.mtime(),
        at: jiff::Timestamp::now().as_second(),
        verdict: Verdict::Unknown,
    })
}

fn keep(file: &Utf8Path, json: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let folder = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
    std::fs::create_dir_all(folder)?;
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    temporary.write_all(json)?;
    temporary.persist(file)?;
    Ok(())
}

/// Runs a guest from a boot sector; it works when it powers off in time.
async fn run_guest(
    emulator: &Utf8Path,
    accelerator: &str,
    cpu: &str,
    guest: &[u8],
    limit: Duration,
) -> Verdict {
    let Ok(disk) = boot_disk(guest) else { return Verdict::Unknown };
    let mut drive = std::ffi::OsString::from("format=raw,if=ide,file=");
    drive.push(disk.path());
    let run = tokio::process::Command::new(emulator)
        .args(["-accel", accelerator, "-cpu", cpu, "-machine", "q35", "-m", "16"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-drive"])
        .arg(drive)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(limit, run).await {
        Err(_) => Verdict::Hangs,
        Ok(Ok(output)) if output.status.success() => Verdict::Works,
        Ok(Ok(output)) if String::from_utf8_lossy(&output.stderr).to_lowercase().contains("kvm") => {
            Verdict::Fails
        }
        // This emulator knows another command line, or can't be run by this user.
        Ok(Ok(_) | Err(_)) => Verdict::Unknown,
    }
}

fn boot_disk(guest: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    use std::io::Write as _;
    let mut sector = [0; 512];
    sector.get_mut(..guest.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(guest);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let mut file = tempfile::Builder::new().prefix("farmhand-kvm-").tempfile()?;
    file.write_all(&sector)?;
    file.as_file().set_len(DISK_SIZE)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::GuestCapability;

    const EMULATOR: &str = "/usr/bin/qemu-system-x86_64";

    #[tokio::test]
    async fn the_guest_runs_where_guests_run() {
        // Without KVM, so that it holds on every machine: what is tested is the guest.
        assert_eq!(
            run_guest(EMULATOR.into(), "tcg", "qemu64", GUEST, Duration::from_secs(60)).await,
            Verdict::Works
        );
    }

    #[tokio::test]
    async fn a_guest_that_does_not_get_there_hangs() {
        let hangs = [0xf4, 0xeb, 0xfd];
        assert_eq!(
            run_guest(EMULATOR.into(), "tcg", "qemu64", &hangs, Duration::from_secs(2)).await,
            Verdict::Hangs
        );
    }

    #[tokio::test]
    async fn an_emulator_that_refuses_the_command_line_tells_nothing() {
        assert_eq!(run_guest("/bin/false".into(), "kvm", "host", GUEST, LIMIT).await, Verdict::Unknown);
        assert_eq!(
            run_guest("/no/such/emulator".into(), "kvm", "host", GUEST, LIMIT).await,
            Verdict::Unknown
        );
    }

    #[tokio::test]
    async fn the_answer_is_kept_until_the_emulator_changes() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let emulator = folder.join("emulator");
        let emulates = |script: &str, modified: &str| {
            // Written by another process: a program that is open for writing in this one, or in a child that was forked
            // meanwhile, can't be run.
            let write =
                "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod +x \"$0\" && touch -d \"$2\" \"$0\"";
            let status = std::process::Command::new("sh")
                .args(["-c", write, emulator.as_str(), script, modified])
                .status();
            assert!(status.unwrap().success());
        };
        let cache = folder.join("probes");
        let verdict = async |limit| verdict(&emulator, Some(&cache), limit).await;
        emulates("exec sleep 10", "@1");
        assert_eq!(verdict(Duration::from_millis(200)).await, Verdict::Hangs);
        emulates("exit 0", "@1");
        assert_eq!(verdict(LIMIT).await, Verdict::Hangs, "it is not waited for each time");
        let file = cache.join("kvm.json");
        let mut kept: Kept = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        kept.at -= HANGS_FOR;
        std::fs::write(&file, serde_json::to_vec(&kept).unwrap()).unwrap();
        assert_eq!(
            verdict(LIMIT).await,
            Verdict::Works,
            "a host that stood still for a moment gets KVM back"
        );
        emulates("echo failed to initialize kvm >&2; exit 1", "@1");
        assert_eq!(verdict(LIMIT).await, Verdict::Works, "the same as far as can be told");
        emulates("echo failed to initialize kvm >&2; exit 1", "@2");
        assert_eq!(verdict(LIMIT).await, Verdict::Fails);
    }

    #[tokio::test]
    async fn capabilities_without_kvm_stay_as_they_are() {
        let guest =
            GuestCapability { arch: "x86_64".into(), domain_type: "qemu".into(), emulator: EMULATOR.into() };
        let mut capabilities =
            Capabilities { host_arch: "x86_64".into(), memory: 8 << 10, cpus: 4, guests: vec![guest] };
        let before = capabilities.clone();
        keep_if_usable(&mut capabilities, true, None).await;
        assert_eq!(capabilities, before);
    }
}
