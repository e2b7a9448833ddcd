use std::time::Duration;

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a started machine must answer.
    pub connection: Duration,
    /// Until a machine that was asked to shut down is forced to.
    pub shutdown: Duration,
    /// A step, unless it says otherwise.
    pub step: Duration,
}

pub(super) fn default_connection_timeout() -> u64 {
    120
}

pub(super) fn default_retry_count() -> u32 {
    10
}

pub(super) fn default_retry_delay() -> u64 {
    5
}

pub(super) fn default_step_timeout() -> u64 {
    3600
}
