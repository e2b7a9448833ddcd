use std::{
    io::{self, BufWriter},
    process::ExitCode,
};

use camino::{Utf8Path, Utf8PathBuf};
use miette::{IntoDiagnostic, Report as Diagnostic, WrapErr, miette};

use super::{print, print_json, table::table, workbench::dirs};
use crate::{
    base::counted,
    report::{self, Format, Outline, RecordError, RecordedEvents, Records, ReplayError, Selection, State},
    run::RunId,
};

/// Show a run again, from its record: what was done on which machine, what its commands wrote, and how it ended.
///
/// Every `farmhand up` keeps a record: a folder with the run's events and each step's output. Those of all farms are in one
/// place, so `last` is the newest of any, whatever --farm says. The exit code is 0 whenever the record could be read, however
/// the run ended.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand report\n  farmhand report --list\n  farmhand report 2026-11-25T18 --machine debian_vs_amd64 --verbose\n  farmhand report last --junit results.xml"
)]
pub(super) struct Report {
    /// Which run: its name, the beginning or the end of its name, or `last`, the newest.
    #[arg(default_value = "last")]
    run: String,
    /// Only this machine. Can be given more than once.
    #[arg(long, short, value_name = "NAME")]
    machine: Vec<String>,
    /// Also show each step as it began, and what modules say for their authors.
    #[arg(long, short, conflicts_with_all = ["json", "junit", "html", "list"])]
    verbose: bool,
    /// Print the run's events, one JSON object a line; with --list, the list as JSON.
    #[arg(long)]
    json: bool,
    /// Write the run to this file as JUnit XML, and print nothing: a test suite a machine, a test case an operation or step.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    junit: Option<Utf8PathBuf>,
    /// Write the run to this file as a page of HTML that needs no other file, and print nothing.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    html: Option<Utf8PathBuf>,
    /// List the runs that have a record.
    #[arg(long, short, conflicts_with_all = ["run", "machine", "junit", "html"])]
    list: bool,
}

impl Report {
    pub(super) fn run(self) -> miette::Result<ExitCode> {
        let records = Records::new(dirs()?.runs());
        if self.list {
            list(&records, self.json)?;
        } else {
            let run = records.find(&self.run).map_err(explained)?;
            self.show(&records, &run)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn show(self, records: &Records, run: &RunId) -> miette::Result<()> {
        let state = records.outline(run).map_err(explained)?.state;
        let events = || records.events(run).map_err(explained);
        let machines = Selection::new(self.machine, &events()?).map_err(explained)?;
        let to_file = self.junit.is_some() || self.html.is_some();
        if let Some(path) = &self.junit {
            write(path, report::junit(events()?, &machines).into_diagnostic()?)?;
        }
        if let Some(path) = &self.html {
            write(path, report::html(events()?, &machines).into_diagnostic()?)?;
        }
        if !to_file {
            let format = if self.json { Format::Json } else { Format::Text { verbose: self.verbose } };
            print_run(events()?, format, &machines, state)?;
        }
        // In the text it stands where everybody sees it.
        if self.json || to_file {
            match state {
                State::Finished => {}
                State::Running => eprintln!("run {run} still goes on: this is what has happened so far"),
                State::CutOff => eprintln!("run {run} was cut off: this is what had happened by then"),
            }
        }
        Ok(())
    }
}

fn write(path: &Utf8Path, text: String) -> miette::Result<()> {
    std::fs::write(path, text).into_diagnostic().wrap_err_with(|| format!("can't write {path}"))
}

fn print_run(
    events: RecordedEvents,
    format: Format,
    machines: &Selection,
    state: State,
) -> miette::Result<()> {
    let mut output = BufWriter::new(io::stdout().lock());
    match report::replay(events, format, machines, state, &mut output) {
        Ok(0) => {}
        Ok(unknown) => {
            let events = counted(unknown, "event");
            eprintln!("not shown: {events} that this version of farmhand does not know");
        }
        // Who reads has seen enough.
        Err(ReplayError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(ReplayError::Record(error)) => return Err(explained(error)),
        Err(error) => return Err(error).into_diagnostic(),
    }
    Ok(())
}

/// Lists all runs. One whose record can't be read is no reason not to list the others.
fn list(records: &Records, json: bool) -> miette::Result<()> {
    let mut outlines = Vec::new();
    for run in records.runs().map_err(explained)? {
        match records.outline(&run) {
            Ok(outline) => outlines.push(outline),
            Err(error) => eprintln!("{run} is not listed: {:?}", explained(error)),
        }
    }
    if json {
        return print_json(&outlines);
    }
    if outlines.is_empty() {
        return print("there is no record of a run yet: `farmhand up` makes one\n");
    }
    let header = ["run", "started", "project", "passed", "failed", "unfinished", "took", "state"];
    print(table(header, outlines.into_iter().map(row)))
}

fn row(outline: Outline) -> [String; 8] {
    let started = outline.started.to_zoned(jiff::tz::TimeZone::system());
    let state = match outline.state {
        State::Finished => "finished",
        State::Running => "running",
        State::CutOff => "cut off",
    };
    [
        outline.run.to_string(),
        started.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        outline.project,
        outline.passed.to_string(),
        outline.failed.to_string(),
        outline.unfinished.to_string(),
        format!("{:.1} s", outline.seconds),
        state.to_owned(),
    ]
}

/// With what to do about it.
fn explained(error: RecordError) -> Diagnostic {
    match error.help() {
        None => Diagnostic::from_err(error),
        Some(help) => miette!(help = help, "{error}"),
    }
}
