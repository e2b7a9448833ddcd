//! What a run leaves beside machines: artifacts, and what guests answered; and rehearsals, which live off that.

use super::support::World;
use crate::{
    base::{Checkpoint, Phase},
    module::Probes,
    run::{MachineJob, RehearsedEnd, RehearsedPhase, rehearse},
};

#[tokio::test(start_paused = true)]
async fn artifacts_of_each_step_have_a_folder_of_their_own() {
    let world = World::new(["a", "b"]);
    world.passes().await;
    for machine in ["a", "b"] {
        for phase in Phase::ALL {
            let file = world
                .run_folder()
                .join(machine)
                .join("artifacts")
                .join(format!("{phase}-1-{phase}"))
                .join("left.txt");
            let left = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(left, format!("{phase} 0"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn facts_are_kept_for_the_state_that_they_were_found_in() {
    let world = World::new(["a"]);
    world.passes().await;
    let probes = Probes::open(&world.probes().join("a.json"));
    let jobs = world.plan().await;
    probes.reached(jobs[0].wanted.record(Checkpoint::Clean).key);
    assert_eq!(probes.facts().unwrap().os_id, "debian");
}

async fn rehearse_job(job: &MachineJob, world: &World) -> Vec<RehearsedPhase> {
    rehearse(&job.machine, &job.plan, &job.wanted, &job.steps, &world.probes()).await
}

#[tokio::test(start_paused = true)]
async fn a_rehearsal_follows_the_plan_and_touches_nothing() {
    let world = World::new(["a"]);
    let jobs = world.plan().await;
    let rehearsed = rehearse_job(&jobs[0], &world).await;
    let phases: Vec<Phase> = rehearsed.iter().map(|phase| phase.phase).collect();
    assert_eq!(phases, Phase::ALL, "a first run carries out all phases");
    // Nobody ever asked this machine anything.
    for phase in &rehearsed {
        let step = &phase.steps[0];
        assert!(matches!(&step.end, RehearsedEnd::Unknown(why) if why.contains("not known")), "{step:?}");
    }
    assert!(world.hypervisor.look("a").is_none(), "a rehearsal makes no machine");

    // Now only main and terminate are left, and their phases alone are rehearsed.
    world.passes().await;
    let jobs = world.plan().await;
    let again = rehearse_job(&jobs[0], &world).await;
    let phases: Vec<Phase> = again.iter().map(|phase| phase.phase).collect();
    assert_eq!(phases, [Phase::Main, Phase::Terminate]);
}
