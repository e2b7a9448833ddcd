//! The names of variables that `farm.yaml` gives to definition files and steps.

use super::{Config, selection::list_key};
use crate::{
    base::{Problem, SourceFile},
    farm::yaml::{self, Key},
};

/// Names that mean something already.
const RESERVED: [&str; 6] = ["vm", "target_name", "arch_name", "platform_name", "machine_name", "hypervisor"];

pub(super) fn check(config: &Config, source: &SourceFile, problems: &mut Vec<Problem>) {
    let own = config.variables.keys().map(|name| vec![Key::from("variables"), name.as_str().into()]);
    let list = config.tree.as_deref().map_or("list", list_key);
    let of_list = config.list.iter().enumerate().flat_map(|(index, item)| {
        let place = move |name: &String| {
            vec![Key::from(list), index.into(), "variables".into(), name.as_str().into()]
        };
        item.variables.keys().map(place)
    });
    for path in own.chain(of_list) {
        let Some(Key::Name(name)) = path.last() else { continue };
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let is_name =
            name.chars().all(fine) && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let (message, help) = if !is_name {
            let message = format!("`{name}` can't name a variable");
            (message, "templates take letters, digits and `_`, and no digit first".to_owned())
        } else if RESERVED.contains(&name.as_str()) || name.starts_with("ansible_") {
            let message = format!("`{name}` is a name of farmhand's own");
            (message, "give the variable another name".to_owned())
        } else {
            continue;
        };
        problems.push(source.problem(yaml::find_key(source, &path), message).help(help));
    }
}
