use std::num::NonZeroUsize;

use proptest::prelude::*;

use crate::plan::{Capacity, Demand, Schedule};

fn demand(hypervisor: usize, memory: u64) -> Demand {
    Demand { hypervisor, memory, vcpus: 1, runs: false }
}

fn capacity(memory: u64) -> Capacity {
    Capacity { memory, ..Capacity::UNBOUNDED }
}

fn begin_all(schedule: &mut Schedule) -> Vec<usize> {
    std::iter::from_fn(|| schedule.begin()).collect()
}

#[test]
fn small_machines_do_not_overtake_a_large_one() {
    let demands = [demand(0, 60), demand(0, 60), demand(0, 10)];
    let mut schedule = Schedule::new(&demands, vec![capacity(100)], None);
    assert_eq!(begin_all(&mut schedule), [0]);
    schedule.end(0, false);
    assert_eq!(begin_all(&mut schedule), [1, 2]);
}

#[test]
fn a_full_hypervisor_does_not_hold_up_another() {
    let demands = [demand(0, 60), demand(0, 60), demand(1, 10), demand(1, 10)];
    let mut schedule = Schedule::new(&demands, vec![capacity(100), capacity(100)], None);
    assert_eq!(begin_all(&mut schedule), [0, 2, 3]);
}

#[test]
fn a_machine_larger_than_all_there_is_gets_it_alone() {
    let demands = [demand(0, 10), demand(0, 500), demand(0, 10)];
    let mut schedule = Schedule::new(&demands, vec![capacity(100)], None);
    assert_eq!(begin_all(&mut schedule), [0]);
    schedule.end(0, false);
    assert_eq!(begin_all(&mut schedule), [1]);
    schedule.end(1, false);
    assert_eq!(begin_all(&mut schedule), [2]);
}

#[test]
fn what_is_given_up_is_not_begun() {
    let demands = [demand(0, 1); 3];
    let mut schedule = Schedule::new(&demands, vec![capacity(100)], NonZeroUsize::new(1));
    assert_eq!(begin_all(&mut schedule), [0]);
    assert_eq!(schedule.give_up(), [1, 2]);
    schedule.end(0, false);
    assert_eq!(begin_all(&mut schedule), [0_usize; 0]);
}

#[test]
fn what_runs_on_keeps_what_it_takes_and_crowds_others_out() {
    let demands = [demand(0, 60), demand(0, 60), demand(0, 40), demand(0, 1), demand(1, 60)];
    let mut schedule = Schedule::new(&demands, vec![capacity(100), capacity(100)], None);
    assert_eq!(begin_all(&mut schedule), [0, 4]);
    assert_eq!(schedule.crowded_out(), [0_usize; 0], "one that is worked on may make room");
    schedule.end(0, true);
    assert_eq!(begin_all(&mut schedule), [0_usize; 0]);
    assert_eq!(schedule.crowded_out(), [1]);
    assert_eq!(begin_all(&mut schedule), [2]);
    assert_eq!(schedule.crowded_out(), [0_usize; 0]);
    schedule.end(2, false);
    assert_eq!(begin_all(&mut schedule), [3]);
}

#[test]
fn what_runs_already_counts_and_waits_for_none() {
    let running = |memory| Demand { runs: true, ..demand(0, memory) };
    let demands = [demand(0, 60), demand(0, 60), running(50), running(40)];
    let mut schedule = Schedule::new(&demands, vec![capacity(100)], NonZeroUsize::new(1));
    assert_eq!(schedule.crowded_out(), [0_usize; 0]);
    assert_eq!(begin_all(&mut schedule), [2]);
    schedule.end(2, false);
    assert_eq!(begin_all(&mut schedule), [0]);
    schedule.end(0, false);
    assert_eq!(begin_all(&mut schedule), [1]);
    schedule.end(1, false);
    assert_eq!(begin_all(&mut schedule), [3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_machine_gets_its_turn_and_no_bound_is_passed(
        demands in prop::collection::vec((0_usize..3, 1_u64..60, 1_u32..5), 1..40),
        caps in prop::collection::vec((20_u64..100, 2_u32..12, prop::option::of(1_usize..5)), 3),
        jobs in prop::option::of(1_usize..6),
        ends in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let demands: Vec<_> =
            demands.into_iter().map(|(hypervisor, memory, vcpus)| Demand { hypervisor, memory, vcpus, runs: false }).collect();
        let caps: Vec<_> = caps.into_iter()
            .map(|(memory, vcpus, machines)| Capacity { memory, vcpus, machines: machines.and_then(NonZeroUsize::new) })
            .collect();
        let jobs = jobs.and_then(NonZeroUsize::new);
        let mut schedule = Schedule::new(&demands, caps.clone(), jobs);
        let mut busy = Vec::new();
        let mut order: Vec<Vec<usize>> = vec![vec![]; 3];
        for end in ends {
            for machine in begin_all(&mut schedule) {
                busy.push(machine);
                order[demands[machine].hypervisor].push(machine);
            }
            prop_assert!(jobs.is_none_or(|jobs| busy.len() <= jobs.get()));
            for (at, cap) in caps.iter().enumerate() {
                let here: Vec<_> = busy.iter().map(|machine| demands[*machine]).filter(|d| d.hypervisor == at).collect();
                if here.len() > 1 {
                    prop_assert!(here.iter().map(|d| d.memory).sum::<u64>() <= cap.memory);
                    prop_assert!(here.iter().map(|d| d.vcpus).sum::<u32>() <= cap.vcpus);
                    prop_assert!(cap.machines.is_none_or(|most| here.len() <= most.get()));
                }
            }
            if busy.is_empty() {
                break;
            }
            let ended = busy.swap_remove(end.index(busy.len()));
            schedule.end(ended, false);
        }
        prop_assert!(busy.is_empty() && schedule.begin().is_none(), "all had their turn");
        prop_assert_eq!(order.iter().map(Vec::len).sum::<usize>(), demands.len());
        prop_assert!(order.iter().all(|order| order.is_sorted()), "on one hypervisor none overtakes another");
    }
}
