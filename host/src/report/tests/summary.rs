//! What stands at the end of runs with few, many and very many machines.

use super::*;
use crate::report::summary::End;

/// The summary of a run in which machines ended like this, after all of them were planned.
fn summary(machines: &[String], ended: Vec<Event>, end: End) -> Vec<String> {
    let mut text = Text::new(Detail { verbose: false }, Some(RUN.parse::<RunId>().unwrap()));
    let plans = machines.iter().map(|machine| MachinePlan {
        machine: machine.clone(),
        checkpoints: Default::default(),
        operations: vec![],
    });
    text.lines(&started(plans.collect()));
    ended.iter().for_each(|event| drop(text.lines(event)));
    text.end(end)
}

fn names(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("vm{number:04}")).collect()
}

fn ended(machine: &str, failure: Option<Failure>, seconds: f64) -> Event {
    Event::MachineFinished { machine: machine.to_owned(), failure, seconds }
}

fn failure(during: &str, step: Option<&str>, causes: &[&str], output: usize) -> Failure {
    Failure {
        during: during.into(),
        step: step.map(str::to_owned),
        causes: causes.iter().map(|cause| (*cause).to_owned()).collect(),
        help: None,
        last_output: (1..=output).map(|number| format!("line {number} of the output")).collect(),
    }
}

/// Three kinds of failures. In the first two, the machine's name stands in the reason or the help.
fn of_kind(kind: usize, machine: &str) -> Failure {
    match kind {
        0 => failure(
            "main",
            Some("Build"),
            &[
                "step `Build` failed",
                "`make` ended with exit status 2:\nmake: *** No rule to make target 'all'.",
            ],
            20,
        ),
        1 => {
            let mut failure = failure(
                "restore init",
                None,
                &[&format!("can't revert {machine} to p.0.init"), &format!("domain '{machine}' is gone")],
                0,
            );
            failure.help = Some(format!("look at it: virsh dominfo '{machine}'"));
            failure
        }
        _ => failure("lock", None, &["another farmhand works on it at the moment"], 0),
    }
}

/// `failed` machines of `all`, evenly spread, each kind of failure as often as the others.
fn many(all: usize, failed: usize) -> Vec<String> {
    let names = names(all);
    let every = all / failed;
    let ends = names.iter().enumerate().map(|(index, name)| {
        let failure = (index % every == 0).then(|| of_kind(index / every % 3, name));
        ended(name, failure, 20.0 + (index * 7 % 100) as f64 / 10.0)
    });
    summary(&names, ends.collect(), End::Finished { seconds: 95.5 })
}

#[test]
fn of_two_machines() {
    let ends = events().into_iter().filter(|event| matches!(event, Event::MachineFinished { .. })).collect();
    let names = ["debian_vs_amd64".to_owned(), "Arch-Linux_amd64".to_owned()];
    insta::assert_snapshot!("two", summary(&names, ends, End::Finished { seconds: 63.2 }).join("\n"));
}

#[test]
fn of_thirty_machines() {
    let lines = many(30, 3);
    assert!(lines.len() <= 40, "{}", lines.len());
    insta::assert_snapshot!("thirty", lines.join("\n"));
}

#[test]
fn of_a_thousand_machines_with_50_failures_of_three_kinds() {
    let lines = many(1_000, 50);
    assert!(lines.len() <= 40, "{}", lines.len());
    insta::assert_snapshot!("thousand", lines.join("\n"));
}

#[test]
fn it_fits_on_a_screen_whatever_happened() {
    for (machines, kinds, output, causes) in [
        (2, 2, 20, 30),
        (10, 10, 20, 3),
        (10, 1, 20, 3),
        (11, 11, 20, 1),
        (300, 250, 20, 40),
        (5_000, 1, 0, 0),
    ] {
        let names = names(machines);
        let mut events = Vec::new();
        for (index, name) in names.iter().enumerate() {
            match index % 7 {
                // Neither begun, nor, for some, finished.
                3 if machines > 10 => {}
                4 if machines > 10 => events.push(Event::MachineStarted { machine: name.clone() }),
                _ => {
                    let reason = format!("reason {}\n{}", index % kinds, "line of it\n".repeat(causes));
                    events.push(ended(name, Some(failure("main", None, &[&reason], output)), 1.0));
                }
            }
        }
        for end in [End::Finished { seconds: 1.0 }, End::CutOff] {
            let lines = summary(&names, events.clone(), end);
            assert!(lines.len() <= 40, "{machines} machines, {kinds} kinds: {}", lines.join("\n"));
            assert!(lines.iter().filter(|line| line.starts_with("FAILED")).count() <= 11);
        }
    }
}

#[test]
fn long_lines_are_cut_where_there_are_many_machines() {
    let names = names(20);
    let reason = "x".repeat(8 << 10);
    let ends =
        names.iter().map(|name| ended(name, Some(failure("main", None, &[&reason], 0)), 1.0)).collect();
    let lines = summary(&names, ends, End::Finished { seconds: 1.0 });
    assert!(lines.iter().all(|line| line.len() < 200), "{lines:#?}");
}

#[test]
fn of_runs_that_did_not_come_to_an_end() {
    let names = names(5);
    let events = vec![
        Event::MachineStarted { machine: names[0].clone() },
        ended(&names[0], None, 12.0),
        Event::MachineStarted { machine: names[1].clone() },
        ended(&names[1], Some(of_kind(2, &names[1])), 0.1),
        Event::MachineStarted { machine: names[2].clone() },
    ];
    let texts: Vec<_> = [End::CutOff, End::Running, End::Finished { seconds: 3.0 }]
        .into_iter()
        .map(|end| summary(&names, events.clone(), end).join("\n"))
        .collect();
    insta::assert_snapshot!("unfinished", texts.join("\n---\n"));
}

#[test]
fn a_name_that_is_part_of_a_word_makes_no_other_kind() {
    let names = ["a".to_owned(), "b".to_owned()].into_iter().chain(names(20)).collect::<Vec<_>>();
    let ends = names.iter().map(|name| {
        let reason = format!("a bad thing on {name}: {name}-disk1 and {name}.lock");
        ended(name, Some(failure("main", None, &[&reason.replace("-disk1", " disk1")], 0)), 1.0)
    });
    let lines = summary(&names, ends.collect(), End::Finished { seconds: 3.0 });
    // The article is the name of the first machine, whose failure so differs.
    assert_eq!(lines[1], "FAILED  21 machines: b, vm0001, vm0002, ...");
}
