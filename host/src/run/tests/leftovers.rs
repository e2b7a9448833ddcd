//! What killed runs leave, and that it is found.

use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

use super::support::World;
use crate::{
    hypervisor::{
        Domain, DomainState, Hypervisor,
        simulated::{Fault, Method},
    },
    run::{Entry, Event, Leftover, Level, Locks, Recovered, Stage},
};

/// A run of the machine `a` that is killed at a call.
async fn killed(world: &World, spared: usize, method: Method) {
    world.hypervisor.inject_after(spared, method, Some("a"), Fault::Hang);
    let jobs = world.plan().await;
    assert_eq!(world.carry_out(jobs).await.summary, None, "it was killed");
    assert_eq!(world.hypervisor.faults_left(), 0);
}

fn entries(world: &World) -> Vec<Entry> {
    world.journal().entries().unwrap().into_iter().map(Result::unwrap).collect()
}

/// Recovers the one machine that the journal knows of.
async fn recover(world: &World, dry_run: bool) -> Option<Leftover> {
    let entries = entries(world);
    assert_eq!(entries.len(), 1);
    let hypervisor: Arc<dyn Hypervisor> = Arc::new(world.hypervisor.clone());
    let locks = Locks::new(world.locks());
    let journal = world.journal();
    journal.recover(&entries[0], &locks, &hypervisor, &*world.images, dry_run, &|_| {}).await.unwrap()
}

fn look(world: &World) -> Option<(DomainState, usize)> {
    let (Domain { state, .. }, snapshots) = world.hypervisor.look("a")?;
    Some((state, snapshots.len()))
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_not_made_to_its_end_is_removed() {
    for (spared, method) in
        [(0, Method::Define), (0, Method::Start), (0, Method::SetMetadata), (0, Method::CreateSnapshot)]
    {
        let world = World::new(["a"]);
        killed(&world, spared, method).await;
        assert_eq!(entries(&world)[0].stage, Stage::Installing, "{method:?}");
        assert_eq!(recover(&world, true).await, Some(Leftover::Unfinished));
        assert_eq!(look(&world).is_some(), method != Method::Define, "a dry run touches nothing");
        assert_eq!(recover(&world, false).await, Some(Leftover::Unfinished));
        assert_eq!(look(&world), None);
        assert!(world.images.disks.lock().unwrap().is_empty());
        assert_eq!(entries(&world), []);
        world.passes().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_worked_on_is_powered_off() {
    let world = World::new(["a"]);
    killed(&world, 1, Method::CreateSnapshot).await;
    assert_eq!(look(&world), Some((DomainState::Running, 1)));
    assert_eq!(recover(&world, false).await, Some(Leftover::Running));
    assert_eq!(look(&world), Some((DomainState::ShutOff, 1)), "its checkpoint is kept");
    assert_eq!(entries(&world), []);

    // Killed after the machine went off.
    killed(&world, 0, Method::Revert).await;
    assert_eq!(recover(&world, false).await, Some(Leftover::Nothing));
    assert_eq!(world.passes().await.operations("a")[0], "restore clean");
}

#[tokio::test(start_paused = true)]
async fn what_was_recovered_is_told_when_the_run_begins() {
    let mut world = World::new(["a"]);
    let what = "powered off: a run was killed that worked on it";
    // The machine may be another farm's.
    world.recovered = vec![Recovered { machine: "b".into(), what: what.into() }];
    let ran = world.passes().await;
    assert!(matches!(ran.events[0], Event::RunStarted { .. }));
    assert_eq!(ran.events[1], Event::Log { machine: "b".into(), level: Level::Info, line: what.into() });
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ended_leaves_no_entry() {
    let world = World::new(["a", "b"]);
    world.passes().await;
    assert_eq!(entries(&world), []);
    // A failure is no leftover: the machine is there to be looked at.
    world.hypervisor.inject(Method::Revert, Some("a"), Fault::Fail("refused".into()));
    assert!(world.up().await.ended("a").is_some());
    assert_eq!(entries(&world), []);
    assert_eq!(world.journal().hypervisors().unwrap(), ["simulated:///"]);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_somebody_works_on_is_left_alone() {
    let world = World::new(["a"]);
    killed(&world, 0, Method::Start).await;
    let before = look(&world);
    let hypervisor: Arc<dyn Hypervisor> = Arc::new(world.hypervisor.clone());
    let locks = Locks::new(world.locks());
    let recovered = locks.during(&hypervisor, "a", &|_| {}, recover(&world, false)).await.unwrap();
    assert_eq!(recovered, None);
    assert_eq!((look(&world), entries(&world).len()), (before, 1));
}

#[tokio::test(start_paused = true)]
async fn another_ones_domain_is_left_alone() {
    let foreign = "<domain><name>a</name></domain>";
    // As farmhand makes them, with disks in another data folder.
    let elsewhere = "<domain><name>a</name><metadata><f:machine xmlns:f='https://farmhand.dev/xmlns/domain/1.0'>\
        {\"origin\":{},\"ssh_host_key\":null}</f:machine></metadata><devices>\
        <disk type='file'><source file='/other/a/disk0.qcow2'/></disk></devices></domain>";
    for xml in [foreign, elsewhere] {
        let world = World::new(["a"]);
        killed(&world, 0, Method::Start).await;
        world.hypervisor.undefine("a").await.unwrap();
        world.hypervisor.define(xml).await.unwrap();
        world.hypervisor.start("a").await.unwrap();
        assert_eq!(recover(&world, false).await, Some(Leftover::Nothing));
        assert_eq!(look(&world), Some((DomainState::Running, 0)));
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_removed_stays_in_the_journal() {
    let world = World::new(["a"]);
    killed(&world, 0, Method::Start).await;
    world.hypervisor.inject(Method::Undefine, Some("a"), Fault::Fail("refused".into()));
    let entry = entries(&world).remove(0);
    let hypervisor: Arc<dyn Hypervisor> = Arc::new(world.hypervisor.clone());
    let locks = Locks::new(world.locks());
    let journal = world.journal();
    let refused = journal.recover(&entry, &locks, &hypervisor, &*world.images, false, &|_| {}).await;
    assert!(refused.unwrap_err().to_string().contains("refused"));
    assert_eq!(recover(&world, false).await, Some(Leftover::Unfinished));
}

#[tokio::test]
async fn entries_are_private_and_unreadable_ones_are_told() {
    let world = World::new(["a"]);
    let journal = world.journal();
    journal.begin(&world.hypervisor, "a b", Stage::Working).await.unwrap();
    let folder = world.locks().with_file_name("journal");
    let files = || folder.read_dir_utf8().unwrap().map(|file| file.unwrap().into_path());
    let path = files().find(|path| path.extension() == Some("json")).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(entries(&world)[0].machine, "a b");
    std::fs::write(&path, "{").unwrap();
    let unreadable = journal.entries().unwrap().remove(0).unwrap_err();
    assert!(unreadable.to_string().contains(path.as_str()), "{unreadable}");
    assert!(journal.orphans(&[]).is_err(), "a folder may belong to that entry");
    journal.end(&world.hypervisor, "a b").await.unwrap();
    journal.end(&world.hypervisor, "a b").await.unwrap();
    assert_eq!(entries(&world), []);
}

#[tokio::test]
async fn disks_of_no_domain_are_orphans() {
    let folder = tempfile::tempdir().unwrap();
    let folder = camino::Utf8Path::from_path(folder.path()).unwrap();
    let machines = folder.join("machines");
    let journal = crate::run::Journal::new(folder.join("journal"), machines.clone());
    assert_eq!(journal.orphans(&[]).unwrap(), Vec::<String>::new());
    let world = World::new(["a"]);
    for name in ["begun", "domain", "lost", "renamed"] {
        std::fs::create_dir_all(machines.join(name)).unwrap();
    }
    journal.begin(&world.hypervisor, "begun", Stage::Installing).await.unwrap();
    let domain = |name: &str, disk: &str| Domain {
        name: name.into(),
        state: DomainState::ShutOff,
        metadata: None,
        ssh_port: None,
        interfaces: Vec::new(),
        disks: vec![machines.join(disk)],
        memory: 1024,
        vcpus: 1,
    };
    let domains = [domain("domain", "elsewhere/disk"), domain("other", "renamed/disk0.qcow2")];
    assert_eq!(journal.orphans(&domains).unwrap(), ["lost"]);
}
