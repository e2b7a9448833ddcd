use super::*;
use crate::hypervisor::{Hypervisor as _, NewSnapshot};

const XML: &str = "<domain><name>vm</name></domain>";

async fn state(simulated: &Simulated) -> DomainState {
    simulated.domain("vm").await.unwrap().unwrap().state
}

#[tokio::test]
async fn each_fault_meets_one_call() {
    let simulated = Simulated::new();
    simulated.define(XML).await.unwrap();
    simulated.inject(Method::Start, Some("other"), Fault::Fail("not this one".into()));
    for fault in [Fault::Fail("refused".into()), Fault::Pretend, Fault::FailAfter("answer lost".into())] {
        simulated.inject(Method::Start, None, fault);
    }
    assert!(simulated.start("vm").await.unwrap_err().to_string().ends_with("refused"));
    assert_eq!(state(&simulated).await, DomainState::ShutOff);
    simulated.start("vm").await.unwrap();
    assert_eq!(state(&simulated).await, DomainState::ShutOff);
    assert!(simulated.start("vm").await.unwrap_err().to_string().ends_with("answer lost"));
    assert_eq!(state(&simulated).await, DomainState::Running);
    simulated.inject(Method::Destroy, Some("vm"), Fault::Hang);
    let destroy = tokio::time::timeout(Duration::from_millis(10), simulated.destroy("vm"));
    assert!(destroy.await.is_err());
    assert_eq!(state(&simulated).await, DomainState::Running);
    assert_eq!(simulated.faults_left(), 1);
    let starts = simulated.calls().iter().filter(|call| call.method == Method::Start).count();
    assert_eq!(starts, 3);
}

#[tokio::test]
async fn a_call_that_dies_half_way_leaves_something() {
    let simulated = Simulated::new();
    simulated.define(XML).await.unwrap();
    let die = |method| simulated.inject(method, None, Fault::HalfWay("died".into()));
    let snapshot = NewSnapshot { name: "clean".into(), ..NewSnapshot::default() };
    simulated.create_snapshot("vm", &snapshot).await.unwrap();
    die(Method::Start);
    assert!(simulated.start("vm").await.unwrap_err().to_string().ends_with("died"));
    assert_eq!(state(&simulated).await, DomainState::Paused);
    simulated.start("vm").await.unwrap();
    die(Method::CreateSnapshot);
    let second = NewSnapshot { name: "init".into(), ..NewSnapshot::default() };
    assert!(simulated.create_snapshot("vm", &second).await.is_err());
    assert_eq!(state(&simulated).await, DomainState::Paused);
    die(Method::Revert);
    assert!(simulated.revert("vm", "clean").await.is_err());
    assert_eq!(state(&simulated).await, DomainState::ShutOff);
    assert_eq!(simulated.snapshots("vm").await.unwrap().len(), 1);
    die(Method::Undefine);
    assert!(simulated.undefine("vm").await.is_err());
    assert_eq!(simulated.snapshots("vm").await.unwrap(), []);
}

#[tokio::test]
async fn a_revert_brings_back_the_disk() {
    let simulated = Simulated::new();
    simulated.define(XML).await.unwrap();
    simulated.write("vm", "kept");
    let snapshot = NewSnapshot { name: "clean".into(), ..NewSnapshot::default() };
    simulated.create_snapshot("vm", &snapshot).await.unwrap();
    simulated.write("vm", "lost");
    simulated.revert("vm", "clean").await.unwrap();
    assert_eq!(simulated.disk("vm"), ["kept"]);
}

#[tokio::test]
async fn an_agent_that_starts_late_is_waited_for() {
    let simulated = Simulated::new();
    let channel = "<channel><target type='virtio' name='org.qemu.guest_agent.0'/></channel>";
    simulated.define(&format!("<domain><name>vm</name><devices>{channel}</devices></domain>")).await.unwrap();
    simulated.set_agent_starts("vm", false);
    simulated.start("vm").await.unwrap();
    let (answers, ()) = tokio::join!(simulated.wait_for_agent("vm", Duration::from_secs(3600)), async {
        tokio::task::yield_now().await;
        simulated.set_agent_starts("vm", true);
    });
    assert!(answers.unwrap());
    let ping = simulated.agent_command("vm", &json!({"execute": "guest-ping"})).await.unwrap();
    assert_eq!(ping, json!({"return": {}}));
}
