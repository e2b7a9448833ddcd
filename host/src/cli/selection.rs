//! Which of the farm's machines a command is about.

use clap::Args;
use globset::{Glob, GlobMatcher};
use indexmap::IndexSet;
use miette::{IntoDiagnostic, WrapErr, miette};

use crate::farm::{Farm, Machine};

/// Which machines; all of the farm's when nothing is said.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Selection {
    /// Only these machines: names, or globs such as `debian*`.
    #[arg(value_name = "MACHINE")]
    machines: Vec<String>,
    /// Only machines of this platform; a glob, can be given again.
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<String>,
    /// Only machines of this target; a glob, can be given again.
    #[arg(long, value_name = "TARGET")]
    target: Vec<String>,
}

impl Selection {
    /// The machine of that name.
    pub(super) fn one(name: &str) -> Self {
        Self { machines: vec![globset::escape(name)], ..Self::default() }
    }

    /// Whether it names that very machine.
    pub(super) fn names(&self, machine: &str) -> bool {
        self.machines.iter().any(|name| name == machine)
    }

    /// The machines that are meant, in the farm's order. What matches none of them is an error.
    pub(super) fn of<'a>(&self, farm: &'a Farm) -> miette::Result<Vec<&'a Machine>> {
        let all = || farm.machines.values();
        let names = globs("machine", &self.machines, farm, all().map(|machine| machine.name.as_str()))?;
        let platforms = globs("platform", &self.platform, farm, all().map(Machine::platform))?;
        let targets = globs("target", &self.target, farm, all().map(Machine::target))?;
        let is_meant = |globs: &[GlobMatcher], name: &str| {
            globs.is_empty() || globs.iter().any(|glob| glob.is_match(name))
        };
        let selected: Vec<_> = all()
            .filter(|machine| {
                is_meant(&names, &machine.name)
                    && is_meant(&platforms, machine.platform())
                    && is_meant(&targets, machine.target())
            })
            .collect();
        if selected.is_empty() {
            return Err(miette!("no machine of the farm is all that is asked for"));
        }
        Ok(selected)
    }
}

/// The patterns, each of which must match something that there is.
fn globs<'a>(
    what: &str,
    patterns: &[String],
    farm: &Farm,
    known: impl Iterator<Item = &'a str> + Clone,
) -> miette::Result<Vec<GlobMatcher>> {
    let mut matchers = Vec::new();
    for pattern in patterns {
        let glob = Glob::new(pattern)
            .into_diagnostic()
            .wrap_err_with(|| format!("`{pattern}` is no pattern for a {what}"))?
            .compile_matcher();
        if !known.clone().any(|name| glob.is_match(name)) {
            let names: IndexSet<_> = known.clone().collect();
            let is_plain = globset::escape(pattern) == *pattern;
            let near = names
                .iter()
                .map(|name| (strsim::damerau_levenshtein(name, pattern), *name))
                .min()
                .filter(|(distance, _)| is_plain && *distance <= 3);
            let first: Vec<_> = names.iter().copied().take(20).collect();
            let mut help = format!("its {what}s are: {}", first.join(", "));
            if names.len() > 20 {
                help += &format!(" and {} more (farmhand machines)", names.len() - 20);
            }
            if let Some((_, near)) = near {
                help = format!("did you mean `{near}`? {help}");
            }
            let farm = &farm.root;
            return Err(miette!(help = help, "the farm {farm} has no {what} `{pattern}`"));
        }
        matchers.push(glob);
    }
    Ok(matchers)
}
