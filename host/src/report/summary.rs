//! The last words of a run. They fit on a screen, whatever the number of machines.

use indexmap::IndexMap;

use super::{
    course::{Course, Progress},
    lines::in_step,
    seconds,
};
use crate::{
    base::counted,
    run::{Failure, RunId},
};

/// How many lines a screen has.
const SCREEN: usize = 40;

/// Up to so many machines have a line of their own each.
const FEW: usize = 10;

/// Of so many kinds of failures the details are shown.
const KINDS: usize = 5;

/// How many machines are named where there are many.
const NAMED: usize = 3;

/// What is longer than this is cut where there is little room, in characters.
const WIDTH: usize = 160;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum End {
    /// As it should.
    Finished {
        /// How long it took.
        seconds: f64,
    },
    /// Not yet: it goes on.
    Running,
    /// Its process ended before.
    CutOff,
}

/// A summary: passed machines, failures with their reason and what to do next, and where the rest is.
pub(super) fn summary(course: &Course, end: End, record: Option<&RunId>) -> Vec<String> {
    let ended = Ended::of(course);
    let full = ended.full();
    let is_full = course.machines.len() <= FEW && full.len() + 3 <= SCREEN;
    let mut lines = vec![String::new()];
    lines.extend(if is_full { full } else { ended.short(SCREEN - 3, course.machines.len() <= FEW) });
    lines.push(ended.total(end));
    let one = if is_full { "" } else { " (--machine NAME for one machine)" };
    lines.extend(record.map(|run| format!("record: farmhand report {run}{one}")));
    lines
}

/// The machines by how they ended.
struct Ended<'a> {
    passed: Vec<(&'a str, f64)>,
    failed: Vec<Failed<'a>>,
    begun: Vec<&'a str>,
    not_begun: Vec<&'a str>,
    /// Why, if that was said.
    skipped: Option<&'a str>,
    /// That of the longest name.
    width: usize,
}

#[derive(Clone, Copy)]
struct Failed<'a> {
    machine: &'a str,
    failure: &'a Failure,
    seconds: f64,
}

impl<'a> Ended<'a> {
    fn of(course: &'a Course) -> Self {
        let width = course.machines.keys().map(String::len).max().unwrap_or_default();
        let skipped = course.skipped.as_deref();
        let mut ended =
            Self { passed: vec![], failed: vec![], begun: vec![], not_begun: vec![], skipped, width };
        for (machine, progress) in &course.machines {
            match progress {
                Progress::NotBegun => ended.not_begun.push(machine),
                Progress::Begun => ended.begun.push(machine),
                Progress::Ended { failure: None, seconds } => ended.passed.push((machine, *seconds)),
                Progress::Ended { failure: Some(failure), seconds } => {
                    ended.failed.push(Failed { machine, failure, seconds: *seconds });
                }
            }
        }
        ended
    }

    /// Everything there is to say.
    fn full(&self) -> Vec<String> {
        let mut lines = self.passed();
        lines.extend(self.failed.iter().flat_map(|failed| {
            let mut lines = vec![self.failed_line(failed)];
            lines.extend(details(failed, None));
            lines
        }));
        lines.extend(self.unfinished());
        lines
    }

    /// What fits into a number of lines.
    fn short(&self, room: usize, few: bool) -> Vec<String> {
        let mut lines = if few { self.passed() } else { self.slowest() };
        let unfinished = self.unfinished();
        let kinds = kinds(&self.failed);
        let (shown, others) = kinds.split_at(kinds.len().min(KINDS));
        let others: Vec<_> = others.iter().flatten().map(|failed| failed.machine).collect();
        let room = room.saturating_sub(lines.len() + unfinished.len() + usize::from(!others.is_empty()));
        for kind in shown {
            let room = room / shown.len();
            match &kind[..] {
                [] => {}
                [failed] => {
                    lines.push(clip(&self.failed_line(failed)));
                    lines.extend(details(failed, Some(room.saturating_sub(1))));
                }
                [first, ..] => {
                    lines.push(format!(
                        "FAILED  {}: {}",
                        counted(kind.len(), "machine"),
                        some(kind.iter().map(|failed| failed.machine))
                    ));
                    lines.push(clip(&format!("        {}", during(first.failure))));
                    lines.extend(details(first, Some(room.saturating_sub(2))));
                }
            }
        }
        if !others.is_empty() {
            let count = counted(others.len(), "machine");
            lines.push(format!("FAILED  {count} for other reasons: {}", some(others.into_iter())));
        }
        lines.extend(unfinished);
        lines
    }

    fn passed(&self) -> Vec<String> {
        let width = self.width;
        let line = |(machine, took): &(&str, f64)| format!("passed  {machine:width$}  {}", seconds(*took));
        self.passed.iter().map(line).collect()
    }

    /// All that passed, in one line.
    fn slowest(&self) -> Vec<String> {
        if self.passed.is_empty() {
            return vec![];
        }
        let mut slowest = self.passed.clone();
        slowest.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let names: Vec<_> =
            slowest.iter().take(NAMED).map(|(name, took)| format!("{name} {}", seconds(*took))).collect();
        vec![format!("passed  {} (slowest: {})", counted(slowest.len(), "machine"), names.join(", "))]
    }

    fn failed_line(&self, Failed { machine, failure, seconds: took }: &Failed<'_>) -> String {
        format!("FAILED  {machine:width$}  {}, {}", seconds(*took), during(failure), width = self.width)
    }

    /// A line for those that the run did not come to the end of, and one for those that it did not come to.
    fn unfinished(&self) -> Vec<String> {
        let line = |what: &str, names: &Vec<&str>| {
            (!names.is_empty()).then(|| format!("{what}{}", some(names.iter().copied())))
        };
        let why = self.skipped.map(|why| format!(": {why}")).unwrap_or_default();
        let not_begun = line("not begun   ", &self.not_begun).map(|line| line + &why);
        [line("unfinished  ", &self.begun), not_begun].into_iter().flatten().collect()
    }

    fn total(&self, end: End) -> String {
        let passed = counted(self.passed.len(), "machine");
        let mut total = format!("{passed} passed, {} failed", self.failed.len());
        for (count, what) in [(self.begun.len(), "unfinished"), (self.not_begun.len(), "not begun")] {
            if count > 0 {
                total += &format!(", {count} {what}");
            }
        }
        match end {
            End::Finished { seconds: took } => format!("{total} in {}", seconds(took)),
            End::Running => format!("this run still goes on; so far: {total}"),
            End::CutOff => format!("this run was cut off: {total}"),
        }
    }
}

/// Failures of the same kind together: same operation, step and causes, but for the machine's name. The largest kind first.
fn kinds<'a>(failed: &[Failed<'a>]) -> Vec<Vec<Failed<'a>>> {
    let mut kinds: IndexMap<_, Vec<Failed<'a>>> = IndexMap::new();
    for failed in failed {
        let Failure { during, step, causes, .. } = failed.failure;
        let causes: Vec<_> = causes.iter().map(|cause| without(cause, failed.machine)).collect();
        kinds.entry((during, step, causes)).or_default().push(*failed);
    }
    let mut kinds: Vec<_> = kinds.into_values().collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.len()));
    kinds
}

/// The text without a name that stands in it as a word of its own.
fn without(text: &str, name: &str) -> String {
    let part_of_a_word = |c: char| c.is_alphanumeric() || "_-".contains(c);
    let mut rest = String::with_capacity(text.len());
    let mut end = 0;
    for (at, _) in text.match_indices(name) {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        if !before.ends_with(part_of_a_word) && !after.starts_with(part_of_a_word) {
            rest += &text[end..at];
            rest.push('\0');
            end = at + name.len();
        }
    }
    rest + &text[end..]
}

/// Why it failed, its last output, and what to do: all of it, or what fits into a number of lines.
fn details(Failed { machine, failure, .. }: &Failed<'_>, room: Option<usize>) -> Vec<String> {
    let causes: Vec<_> = failure.causes.iter().flat_map(|cause| cause.lines()).collect();
    let output = &failure.last_output;
    let mut hints: Vec<_> = failure.help.iter().map(|help| format!("help: {help}")).collect();
    if failure.during != "lock" {
        hints.push(format!("look: farmhand ssh '{machine}'"));
    }
    let (causes_shown, output_shown) = match room {
        None => (causes.len(), output.len()),
        Some(room) => share(room.saturating_sub(hints.len()), causes.len(), output.len()),
    };
    let mut lines: Vec<_> = causes[..causes_shown].iter().map(|line| (*line).to_owned()).collect();
    if let Some(last) = lines.last_mut().filter(|_| causes_shown < causes.len()) {
        last.push_str(" ...");
    }
    if output_shown > 0 {
        lines.push("last output:".to_owned());
        lines.extend(output[output.len() - output_shown..].iter().map(|line| format!("| {line}")));
    }
    lines.extend(hints);
    let lines = lines.into_iter().map(|line| format!("        {line}"));
    if room.is_some() { lines.map(|line| clip(&line)).collect() } else { lines.collect() }
}

/// How many of the causes' lines and of the output's are shown in a number of lines, a heading of the output included.
fn share(room: usize, causes: usize, output: usize) -> (usize, usize) {
    // The reason comes first, and the output is worth its heading only when there is more than a line of it.
    let for_output = if output == 0 { 0 } else { (output + 1).min(room / 2) };
    let causes = causes.min(room - for_output);
    match (room - causes).saturating_sub(1).min(output) {
        1 if output > 1 => (causes, 0),
        output => (causes, output),
    }
}

fn during(failure: &Failure) -> String {
    format!("in {}{}", failure.during, in_step(failure))
}

/// The first few names.
fn some<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = if names.len() > NAMED { ", ..." } else { "" };
    names.take(NAMED).collect::<Vec<_>>().join(", ") + more
}

fn clip(line: &str) -> String {
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}
