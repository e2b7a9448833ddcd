//! From a started domain to a guest that runs commands.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::support::{Ran, World};
use crate::{
    base::Phase,
    guest::simulated::{Answer, HOST_KEY},
    hypervisor::{
        DomainState, Hypervisor as _,
        simulated::{Fault, Method},
    },
    run::{Event, reach},
};

const OTHER_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBanotherBanotherBanotherBanotherBanotherBa";

#[tokio::test(start_paused = true)]
async fn machine_that_is_up_is_reached_without_a_connection_and_one_that_boots_is_waited_for() {
    let world = World::new(["a"]);
    world.passes().await;
    world.hypervisor.start("a").await.unwrap();
    let site = world.site(Arc::new(|_: Event| {}));
    let reach = async || reach(&site, &world.farm.machines["a"]).await;
    let before = world.guest("a").connections();
    reach().await.unwrap();
    assert_eq!(world.guest("a").connections(), before);
    // Its agent is not there yet, nor is its SSH server.
    world.hypervisor.set_agent_starts("a", false);
    world.guest("a").refuse_connections(5);
    reach().await.unwrap();
    assert_eq!(world.guest("a").connections(), before + 1);
    world.guest("a").refuse_connections(usize::MAX);
    let error = reach().await.unwrap_err();
    assert!(error.to_string().contains("no SSH connection"), "{error}");
}

/// How often a method was called for a machine.
fn count(world: &World, machine: &str, method: Method) -> usize {
    world.hypervisor.calls().iter().filter(|call| call.domain == machine && call.method == method).count()
}

fn clock_commands(world: &World) -> usize {
    world.guest("a").calls().iter().filter(|command| command.argv[0] == "date").count()
}

#[tokio::test(start_paused = true)]
async fn guest_that_never_answers_is_reset_once_and_then_given_up() {
    let world = World::new(["a", "b"]);
    world.at("a", "startup", |hypervisor, guest| {
        hypervisor.set_agent_starts("a", false);
        guest.refuse_connections(usize::MAX);
    });
    let begun = tokio::time::Instant::now();
    let ran = world.up().await;
    assert_eq!(begun.elapsed().as_secs(), 120, "`connection_timeout` is all it gets");
    assert_eq!(ran.operations("a"), ["install", "startup", "shutdown"]);
    assert_eq!(count(&world, "a", Method::Reset), 1);
    assert_eq!(ran.lines("a"), ["no answer after 60 s: resetting it"]);
    let failure = ran.failure("a");
    let message = "the machine does not answer: neither its guest agent nor its SSH server did within 120 s";
    assert_eq!(failure.causes, [message]);
    assert!(failure.help.unwrap().contains("farmhand console 'a'"));
    assert_eq!(world.modules.calls("a"), []);
    assert_eq!(ran.ended("b"), None);
}

#[tokio::test(start_paused = true)]
async fn machine_that_stops_while_it_boots_is_started_once_more() {
    let world = World::new(["a"]);
    let hypervisor = world.hypervisor.clone();
    world.at("a", "startup", |hypervisor, _| hypervisor.set_agent_starts("a", false));
    let die = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        hypervisor.power_off("a");
        hypervisor.set_agent_starts("a", true);
    };
    let (ran, ()) = tokio::join!(world.passes(), die);
    assert_eq!(ran.lines("a"), ["it stopped while it booted: starting it again"]);
    assert_eq!(count(&world, "a", Method::Start), 2);
    assert_eq!(count(&world, "a", Method::Reset), 0);
}

#[tokio::test(start_paused = true)]
async fn guest_that_hung_in_its_boot_is_there_after_a_reset() {
    let world = World::new(["a"]);
    world.at("a", "startup", |hypervisor, guest| {
        hypervisor.set_agent_starts("a", false);
        // Six looks of three seconds each, at a try a second, are made in the first half of the time.
        guest.refuse_connections(6 * 4);
    });
    let ran = world.passes().await;
    assert_eq!(count(&world, "a", Method::Reset), 1);
    assert_eq!(ran.lines("a").len(), 1);
    assert_eq!(world.modules.calls("a"), Phase::ALL);
}

#[tokio::test(start_paused = true)]
async fn guest_without_an_agent_is_reached_by_ssh_alone() {
    let world = World::new(["a"]);
    world.at("a", "startup", |hypervisor, _| hypervisor.set_agent_starts("a", false));
    world.passes().await;
    assert_eq!(count(&world, "a", Method::Reset), 0);
    assert_eq!(world.modules.calls("a"), Phase::ALL);
}

/// A run of a machine whose cloud-init answers so when it is waited for.
async fn with_cloud_init(answer: Answer) -> (World, Ran) {
    let mut world = World::new(["a"]);
    world.add_metadata("a", "cloud_init: true");
    world.guest("a").on(["cloud-init", "status", "--wait", "--long"], answer);
    let ran = world.up().await;
    (world, ran)
}

#[tokio::test(start_paused = true)]
async fn cloud_init_is_waited_for_before_anything_is_done() {
    let done = Answer::ok().stdout("....\nstatus: done\n").after(Duration::from_secs(100));
    let (world, ran) = with_cloud_init(done).await;
    assert_eq!(ran.ended("a"), None);
    assert_eq!(ran.lines("a"), Vec::<String>::new());
    assert_eq!(world.modules.calls("a"), Phase::ALL);
    // It has done its work when the machine is restored.
    assert_eq!(world.passes().await.operations("a")[0], "restore init");
    let asked = world.guest("a").calls().into_iter().filter(|command| command.argv[0] == "cloud-init");
    assert_eq!(asked.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn cloud_init_that_recovered_is_told_and_the_run_goes_on() {
    let (world, ran) = with_cloud_init(Answer::status(2).stdout("....\nstatus: done\ndetail: a key\n")).await;
    assert_eq!(ran.ended("a"), None);
    assert_eq!(
        ran.lines("a"),
        ["cloud-init is done, but not everything went well: status: done detail: a key"]
    );
    assert_eq!(world.modules.calls("a"), Phase::ALL);
}

#[tokio::test(start_paused = true)]
async fn cloud_init_that_is_not_done_fails_the_machine() {
    for (answer, problem, help) in [
        (
            Answer::status(1).stdout("....\nstatus: error\nlast_update: today\ndetail:\nno such key\n"),
            "failed (exit status 1): status: error detail: no such key",
            "see its log: farmhand ssh 'a' -- cat /var/log/cloud-init.log",
        ),
        (Answer::status(127), "is not in the image", "leave vm.metadata.cloud_init out"),
        (Answer::hang(), "was not done 120 s after the start", "give it more time by `connection_timeout`"),
    ] {
        let (world, ran) = with_cloud_init(answer).await;
        assert_eq!(ran.operations("a"), ["install", "startup", "shutdown"], "{problem}");
        let failure = ran.failure("a");
        assert_eq!(failure.causes, [format!("the machine is not ready: cloud-init {problem}")]);
        assert!(failure.help.as_ref().unwrap().starts_with(help), "{failure:?}");
        assert_eq!(world.modules.calls("a"), []);
    }
}

#[tokio::test(start_paused = true)]
async fn host_key_is_pinned_at_the_first_boot_and_demanded_afterwards() {
    let mut world = World::new(["a"]);
    world.passes().await;
    assert_eq!(world.state("a").host_key.as_deref(), Some(HOST_KEY));
    world.guest("a").set_host_key(OTHER_KEY);
    let ran = world.up().await;
    assert_eq!(ran.operations("a"), ["restore init", "shutdown"]);
    let failure = ran.failure("a");
    assert!(failure.causes[0].contains("was pinned when the machine was made"), "{failure:?}");
    assert!(failure.help.unwrap().contains("farmhand up --fresh 'a'"));
    // A machine that is made anew may have another one.
    world.fresh = true;
    world.passes().await;
    assert_eq!(world.state("a").host_key.as_deref(), Some(OTHER_KEY));
}

/// A guest agent that shows this host key.
fn shows_key(key: &'static str) -> impl Fn(&Value) -> Result<Value, String> + Send + Sync {
    move |command| match command["execute"].as_str() {
        Some("guest-file-open") => Ok(json!({ "return": 7 })),
        Some("guest-file-read") if command["arguments"]["handle"] == 7 => {
            Ok(json!({ "return": { "buf-b64": BASE64_STANDARD.encode(format!("{key} root@a\n")) } }))
        }
        _ => Ok(json!({ "return": {} })),
    }
}

#[tokio::test(start_paused = true)]
async fn the_guest_agents_word_verifies_the_very_first_connection() {
    for (told, passes) in [(HOST_KEY, true), (OTHER_KEY, false)] {
        let world = World::new(["a"]);
        world.at("a", "startup", move |hypervisor, _| {
            hypervisor.set_agent_answers("a", Arc::new(shows_key(told)));
        });
        let ran = world.up().await;
        match ran.ended("a") {
            None => assert!(passes),
            Some(failure) => {
                assert!(!passes && failure.causes[0].contains("host key"), "{failure:?}");
                assert_eq!(world.hypervisor.look("a").unwrap().0.metadata.unwrap().ssh_host_key, None);
                assert_eq!(world.modules.calls("a"), []);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn clock_is_put_right_after_a_restore_by_the_agent() {
    let world = World::new(["a"]);
    world.passes().await;
    assert_eq!(count(&world, "a", Method::SynchronizeClock), 0, "a machine that boots knows the time");
    world.passes().await;
    assert_eq!(count(&world, "a", Method::SynchronizeClock), 1);
    assert_eq!(clock_commands(&world), 0);
}

#[tokio::test(start_paused = true)]
async fn clock_is_put_right_over_ssh_when_the_agent_does_not() {
    let world = World::new(["a"]);
    world.passes().await;
    let jobs = world.plan().await;
    world.hypervisor.inject(Method::SynchronizeClock, None, Fault::Fail("no RTC".into()));
    let ran = world.carry_out(jobs).await;
    assert_eq!(ran.ended("a"), None);
    assert_eq!(ran.lines("a"), Vec::<String>::new());
    assert_eq!(clock_commands(&world), 1);
}

#[tokio::test(start_paused = true)]
async fn clock_that_cannot_be_put_right_is_told_and_the_run_goes_on() {
    let world = World::new(["a"]);
    world.passes().await;
    world.hypervisor.set_agent_starts("a", false);
    let refused = |command: &crate::guest::Command| command.argv[0] == "date";
    world.guest("a").on_any(refused, |_, _| Answer::status(1).stderr("Operation not permitted"));
    let ran = world.passes().await;
    assert_eq!(clock_commands(&world), 1);
    let lines = ran.lines("a");
    assert!(lines.len() == 1 && lines[0].contains("Operation not permitted"), "{lines:?}");
    assert_eq!(world.hypervisor.look("a").unwrap().0.state, DomainState::ShutOff);
}
