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

    async fn prune(&self, dry_run: bool) -> Vec<String> {
        RemoteStorage::prune(&self.hypervisor(), &self.locks(), dry_run).await.unwrap()
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
    assert_eq!(
        bench.volumes("farmhand").await.len(),
        2,
        "nothing says that it is whole, only for whom it is"
    );
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
    let prune = async |dry_run| bench.prune(dry_run).await;
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

#[tokio::test]
async fn an_image_that_a_run_has_fetched_is_kept_until_it_is_used() {
    let bench = Bench::new();
    let (storage, locks, hypervisor) = (bench.storage(), bench.locks(), bench.hypervisor());
    let work = async {
        let fetched = bench.fetch(&storage, "a").await;
        for dry_run in [true, false] {
            assert_eq!(bench.prune(dry_run).await, Vec::<String>::new(), "the machine is worked on");
        }
        assert_eq!(bench.fetch(&storage, "a").await, fetched);
        assert_eq!(bench.uploads(), 2, "both are still whole");
        fetched
    };
    let fetched = locks.during(&hypervisor, "a", &|_| {}, work).await.unwrap();
    // That run was killed.
    let mut images = vec![name_of(&fetched["disk 0"].path), name_of(&fetched["kernel"].path)];
    images.sort();
    assert_eq!(bench.prune(true).await, images);
    assert_eq!(bench.prune(false).await, images);
    assert_eq!(bench.volumes("farmhand").await, Vec::<String>::new());
}

#[tokio::test]
async fn half_an_image_does_not_become_whole_by_being_kept() {
    let bench = Bench::new();
    let (storage, locks, hypervisor) = (bench.storage(), bench.locks(), bench.hypervisor());
    let work = async {
        bench.hypervisor.inject(Method::UploadVolume, None, Fault::FailAfter("the connection broke".into()));
        storage.fetch(bench.machine("a"), Arc::new(|_| {})).await.unwrap_err();
        assert_eq!(bench.prune(false).await, Vec::<String>::new());
        assert!(bench.volumes("farmhand").await.iter().all(|volume| !volume.ends_with(".whole")));
    };
    locks.during(&hypervisor, "a", &|_| {}, work).await.unwrap();
}

#[tokio::test]
async fn an_image_that_is_wanted_while_it_is_pruned_is_brought_again() {
    let bench = Bench::new();
    let (one, two) = (bench.storage(), bench.storage());
    let fetched = bench.fetch(&one, "a").await;
    let (locks, hypervisor) = (bench.locks(), bench.hypervisor());
    // Whoever prunes has just deleted the mark.
    let image = name_of(&fetched["kernel"].path);
    let pruning = async {
        bench.hypervisor.delete_volume("farmhand", &format!("{image}.whole")).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        bench.hypervisor.delete_volume("farmhand", &image).await.unwrap();
    };
    let lock = format!("image {image}");
    let (pruned, again) =
        tokio::join!(locks.during(&hypervisor, &lock, &|_| {}, pruning), bench.fetch(&two, "b"));
    pruned.unwrap();
    assert_eq!(again, fetched);
    assert_eq!(bench.uploads(), 3);
    assert_eq!(bench.hypervisor.volume_content("farmhand", &image).unwrap(), b"kernel");
}
