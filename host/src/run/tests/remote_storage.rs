//! Images and disks at a hypervisor that shares no folder with this host.

use std::{fs, sync::Arc};

use camino::{Utf8Path, Utf8PathBuf};
use tempfile::TempDir;

use crate::{
    base::Dirs,
    farm::{Farm, Machine},
    hypervisor::{
        DomainMetadata, Hypervisor, Pools as _, domain_xml,
        simulated::{Fault, Method, Simulated},
    },
    run::{Fetched, LocalStorage, Locks, RemoteStorage, Storage},
};

const PLATFORM: &str = "vm:
  metadata: { name: NAME, cloud_init: true, auth: { password: x } }
  disks: [{ src: IMAGE, size: 2MiB }]
  kernel: { src: KERNEL, params: quiet }
";

/// A farm of two machines from one image.
struct Bench {
    folder: TempDir,
    farm: Farm,
    hypervisor: Simulated,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |path: &str| Utf8Path::from_path(folder.path()).unwrap().join(path);
        let write = |name: &str, content: &[u8]| {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), content).unwrap();
        };
        write("image.raw", &[7; 1 << 20]);
        write("vmlinuz", b"kernel");
        let farm = "project: { id: p }\npermutations: { targets: [amd64], platforms: [a, b] }\n";
        write("farm/farm.yaml", farm.as_bytes());
        for name in ["a", "b"] {
            let image = PLATFORM.replace("IMAGE", path("image.raw").as_str());
            let text = image.replace("KERNEL", path("vmlinuz").as_str()).replace("NAME", name);
            write(&format!("farm/setup_vm/platforms/{name}.yaml"), text.as_bytes());
        }
        let farm = Farm::load(&path("farm")).unwrap();
        Self { folder, farm, hypervisor: Simulated::new() }
    }

    fn locks(&self) -> Arc<Locks> {
        Arc::new(Locks::new(Utf8Path::from_path(self.folder.path()).unwrap().join("locks")))
    }

    fn hypervisor(&self) -> Arc<dyn Hypervisor> {
        Arc::new(self.hypervisor.clone())
    }

    fn storage(&self) -> RemoteStorage {
        let dirs = Dirs::below(&Utf8Path::from_path(self.folder.path()).unwrap().join("home"));
        dirs.create().unwrap();
        let local = LocalStorage::new(&dirs, self.farm.root.clone());
        RemoteStorage::new(local, self.hypervisor(), self.locks(), "/pool".into())
    }

    fn machine(&self, name: &str) -> &Machine {
        &self.farm.machines[name]
    }

    async fn fetch(&self, storage: &RemoteStorage, name: &str) -> indexmap::IndexMap<String, Fetched> {
        storage.fetch(self.machine(name), Arc::new(|_| {})).await.unwrap()
    }

    fn uploads(&self) -> usize {
        self.hypervisor.calls().iter().filter(|call| call.method == Method::UploadVolume).count()
    }

    async fn volumes(&self, pool: &str) -> Vec<String> {
        let volumes = self.hypervisor.volumes(pool).await.unwrap().unwrap();
        volumes.into_iter().map(|volume| volume.name).collect()
    }
}

fn name_of(path: &Utf8PathBuf) -> String {
    path.file_name().unwrap().to_owned()
}

#[tokio::test]
async fn an_image_goes_up_once_and_disks_are_layers_on_it() {
    let bench = Bench::new();
    let (one, two) = (bench.storage(), bench.storage());
    let (fetched, same) = tokio::join!(bench.fetch(&one, "a"), bench.fetch(&two, "b"));
    assert_eq!(fetched, same);
    assert_eq!(bench.uploads(), 2, "the image and the kernel, once each");
    let image = name_of(&fetched["disk 0"].path);
    assert_eq!(bench.hypervisor.volume_content("farmhand", &image).unwrap(), [7; 1 << 20]);

    let disks = one.create_disks(bench.machine("a"), &fetched).await.unwrap();
    assert_eq!(disks, ["/pool/machines/a/disk0.qcow2"]);
    let disk = bench.hypervisor.volumes("farmhand-a").await.unwrap().unwrap().remove(0);
    assert_eq!((disk.backing.as_ref(), disk.capacity), (Some(&fetched["disk 0"].path), 2 << 20));
    let seed = one.create_seed(bench.machine("a")).await.unwrap().unwrap();
    assert_eq!(seed.path, "/pool/machines/a/seed.iso");
    assert!(bench.hypervisor.volume_content("farmhand-a", "seed.iso").unwrap().len() > 1000);
    assert_eq!(RemoteStorage::with_disks(&bench.hypervisor).await.unwrap(), ["a"]);
    one.remove_disks("a").await.unwrap();
    assert_eq!(RemoteStorage::with_disks(&bench.hypervisor).await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn what_went_up_half_is_sent_again() {
    let bench = Bench::new();
    let storage = bench.storage();
    bench.hypervisor.inject(Method::UploadVolume, None, Fault::FailAfter("the connection broke".into()));
    let failed = storage.fetch(bench.machine("a"), Arc::new(|_| {})).await.unwrap_err();
    assert!(failed.to_string().contains("the connection broke"), "{failed}");
    assert_eq!(bench.volumes("farmhand").await.len(), 1, "nothing says that it is whole");
    let fetched = bench.fetch(&storage, "a").await;
    assert_eq!(bench.uploads(), 3);
    bench.fetch(&storage, "a").await;
    assert_eq!(bench.uploads(), 3);
    // And what somebody has deleted.
    bench.hypervisor.delete_volume("farmhand", &name_of(&fetched["kernel"].path)).await.unwrap();
    bench.fetch(&storage, "a").await;
    assert_eq!(bench.uploads(), 4);
}

#[tokio::test]
async fn only_images_that_no_machine_stands_on_are_pruned() {
    let bench = Bench::new();
    let storage = bench.storage();
    let fetched = bench.fetch(&storage, "a").await;
    storage.create_disks(bench.machine("a"), &fetched).await.unwrap();
    let prune =
        async |dry_run| RemoteStorage::prune(&bench.hypervisor(), &bench.locks(), dry_run).await.unwrap();
    let (image, kernel) = (name_of(&fetched["disk 0"].path), name_of(&fetched["kernel"].path));
    assert_eq!(prune(true).await, std::slice::from_ref(&kernel), "the disk stands on the image");

    // What the domain was installed from is needed, layer or not.
    let origin = serde_json::json!({ "resources": { "kernel": fetched["kernel"].digest } });
    let metadata = DomainMetadata { origin, ssh_host_key: None };
    let xml = "<domain><name>a</name></domain>";
    bench.hypervisor.define(&domain_xml::insert_metadata(xml, &metadata).unwrap()).await.unwrap();
    assert_eq!(prune(false).await, Vec::<String>::new());

    bench.hypervisor.undefine("a").await.unwrap();
    storage.remove_disks("a").await.unwrap();
    let mut gone = vec![image, kernel];
    gone.sort();
    assert_eq!(prune(false).await, gone);
    assert_eq!(bench.volumes("farmhand").await, Vec::<String>::new());
}
