use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::module::{
    bindings::farmhand::phase::log as wit,
    call::{Level, ModuleLog},
    limits::Limits,
    text,
};

const MAX_FIELDS: usize = 32;
const MAX_FIELD_NAME: usize = 64;
const MAX_FIELD_VALUE: usize = 1024;
const MAX_PROGRESS: usize = 200;

/// A field as it stands in a line: ` name=value`, the value in quotes where it has blanks.
fn in_words(field: &wit::Field) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '_' };
    let name: String = field.name.chars().take(MAX_FIELD_NAME).map(allowed).collect();
    let value = text::one_line(text::cut(&field.value), MAX_FIELD_VALUE);
    if value.contains([' ', '"', '=']) || value.is_empty() {
        format!(" {name}={value:?}")
    } else {
        format!(" {name}={value}")
    }
}

/// Between a module and the log: lines are made plain, cut, and held to a rate. Its clones are one gate.
#[derive(Clone)]
pub(in crate::module) struct LogGate(Arc<Mutex<Gate>>);

struct Gate {
    log: Option<Arc<dyn ModuleLog>>,
    burst: f64,
    rate: f64,
    /// How many lines may come at once now (a token bucket).
    allowance: f64,
    refilled: Instant,
    dropped: u64,
    last_error: Option<String>,
}

impl LogGate {
    pub(in crate::module) fn new(log: Arc<dyn ModuleLog>, limits: &Limits) -> Self {
        Self::with(Some(log), limits)
    }

    /// A log that goes nowhere: for `describe`.
    pub(in crate::module) fn closed(limits: &Limits) -> Self {
        Self::with(None, limits)
    }

    fn with(log: Option<Arc<dyn ModuleLog>>, limits: &Limits) -> Self {
        let burst = f64::from(limits.log_burst);
        Self(Arc::new(Mutex::new(Gate {
            log,
            burst,
            rate: f64::from(limits.log_rate),
            allowance: burst,
            refilled: Instant::now(),
            dropped: 0,
            last_error: None,
        })))
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a message, line by line. Its fields stand at the end of the first line: `message name=value`.
    pub(in crate::module) fn write(&self, level: Level, message: &str, fields: &[wit::Field]) {
        let mut gate = self.gate();
        let mut fields = fields.iter().take(MAX_FIELDS).map(in_words).collect::<String>();
        // Cut before it is looked at: a message may be as large as a call.
        for line in text::cut(message).lines() {
            let line = text::plain(line) + &std::mem::take(&mut fields);
            let line = text::cut(&line).to_owned();
            if level >= Level::Warn {
                gate.last_error = Some(line.clone());
            }
            if gate.take() {
                gate.pass(level, &line);
            } else {
                gate.dropped += 1;
            }
        }
    }

    /// Says how far the module has got.
    pub(in crate::module) fn progress(&self, message: &str, percent: Option<u8>) {
        let mut gate = self.gate();
        let message = text::one_line(text::cut(message), MAX_PROGRESS);
        if !gate.take() {
            gate.dropped += 1;
        } else if let Some(log) = &gate.log {
            log.progress(&message, percent.map(|percent| percent.min(100)));
        }
    }

    /// Tells how many lines were dropped, if any.
    pub(in crate::module) fn finish(&self) {
        let mut gate = self.gate();
        let dropped = std::mem::take(&mut gate.dropped);
        if dropped > 0 {
            let Gate { burst, rate, .. } = &*gate;
            let text =
                format!("{dropped} lines were dropped (limit: {burst} lines at once, {rate} a second)");
            gate.pass(Level::Warn, &text);
        }
    }

    /// The last error or warning that was logged.
    pub(in crate::module) fn last_error(&self) -> Option<String> {
        self.gate().last_error.clone()
    }

    /// The log itself, for the output of commands.
    pub(super) fn log(&self) -> Option<Arc<dyn ModuleLog>> {
        self.gate().log.clone()
    }
}

impl Gate {
    fn take(&mut self) -> bool {
        let now = Instant::now();
        let refill = now.duration_since(self.refilled).as_secs_f64() * self.rate;
        self.allowance = (self.allowance + refill).min(self.burst);
        self.refilled = now;
        if self.allowance < 1.0 {
            return false;
        }
        self.allowance -= 1.0;
        true
    }

    fn pass(&self, level: Level, line: &str) {
        if let Some(log) = &self.log {
            log.line(level, line);
        }
    }
}

impl From<wit::Level> for Level {
    fn from(level: wit::Level) -> Self {
        match level {
            wit::Level::Debug => Self::Debug,
            wit::Level::Info => Self::Info,
            wit::Level::Warn => Self::Warn,
            wit::Level::Error => Self::Error,
        }
    }
}
