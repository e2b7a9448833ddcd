//! A page of HTML that needs nothing else: no script, no file, no network.

use minijinja::{Environment, context, value::Serde};

use super::{RecordError, RecordedEvents, Selection, cases::Cases, seconds};

/// Why there is no page of a run.
#[derive(Debug, thiserror::Error)]
pub enum HtmlError {
    /// The record can't be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The page can't be made.
    #[error("can't make a page of the run")]
    Template(#[from] minijinja::Error),
}

/// A page that shows a run, as far as it has got.
pub fn html(events: RecordedEvents, machines: &Selection) -> Result<String, HtmlError> {
    let cases = Cases::read(events, machines)?;
    let count = |is: fn(&super::cases::Machine) -> bool| cases.machines.values().filter(|m| is(m)).count();
    let passed = count(|machine| machine.seconds.is_some() && machine.failure.is_none());
    let failed = count(|machine| machine.failure.is_some());
    let unfinished = cases.machines.len() - passed - failed;
    let mut environment = Environment::new();
    environment.add_filter("seconds", |value: f64| seconds(value));
    // By its name, minijinja escapes what is put into it.
    environment.add_template("run.html", include_str!("run.html"))?;
    Ok(environment
        .get_template("run.html")?
        .render(context! { run => Serde(&cases), passed, failed, unfinished })?)
}
