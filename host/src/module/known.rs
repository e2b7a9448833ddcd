//! By what a farm knows a module: where grants and limits for it stand in `farm.yaml`, and its pin in `farmhand.lock`.

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};

use super::{Library, Module};
use crate::{
    base::{Grants, Problem},
    farm::{Farm, Machine, ModuleConfig, Step, Uses},
};

/// By what a farm knows a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownAs {
    /// The name of its entry in `farm.yaml`, and of its pin.
    pub name: String,
    /// Its file, which the entry has to name. Absent when it comes from a module folder.
    pub path: Option<Utf8PathBuf>,
}

impl KnownAs {
    /// A module from a module folder.
    pub fn by_name(name: &str) -> Self {
        Self { name: name.to_owned(), path: None }
    }

    /// What has to stand in `farm.yaml` for it to have these grants.
    pub fn lines(&self, grants: &Grants) -> String {
        let path = self.path.as_ref().map(|path| format!("    path: {}\n", scalar(path.as_str())));
        let name = scalar(&self.name);
        format!("modules:\n  {name}:\n{}    grants: {grants}", path.unwrap_or_default())
    }
}

/// A text as YAML has it, in quotes where it needs them.
fn scalar(text: &str) -> String {
    serde_yaml::to_string(text).map_or_else(|_| format!("{text:?}"), |yaml| yaml.trim_end().to_owned())
}

/// A module that a step uses, and what `farm.yaml` says of it.
pub(super) struct Found<'a> {
    pub(super) module: Arc<Module>,
    pub(super) known_as: KnownAs,
    pub(super) config: Option<&'a ModuleConfig>,
}

impl<'a> Found<'a> {
    /// A module that a step names by its file. Its own word for its name counts for nothing, or it could take another's
    /// grants: only an entry with its path is about it, and without one it goes by its path.
    fn by_path(farm: &'a Farm, module: Arc<Module>) -> Self {
        let source = Utf8Path::new(module.source());
        let file = source.canonicalize_utf8().ok();
        let entry = farm.config.modules.iter().find_map(|(name, config)| {
            let path = config.path.as_ref()?;
            let is_it = file.is_some() && farm.root.join(path).canonicalize_utf8().ok() == file;
            is_it.then(|| (KnownAs { name: name.clone(), path: Some(path.clone()) }, config))
        });
        if let Some((known_as, config)) = entry {
            return Self { module, known_as, config: Some(config) };
        }
        let path = file.as_deref().unwrap_or(source);
        let path = path.strip_prefix(&farm.root).unwrap_or(path).to_owned();
        let known_as = KnownAs { name: path.to_string(), path: Some(path) };
        Self { module, known_as, config: None }
    }

    /// A module that was found in a module folder. The name that it says is its own, unless the farm has its path in an entry,
    /// or gave that name to another file.
    fn in_folder(farm: &'a Farm, module: Arc<Module>) -> Self {
        let found = Self::by_path(farm, module);
        let name = &found.module.descriptor().name;
        let config = farm.config.modules.get(name);
        if found.config.is_some() || config.is_some_and(|config| config.path.is_some()) {
            return found;
        }
        Self { known_as: KnownAs::by_name(name), config, ..found }
    }

    /// What it was granted.
    pub(super) fn grants(&self) -> Grants {
        self.config.map(|config| config.grants.clone()).unwrap_or_default()
    }

    /// What `farmhand module inspect` finds it by.
    pub(super) fn inspected(&self) -> &str {
        match self.known_as.path {
            Some(_) => self.module.source(),
            None => &self.known_as.name,
        }
    }
}

impl Library {
    /// The module that a step uses.
    pub(super) async fn find<'a>(
        &self,
        farm: &'a Farm,
        machine: &Machine,
        step: &Step,
    ) -> Result<Found<'a>, Problem> {
        let problem = |message: String| step.problem(["uses"], message);
        let load = async |path: &Utf8Path| {
            let help =
                "build it anew with `farmhand module build`, or look at it with `farmhand module inspect`";
            self.load(path).await.map_err(|error| problem(error.to_string()).help(help))
        };
        let name = match &step.uses {
            Uses::Path(path) => return Ok(Found::by_path(farm, load(path).await?)),
            Uses::Name(name) => name,
        };
        if let Some(config @ ModuleConfig { path: Some(path), .. }) = farm.config.modules.get(name) {
            let known_as = KnownAs { name: name.clone(), path: Some(path.clone()) };
            return Ok(Found { module: load(&farm.root.join(path)).await?, known_as, config: Some(config) });
        }
        let found = self.resolve(name, machine.platform(), None).await;
        let help = "`farmhand module list` shows the modules that there are and what they claim";
        found
            .map(|module| Found::in_folder(farm, module))
            .map_err(|error| problem(error.to_string()).help(help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_name_a_file_where_there_is_one() {
        let grants = Grants { exec: true, ..Grants::default() };
        assert_eq!(
            KnownAs::by_name("debian-apt").lines(&grants),
            "modules:\n  debian-apt:\n    grants: { exec: true }"
        );
        let path = Utf8PathBuf::from("provisioning_phases/main.wasm");
        let known_as = KnownAs { name: path.to_string(), path: Some(path) };
        assert_eq!(
            known_as.lines(&grants),
            "modules:\n  provisioning_phases/main.wasm:\n    path: provisioning_phases/main.wasm\n    grants: { exec: true }"
        );
        let known_as = KnownAs { name: "true".to_owned(), path: Some("/tmp/a: b.wasm".into()) };
        assert_eq!(
            known_as.lines(&grants),
            "modules:\n  'true':\n    path: '/tmp/a: b.wasm'\n    grants: { exec: true }"
        );
    }
}
