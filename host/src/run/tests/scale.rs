//! Many machines.

use std::{num::NonZeroUsize, time::Duration};

use super::{modules::Behaviour, support::World};
use crate::{base::Phase, run::Summary};

#[tokio::test(start_paused = true)]
async fn of_a_thousand_machines_exactly_those_fail_that_have_a_fault() {
    let (machines, jobs) = (1000, 20);
    let names: Vec<_> = (0..machines).map(|number| format!("m{number:04}")).collect();
    let mut world = World::of(&names);
    world.at_once = NonZeroUsize::new(jobs);
    // 50 of them, in each of the phases, in each way.
    let behaviours = [Behaviour::Fail, Behaviour::Trap, Behaviour::Hang, Behaviour::Panic];
    let faulty: Vec<_> = names.iter().step_by(20).collect();
    for (index, name) in faulty.iter().enumerate() {
        let phase = Phase::ALL[index % 4];
        world.modules.set(name, phase, behaviours[index / 4 % 4]);
    }
    let begun = tokio::time::Instant::now();
    let ran = world.up().await;
    let took = begun.elapsed();
    assert_eq!(ran.summary, Some(Summary { passed: 950, failed: 50, skipped: 0 }));
    let failed: Vec<_> = names.iter().filter(|name| ran.ended(name).is_some()).collect();
    assert_eq!(failed, faulty);

    // Simulated time: 4 s of work for each machine, and 600 s until a module that hangs is stopped.
    let hanging = faulty.iter().enumerate().filter(|(index, _)| index / 4 % 4 == 2).count();
    let work = Duration::from_secs(4 * 1000 + 600 * u64::try_from(hanging).unwrap());
    let ideal = work / u32::try_from(jobs).unwrap();
    assert!(took >= ideal * 9 / 10, "{took:?} of {ideal:?}");
    // At the end some that hang are waited for alone.
    assert!(took <= ideal + Duration::from_secs(650), "{took:?} of {ideal:?}");

    world.modules.mend();
    world.passes().await;
}
