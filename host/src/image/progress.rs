use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How far an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub doing: Doing,
    /// Bytes that have come.
    pub done: u64,
    /// Bytes that there are, if that is known.
    pub total: Option<u64>,
}

/// What is being done with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It is fetched.
    Fetching,
    /// The server failed; it will be asked again.
    Waiting,
    /// It is unpacked.
    Unpacking,
    /// It is converted to another format.
    Converting,
    /// It is brought to a hypervisor on another host.
    Uploading,
}

/// Called with each piece that comes; it must return soon.
pub type ProgressFn = Arc<dyn Fn(Progress) + Send + Sync>;

/// Between two lines about the same thing.
const INTERVAL: Duration = Duration::from_millis(500);

/// Turns progress into words for people, not too many of them.
#[derive(Debug)]
pub struct Meter {
    what: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    doing: Option<Doing>,
    told: Instant,
    /// Where the rate is counted from: the last line but one.
    since: (Instant, u64),
    last: (Instant, u64),
}

impl Meter {
    /// Words about `what`.
    pub fn new(what: impl Into<String>) -> Self {
        let start = (Instant::now(), 0);
        let state = State { doing: None, told: start.0, since: start, last: start };
        Self { what: what.into(), state: Mutex::new(state) }
    }

    /// What to say now, if it is time to: `disk 0: 40 of 120 MB (8.1 MB/s)`.
    pub fn words(&self, progress: Progress) -> Option<String> {
        self.words_at(progress, Instant::now())
    }

    fn words_at(&self, progress: Progress, now: Instant) -> Option<String> {
        let Progress { doing, done, total } = progress;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let first = state.doing.replace(doing) != Some(doing);
        if first {
            (state.since, state.last) = ((now, done), (now, done));
        }
        let complete = total == Some(done) && matches!(doing, Doing::Fetching | Doing::Uploading);
        if !first && !complete && now.duration_since(state.told) < INTERVAL {
            return None;
        }
        state.told = now;
        let (since, before) = state.since;
        let seconds = now.duration_since(since).as_secs_f64();
        let rate = (seconds > 0.0).then(|| done.saturating_sub(before) as f64 / seconds);
        state.since = state.last;
        state.last = (now, done);
        let what = &self.what;
        Some(match doing {
            Doing::Unpacking => format!("{what}: unpacking it"),
            Doing::Converting => format!("{what}: converting it"),
            Doing::Waiting => format!("{what}: the server failed after {}; trying again", megabytes(done)),
            Doing::Fetching | Doing::Uploading => {
                let uploading = if doing == Doing::Uploading { "uploading it, " } else { "" };
                let of = match total {
                    Some(total) => format!("{} of {}", plain(done), megabytes(total)),
                    None => megabytes(done),
                };
                let rate = rate.map(|rate| format!(" ({:.1} MB/s)", rate / 1e6)).unwrap_or_default();
                format!("{what}: {uploading}{of}{rate}")
            }
        })
    }
}

fn plain(bytes: u64) -> u64 {
    bytes / 1_000_000
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", plain(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_and_rate_are_told_now_and_then() {
        let meter = Meter::new("disk 0");
        let start = Instant::now();
        let words = |doing, milliseconds: u64, done: u64, total: u64| {
            let progress = Progress { doing, done: done * 1_000_000, total: Some(total * 1_000_000) };
            meter.words_at(progress, start + Duration::from_millis(milliseconds))
        };
        let fetching = |milliseconds: u64, done: u64| words(Doing::Fetching, milliseconds, done, 100);
        assert_eq!(fetching(0, 0).as_deref(), Some("disk 0: 0 of 100 MB"));
        assert_eq!(fetching(400, 4), None, "not yet");
        assert_eq!(fetching(500, 5).as_deref(), Some("disk 0: 5 of 100 MB (10.0 MB/s)"));
        assert_eq!(fetching(1500, 45).as_deref(), Some("disk 0: 45 of 100 MB (30.0 MB/s)"));
        assert_eq!(
            fetching(2500, 85).as_deref(),
            Some("disk 0: 85 of 100 MB (40.0 MB/s)"),
            "the last two intervals"
        );
        assert_eq!(
            fetching(2501, 100).as_deref(),
            Some("disk 0: 100 of 100 MB (54.9 MB/s)"),
            "the end is always told"
        );
        let waiting = words(Doing::Waiting, 2502, 100, 100);
        assert_eq!(waiting.as_deref(), Some("disk 0: the server failed after 100 MB; trying again"));
        let uploading = words(Doing::Uploading, 2503, 0, 100);
        assert_eq!(uploading.as_deref(), Some("disk 0: uploading it, 0 of 100 MB"));
        assert_eq!(words(Doing::Unpacking, 2504, 0, 0).as_deref(), Some("disk 0: unpacking it"));
    }
}
