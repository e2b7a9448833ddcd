use std::fmt::Write;

use crate::{
    module::{CheckedAnswer, CheckedCall},
    run::{RehearsedEnd, RehearsedPhase, RehearsedStep},
};

/// What a machine's steps would do, for people: the calls that were held back, and what could not be told.
pub fn rehearsal_text(phases: &[RehearsedPhase]) -> String {
    let mut text = String::new();
    for phase in phases {
        let _ = writeln!(text, "  {}", phase.phase);
        for step in &phase.steps {
            let _ = writeln!(text, "    {} ({})", step.name, step.module);
            step_text(&mut text, step);
        }
    }
    text
}

fn step_text(text: &mut String, step: &RehearsedStep) {
    let mut assumed: Vec<&str> = Vec::new();
    for call in &step.calls {
        match call.answer {
            CheckedAnswer::Known => {}
            CheckedAnswer::Assumed => assumed.push(&call.text),
            CheckedAnswer::Unknown => line(text, "not known", &call.text),
            CheckedAnswer::HeldBack => {
                // An assumption matters only to what comes after it.
                for assumption in assumed.drain(..) {
                    line(text, "assuming", &format!("that this answers as before: {assumption}"));
                }
                line(text, "would", &held_back(call));
            }
        }
    }
    let why = |why: &str| why.replace('\n', "\n               ");
    match &step.end {
        RehearsedEnd::Changes if step.calls.iter().any(|call| call.answer == CheckedAnswer::HeldBack) => {}
        RehearsedEnd::Changes => line(text, "would", "change something"),
        RehearsedEnd::Unchanged if assumed.is_empty() => line(text, "nothing", "to do"),
        RehearsedEnd::Unchanged => {
            for assumption in assumed {
                line(text, "assuming", &format!("that this answers as before: {assumption}"));
            }
            line(text, "nothing", "to do");
        }
        // The call that was not answered stands above.
        RehearsedEnd::Unknown(_) if step.calls.iter().any(|call| call.answer == CheckedAnswer::Unknown) => {
            line(text, "not known", "what comes after that");
        }
        RehearsedEnd::Unknown(error) => {
            line(text, "not known", &format!("what comes then: {}", why(error)));
        }
        RehearsedEnd::Fails(error) => line(text, "would fail", &why(error)),
    }
}

fn held_back(call: &CheckedCall) -> String {
    match &call.call {
        crate::module::GuestCall::Exec(_) => format!("run {}", call.text),
        _ => call.text.clone(),
    }
}

fn line(text: &mut String, word: &str, rest: &str) {
    let _ = writeln!(text, "      {word:<10} {rest}");
}
