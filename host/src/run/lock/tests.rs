use super::{
    super::owner::tests::{elsewhere, ended},
    *,
};
use crate::hypervisor::simulated::{Fault, Method, Simulated};

struct Host {
    hypervisor: Arc<dyn Hypervisor>,
    simulated: Simulated,
    folder: tempfile::TempDir,
}

impl Host {
    fn new(simulated: &Simulated) -> Self {
        let hypervisor = Arc::new(simulated.clone());
        Self { hypervisor, simulated: simulated.clone(), folder: tempfile::tempdir().unwrap() }
    }

    fn locks(&self) -> Locks {
        Locks::new(Utf8Path::from_path(self.folder.path()).unwrap().join("locks"))
    }

    async fn acquire(&self) -> Result<MachineLock, LockError> {
        self.locks().acquire(&self.hypervisor, "m", &|_| {}).await
    }

    /// Somebody else's lock.
    async fn held_by(&self, owner: Owner) -> DomainLock {
        let lock = Beat { owner, beat: 7 }.to_lock(Uuid::new_v4());
        assert_eq!(self.hypervisor.lock("m", &lock).await.unwrap(), Locked::Ours);
        lock
    }
}

fn held(result: Result<MachineLock, LockError>) -> String {
    match result {
        Err(error @ LockError::Held { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn one_at_a_time_and_the_other_is_named() {
    let simulated = Simulated::new();
    let (here, other_folder) = (Host::new(&simulated), Host::new(&simulated));
    let lock = here.acquire().await.unwrap();
    for refused in [here.acquire().await, other_folder.acquire().await] {
        let message = held(refused);
        let me = format!("process {} on ", std::process::id());
        assert!(message.contains(&me) && message.contains("end that process"), "{message}");
    }
    lock.release().await.unwrap();
    assert_eq!(simulated.lock_holder("m").await.unwrap(), None);
    drop(other_folder.acquire().await.unwrap());
    // Dropped, it is released by a task.
    tokio::time::sleep(Duration::from_millis(1)).await;
    here.acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_ended_process_of_this_host_holds_nothing() {
    let host = Host::new(&Simulated::new());
    host.held_by(ended()).await;
    let begun = Instant::now();
    host.acquire().await.unwrap().release().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "nobody has to be watched for that");
}

#[tokio::test(start_paused = true)]
async fn a_lock_of_another_host_is_watched() {
    let host = Host::new(&Simulated::new());
    host.held_by(elsewhere()).await;
    let begun = Instant::now();
    host.acquire().await.unwrap().release().await.unwrap();
    assert!((30..32).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());

    // One that is renewed stays its owner's.
    let mut lock = host.held_by(elsewhere()).await;
    let begun = Instant::now();
    let (refused, ()) = tokio::join!(host.acquire(), async {
        sleep(Duration::from_secs(20)).await;
        lock.owner = Beat { beat: 8, ..Beat::of(&lock).unwrap() }.to_lock(lock.id).owner;
        assert_eq!(host.hypervisor.lock("m", &lock).await.unwrap(), Locked::Ours);
    });
    let message = held(refused);
    assert!(message.contains("far-away"), "{message}");
    assert!((20..22).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn of_many_that_take_over_one_gets_it() {
    for owner in [ended(), elsewhere()] {
        let simulated = Simulated::new();
        let hosts: Vec<_> = (0..8).map(|_| Host::new(&simulated)).collect();
        hosts[0].held_by(owner).await;
        let taken = futures::future::join_all(hosts.iter().map(Host::acquire)).await;
        assert_eq!(taken.iter().filter(|taken| taken.is_ok()).count(), 1);
        for taken in taken {
            if let Ok(lock) = taken {
                lock.release().await.unwrap();
            } else {
                held(taken);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_renewed_for_as_long_as_it_is_held() {
    let host = Host::new(&Simulated::new());
    let lock = host.acquire().await.unwrap();
    let beat = async || Beat::of(&host.hypervisor.lock_holder("m").await.unwrap().unwrap()).unwrap().beat;
    sleep(Duration::from_secs(3600)).await;
    assert!(beat().await > 700, "{}", beat().await);
    // libvirt was started anew.
    host.simulated.forget_locks();
    sleep(RENEW * 2).await;
    assert!(beat().await > 700);
    lock.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_lost_is_told() {
    let host = Host::new(&Simulated::new());
    let lock = host.acquire().await.unwrap();
    host.simulated.forget_locks();
    let other = host.held_by(elsewhere()).await;
    let message = lock.lost().await.to_string();
    assert!(message.contains("far-away") && message.contains("nothing more is done"), "{message}");
    lock.release().await.unwrap();
    assert_eq!(host.hypervisor.lock_holder("m").await.unwrap(), Some(other.clone()), "it is not ours");
    host.hypervisor.unlock("m", other.id).await.unwrap();

    // A renewal or two may fail.
    let lock = host.acquire().await.unwrap();
    let fail = || host.simulated.inject(Method::Lock, None, Fault::Fail("no answer".into()));
    (0..2).for_each(|_| fail());
    assert!(timeout(Duration::from_secs(60), lock.lost()).await.is_err());
    (0..10).for_each(|_| fail());
    let begun = Instant::now();
    let message = lock.lost().await.to_string();
    assert!(message.contains("no answer"), "{message}");
    assert!(begun.elapsed() < DEAD_AFTER, "before another one takes it for dead");
    host.simulated.clear_faults();
    lock.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hypervisor_that_hangs_is_a_lock_that_is_lost() {
    let host = Host::new(&Simulated::new());
    let lock = host.acquire().await.unwrap();
    host.simulated.inject(Method::Lock, None, Fault::Hang);
    let begun = Instant::now();
    lock.lost().await;
    assert!(begun.elapsed() < DEAD_AFTER, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn where_the_hypervisor_keeps_no_locks_the_file_still_does() {
    let simulated = Simulated::new();
    simulated.set_keeps_no_locks("no secret driver");
    let host = Host::new(&simulated);
    let locks = host.locks();
    let told = Mutex::new(Vec::new());
    let tell = |notice| told.lock().unwrap().push(notice);
    let lock = locks.acquire(&host.hypervisor, "m", &tell).await.unwrap();
    held(host.acquire().await);
    locks.acquire(&host.hypervisor, "n", &tell).await.unwrap().release().await.unwrap();
    let told = told.into_inner().unwrap();
    assert!(
        matches!(&told[..], [Notice::Warning(line)] if line.contains("no secret driver")),
        "it is told once: {told:?}"
    );
    assert!(timeout(Duration::from_secs(3600), lock.lost()).await.is_err());
    lock.release().await.unwrap();
    host.acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn work_ends_when_the_lock_is_lost() {
    let host = Host::new(&Simulated::new());
    let during = |seconds| {
        let work = async move {
            sleep(Duration::from_secs(seconds)).await;
            seconds
        };
        async { host.locks().during(&host.hypervisor, "m", &|_| {}, work).await }
    };
    assert_eq!(during(3600).await.unwrap(), 3600);
    assert_eq!(host.hypervisor.lock_holder("m").await.unwrap(), None);
    let (result, other) = tokio::join!(during(3600), async {
        sleep(Duration::from_secs(10)).await;
        host.simulated.forget_locks();
        host.held_by(elsewhere()).await
    });
    assert!(matches!(result, Err(LockError::Lost { .. })), "{result:?}");
    assert_eq!(host.hypervisor.lock_holder("m").await.unwrap(), Some(other));
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_not_released_is_told() {
    let host = Host::new(&Simulated::new());
    host.simulated.inject(Method::Unlock, None, Fault::Fail("gone".into()));
    let told = Mutex::new(Vec::new());
    let tell = |notice| told.lock().unwrap().push(notice);
    host.locks().during(&host.hypervisor, "m", &tell, async {}).await.unwrap();
    host.simulated.inject(Method::Unlock, None, Fault::Hang);
    host.locks().during(&host.hypervisor, "n", &tell, async {}).await.unwrap();
    let told = told.into_inner().unwrap();
    assert!(
        matches!(&told[..], [Notice::Warning(a), Notice::Warning(b)] if a.contains("gone") && b.contains("10 s")),
        "{told:?}"
    );
    // It is not in this process's own way.
    host.acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn a_hypervisor_that_refuses_is_an_error() {
    let host = Host::new(&Simulated::new());
    host.simulated.inject(Method::Lock, None, Fault::Fail("access denied".into()));
    assert!(host.acquire().await.unwrap_err().to_string().contains("access denied"));
    host.acquire().await.unwrap().release().await.unwrap();
}
