//! Rehearses what a run would do with a machine, step by step: modules run in check mode, and nothing is touched.

use std::sync::Arc;

use camino::Utf8Path;
use serde::Serialize;

use super::{phase, state};
use crate::{
    base::Phase,
    farm::Machine,
    guest::Stream,
    module::{
        self, Check, CheckedAnswer, CheckedCall, CheckedCalls, ModuleLog, Probes, Rehearsal, ResolvedStep,
        ResolvedSteps,
    },
    plan::{MachinePlan, Operation, PlannedOperation, Wanted},
};

/// What the steps of a phase would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RehearsedPhase {
    /// The phase.
    pub phase: Phase,
    /// Its steps.
    pub steps: Vec<RehearsedStep>,
}

/// What a step would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RehearsedStep {
    /// Its name.
    pub name: String,
    /// Its module.
    pub module: String,
    /// What the module asked for, in order, and how it was answered.
    pub calls: Vec<CheckedCall>,
    /// How far that could be told.
    pub end: RehearsedEnd,
}

/// How a step ended in check mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "why")]
pub enum RehearsedEnd {
    /// It would find all as it should be.
    Unchanged,
    /// It would make the calls that were held back.
    Changes,
    /// It asked for what is not known, and ended there: what it would do after that can't be told.
    Unknown(String),
    /// It would fail.
    Fails(String),
}

/// Rehearses a machine's plan: the phases that would be carried out, in order. `known` is the folder with what guests answered in
/// earlier runs; no guest is asked, for a machine that runs now is mostly put back into another state first, and that a command
/// only looks is but the module's word.
pub async fn rehearse(
    machine: &Machine,
    plan: &MachinePlan,
    wanted: &Wanted,
    steps: &ResolvedSteps,
    known: &Utf8Path,
) -> Vec<RehearsedPhase> {
    let path = state::probes_file(known, &machine.name);
    let probes = Arc::new(state::open(Some(path)).await);
    let check = Arc::new(Check::new(probes.clone()));
    let mut phases = Vec::new();
    for PlannedOperation { operation, .. } in &plan.operations {
        state::follow(&probes, *operation, wanted);
        if let Operation::Phase { phase } = *operation {
            let mut rehearsed = Vec::new();
            for step in steps.of(phase) {
                rehearsed.push(rehearse_step(machine, phase, step, &check, &probes).await);
            }
            phases.push(RehearsedPhase { phase, steps: rehearsed });
        }
    }
    phases
}

async fn rehearse_step(
    machine: &Machine,
    phase: Phase,
    step: &ResolvedStep,
    check: &Arc<Check>,
    probes: &Probes,
) -> RehearsedStep {
    let facts = probes.facts();
    let has_facts = facts.is_some();
    let call = Rehearsal {
        context: phase::context(machine, phase, step),
        answers: check.clone(),
        facts,
        grants: step.grants.clone(),
        limits: step.limits.clone(),
        log: Arc::new(Silent),
    };
    let ended = step.rehearse(call).await;
    let CheckedCalls { calls, left_out } = check.take();
    let any = |answer: CheckedAnswer| calls.iter().any(|call| call.answer == answer);
    let end = match ended {
        _ if left_out => RehearsedEnd::Unknown("it asks for more than is kept of a step".to_owned()),
        Ok(_) if any(CheckedAnswer::HeldBack) => RehearsedEnd::Changes,
        Ok(outcome) if outcome.changed => RehearsedEnd::Changes,
        Ok(_) => RehearsedEnd::Unchanged,
        Err(error) if any(CheckedAnswer::Unknown) || !has_facts => RehearsedEnd::Unknown(error.to_string()),
        Err(error) => RehearsedEnd::Fails(error.to_string()),
    };
    if !matches!(end, RehearsedEnd::Changes | RehearsedEnd::Unchanged) {
        // What it would have done is missing in the history.
        probes.lost();
    }
    RehearsedStep { name: step.step.name.clone(), module: step.module.identity().name, calls, end }
}

/// What modules say while nothing happens is of no use.
struct Silent;

impl ModuleLog for Silent {
    fn line(&self, _: module::Level, _: &str) {}

    fn output(&self, _: Stream, _: &str) {}

    fn progress(&self, _: &str, _: Option<u8>) {}
}
