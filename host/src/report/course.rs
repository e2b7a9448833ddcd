use indexmap::IndexMap;

use crate::run::{Event, Failure};

/// How far each machine of a run has got, by the events so far.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// By name; those that the run was to work on first, in its order.
    pub(super) machines: IndexMap<String, Progress>,
    /// Why machines were not begun, if that was said.
    pub(super) skipped: Option<String>,
}

/// How far a machine has got.
#[derive(Debug, Clone, Default)]
pub(super) enum Progress {
    /// Nothing was done with it yet.
    #[default]
    NotBegun,
    /// It is worked on.
    Begun,
    /// It is done with.
    Ended {
        /// Why it failed, if it did.
        failure: Option<Failure>,
        /// How long it took.
        seconds: f64,
    },
}

impl Course {
    pub(super) fn take(&mut self, event: &Event) {
        let (machine, progress) = match event {
            Event::RunStarted { plans, .. } => {
                self.machines = plans.iter().map(|plan| (plan.machine.clone(), Progress::NotBegun)).collect();
                return;
            }
            Event::MachineSkipped { reason, .. } => {
                self.skipped.get_or_insert_with(|| reason.clone());
                return;
            }
            Event::MachineStarted { machine } => (machine, Progress::Begun),
            Event::MachineFinished { machine, failure, seconds } => {
                (machine, Progress::Ended { failure: failure.clone(), seconds: *seconds })
            }
            _ => return,
        };
        self.machines.insert(machine.clone(), progress);
    }
}
