use std::{collections::BTreeMap, sync::Arc};

use camino::{Utf8Path, Utf8PathBuf};
use globset::GlobBuilder;
use tokio::sync::{Mutex, OnceCell};

use super::{engine::Engine, error::ModuleError, loaded::Module};
use crate::guest::Facts;

/// So many modules are looked at in one folder.
const MAX_MODULES: usize = 1000;

/// Finds phase modules: by path, by name, or by what the platform's module provides.
pub struct Library {
    engine: Engine,
    folders: Vec<Utf8PathBuf>,
    index: OnceCell<Index>,
    by_path: Mutex<BTreeMap<Utf8PathBuf, Arc<Module>>>,
}

#[derive(Default)]
struct Index {
    modules: Vec<Arc<Module>>,
    broken: Vec<Broken>,
}

/// A file in a module folder that is not a module.
#[derive(Debug)]
pub struct Broken {
    /// The file.
    pub path: Utf8PathBuf,
    /// Why it is none.
    pub error: ModuleError,
}

/// The folders in which modules are looked for, beside those of the farm: those in `FARMHAND_MODULES` (separated by colons),
/// then `modules` beside the program, beside its folder, and in `../share/farmhand/modules`.
pub fn default_folders() -> Vec<Utf8PathBuf> {
    let from_environment = std::env::var("FARMHAND_MODULES").unwrap_or_default();
    let mut folders: Vec<Utf8PathBuf> =
        from_environment.split(':').filter(|folder| !folder.is_empty()).map(Utf8PathBuf::from).collect();
    let program = std::env::current_exe().ok().and_then(|program| Utf8PathBuf::from_path_buf(program).ok());
    if let Some(folder) = program.as_deref().and_then(Utf8Path::parent) {
        folders.push(folder.join("modules"));
        if let Some(above) = folder.parent() {
            folders.push(above.join("modules"));
            folders.push(above.join("share/farmhand/modules"));
        }
    }
    folders
}

impl Library {
    /// A library of the modules (`*.wasm`) in these folders. A module hides those of the same name in later folders. Folders
    /// that do not exist are empty.
    pub fn new(engine: Engine, folders: Vec<Utf8PathBuf>) -> Self {
        Self { engine, folders, index: OnceCell::new(), by_path: Mutex::default() }
    }

    /// All modules in the folders.
    pub async fn modules(&self) -> &[Arc<Module>] {
        &self.index().await.modules
    }

    /// Files in the folders that look like modules and are none.
    pub async fn broken(&self) -> &[Broken] {
        &self.index().await.broken
    }

    /// The module in a file. Loaded once.
    pub async fn load(&self, path: &Utf8Path) -> Result<Arc<Module>, ModuleError> {
        let mut by_path = self.by_path.lock().await;
        if let Some(module) = by_path.get(path) {
            return Ok(module.clone());
        }
        let module = Arc::new(self.engine.load(path).await?);
        by_path.insert(path.to_owned(), module.clone());
        Ok(module)
    }

    /// The module that a step means.
    ///
    /// A text with `/`, or one that ends in `.wasm`, is a path. Else it is a module's own name; else a name that modules
    /// provide, and then the platform decides among them: its exact name comes before a glob, that before `ID` of the guest's
    /// os-release(5), that before its `ID_LIKE`, and that before modules for any platform. `facts` are absent as long as the
    /// guest was not seen, and so when a farm's steps are resolved.
    pub async fn resolve(
        &self,
        uses: &str,
        platform: &str,
        facts: Option<&Facts>,
    ) -> Result<Arc<Module>, ResolveError> {
        if uses.contains('/') || uses.ends_with(".wasm") {
            return Ok(self.load(Utf8Path::new(uses)).await?);
        }
        let index = self.index().await;
        if let Some(module) = index.modules.iter().find(|module| module.descriptor().name == uses) {
            return Ok(module.clone());
        }
        let providers: Vec<&Arc<Module>> = index
            .modules
            .iter()
            .filter(|module| module.descriptor().provides.iter().any(|name| name == uses))
            .collect();
        if providers.is_empty() {
            return Err(self.unknown(uses, index));
        }
        let claims =
            providers.iter().map(|module| (claim(&module.descriptor().platforms, platform, facts), *module));
        let claims: Vec<(Claim, &Arc<Module>)> =
            claims.filter_map(|(claim, module)| Some((claim?, module))).collect();
        let Some(best) = claims.iter().map(|(claim, _)| *claim).max() else {
            return Err(ResolveError::NotForPlatform {
                uses: uses.to_owned(),
                platform: platform.to_owned(),
                guest: facts
                    .map(|facts| format!(", guest's os-release ID `{}`", facts.os_id))
                    .unwrap_or_default(),
                providers: list(providers.iter().map(|module| claims_of(module))),
            });
        };
        let mut best = claims.iter().filter(|(claim, _)| *claim == best).map(|(_, module)| *module);
        match (best.next(), best.next()) {
            (Some(first), Some(second)) => Err(ResolveError::Ambiguous {
                uses: uses.to_owned(),
                platform: platform.to_owned(),
                first: place(first),
                second: place(second),
            }),
            (Some(module), None) => Ok(module.clone()),
            (None, _) => Err(self.unknown(uses, index)),
        }
    }

    fn unknown(&self, uses: &str, index: &Index) -> ResolveError {
        let descriptors = index.modules.iter().map(|module| module.descriptor());
        let names = descriptors.flat_map(|descriptor| descriptor.provides.iter().chain([&descriptor.name]));
        let mut near: Vec<(f64, &String)> = names
            .map(|name| (strsim::jaro_winkler(uses, name), name))
            .filter(|(similarity, _)| *similarity > 0.75)
            .collect();
        near.sort_by(|(a, a_name), (b, b_name)| b.total_cmp(a).then(a_name.cmp(b_name)));
        near.dedup_by(|(_, a), (_, b)| a == b);
        ResolveError::Unknown {
            uses: uses.to_owned(),
            did_you_mean: near.into_iter().take(3).map(|(_, name)| name.clone()).collect(),
            folders: self.folders.clone(),
            broken: index.broken.iter().map(|broken| broken.error.to_string()).collect(),
        }
    }

    async fn index(&self) -> &Index {
        self.index
            .get_or_init(|| async {
                let mut index = Index::default();
                for path in files(self.folders.clone()).await {
                    match self.load(&path).await {
                        Err(error) => index.broken.push(Broken { path, error }),
                        Ok(module) => {
                            let name = &module.descriptor().name;
                            if !index.modules.iter().any(|known| known.descriptor().name == *name) {
                                index.modules.push(module);
                            }
                        }
                    }
                }
                index
            })
            .await
    }
}

/// The files of the folders that may be modules: folder by folder, each in order of names.
async fn files(folders: Vec<Utf8PathBuf>) -> Vec<Utf8PathBuf> {
    let list = move || {
        let in_folder = |folder: &Utf8PathBuf| {
            let mut paths: Vec<Utf8PathBuf> = folder
                .read_dir_utf8()
                .into_iter()
                .flatten()
                .take(MAX_MODULES)
                .filter_map(Result::ok)
                .map(camino::Utf8DirEntry::into_path)
                .filter(|path| path.extension() == Some("wasm"))
                .collect();
            paths.sort();
            paths
        };
        folders.iter().flat_map(in_folder).collect()
    };
    tokio::task::spawn_blocking(list).await.unwrap_or_default()
}

/// How well a module's claims fit a platform; the greater, the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Any,
    OsIdLike,
    OsId,
    Glob,
    Exact,
}

/// The best claim to a platform, if there is one. Letters count as they are written.
fn claim(platforms: &[String], platform: &str, facts: Option<&Facts>) -> Option<Claim> {
    if platforms.is_empty() {
        return Some(Claim::Any);
    }
    let best = |pattern: &String| {
        let is = |text: &str| {
            // Checked when the descriptor was read.
            GlobBuilder::new(pattern).build().is_ok_and(|glob| glob.compile_matcher().is_match(text))
        };
        if pattern == platform {
            Some(Claim::Exact)
        } else if is(platform) {
            Some(Claim::Glob)
        } else if facts.is_some_and(|facts| is(&facts.os_id)) {
            Some(Claim::OsId)
        } else if facts.is_some_and(|facts| facts.os_id_like.iter().any(|id| is(id))) {
            Some(Claim::OsIdLike)
        } else {
            None
        }
    };
    platforms.iter().filter_map(best).max()
}

fn place(module: &Arc<Module>) -> String {
    format!("{} ({})", module.descriptor().name, module.source())
}

fn claims_of(module: &Arc<Module>) -> String {
    let descriptor = module.descriptor();
    format!("{} ({})", descriptor.name, descriptor.platforms.join(", "))
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join("; ")
}

/// No module was found for a step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// No module has or provides that name.
    #[error(
        "there is no phase module `{uses}`{}{}{}",
        meant(did_you_mean),
        looked_in(folders),
        set_aside(broken)
    )]
    Unknown {
        /// What the step uses.
        uses: String,
        /// Names that look like it.
        did_you_mean: Vec<String>,
        /// Where it was looked for.
        folders: Vec<Utf8PathBuf>,
        /// Why files there were set aside.
        broken: Vec<String>,
    },
    /// Modules provide that name, but none claims the platform.
    #[error(
        "no module that provides `{uses}` claims platform `{platform}`{guest}; known: {providers}. Name one of them in `uses` to \
         have it all the same"
    )]
    NotForPlatform {
        /// What the step uses.
        uses: String,
        /// The platform's name.
        platform: String,
        /// What is known of the guest.
        guest: String,
        /// Those that provide it, and what they claim.
        providers: String,
    },
    /// Two modules claim the platform alike.
    #[error(
        "two modules that provide `{uses}` claim platform `{platform}` alike: {first} and {second}. Name the one that you want in \
         `uses`"
    )]
    Ambiguous {
        /// What the step uses.
        uses: String,
        /// The platform's name.
        platform: String,
        /// One of them, and its file.
        first: String,
        /// The other.
        second: String,
    },
    /// The module was found and can't be used.
    #[error(transparent)]
    Module(#[from] ModuleError),
}

fn meant(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; did you mean `{}`?", names.join("`, `")) }
}

fn looked_in(folders: &[Utf8PathBuf]) -> String {
    if folders.is_empty() {
        return "; no folder of modules is known: set FARMHAND_MODULES".to_owned();
    }
    let folders: Vec<&str> = folders.iter().map(|folder| folder.as_str()).collect();
    format!("; looked in {}", folders.join(", "))
}

fn set_aside(broken: &[String]) -> String {
    broken.iter().map(|why| format!("\nset aside: {why}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_ranked() {
        let debian = Facts { os_id: "debian".to_owned(), ..Facts::default() };
        let mint = Facts {
            os_id: "mint".to_owned(),
            os_id_like: vec!["ubuntu".to_owned(), "debian".to_owned()],
            ..Facts::default()
        };
        let owned = |platforms: &[&str]| platforms.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let apt = owned(&["debian*", "ubuntu*"]);
        for (platforms, platform, facts, expected) in [
            (owned(&[]), "plan9", None, Some(Claim::Any)),
            (apt.clone(), "debian_vs", None, Some(Claim::Glob)),
            (apt.clone(), "Debian_vs", None, None),
            (apt.clone(), "debian*", None, Some(Claim::Exact)),
            (apt.clone(), "builder", None, None),
            (apt.clone(), "builder", Some(&debian), Some(Claim::OsId)),
            (apt.clone(), "builder", Some(&mint), Some(Claim::OsIdLike)),
            (owned(&["Arch*", "arch*"]), "Arch-Linux", None, Some(Claim::Glob)),
            (owned(&["debian*", "debian_vs"]), "debian_vs", None, Some(Claim::Exact)),
        ] {
            assert_eq!(claim(&platforms, platform, facts), expected, "{platforms:?} {platform}");
        }
        assert!(Claim::Exact > Claim::Glob && Claim::Glob > Claim::OsId && Claim::OsIdLike > Claim::Any);
    }
}
