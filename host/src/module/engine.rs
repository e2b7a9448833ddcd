use std::{path::PathBuf, sync::Arc, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use wasmtime::{
    Config, OptLevel,
    component::{Component, HasSelf, Linker},
};

use super::{
    admit,
    bindings::{PhaseModule, PhaseModulePre},
    cache::Cache,
    compile,
    error::{LimitHit, ModuleError},
    limits::Limits,
    loaded::Module,
    state::State,
    ticker::Ticker,
    wasi,
};
use crate::base::Digest;

/// What calls to the host need of the stack, beside what the module may use.
const HOST_STACK: usize = 3 << 20;

/// Compiles and runs phase modules. One for a process; cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    engine: wasmtime::Engine,
    linker: Linker<State>,
    cache: Option<Cache>,
    limits: Limits,
    ticker: Ticker,
    /// What compiles; a thread when absent.
    compiler: Option<PathBuf>,
}

impl Engine {
    /// An engine that keeps compiled modules in `cache` (made, for this user only, when first needed). `limits` are for
    /// loading and describing modules; each call brings its own. It compiles on a thread, whose memory nobody bounds.
    pub fn new(cache: Option<Utf8PathBuf>, limits: Limits) -> Result<Self, ModuleError> {
        Self::try_new(cache, limits, None)
            .map_err(|error| host("(any)", &format!("wasmtime can't be set up: {error}")))
    }

    /// The same, but it compiles in processes of their own: of this program, which is a farmhand.
    pub fn with_compiler(
        cache: Option<Utf8PathBuf>,
        limits: Limits,
        program: PathBuf,
    ) -> Result<Self, ModuleError> {
        Self::try_new(cache, limits, Some(program))
            .map_err(|error| host("(any)", &format!("wasmtime can't be set up: {error}")))
    }

    fn try_new(
        cache: Option<Utf8PathBuf>,
        limits: Limits,
        compiler: Option<PathBuf>,
    ) -> wasmtime::Result<Self> {
        let engine = wasmtime::Engine::new(&config(&limits))?;
        let mut linker = Linker::new(&engine);
        PhaseModule::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
        wasi::add_to_linker(&mut linker)?;
        let cache = cache.map(|folder| Cache::new(folder, &engine));
        let ticker = Ticker::new(engine.clone());
        Ok(Self(Arc::new(Inner { engine, linker, cache, limits, ticker, compiler })))
    }

    /// Loads a module from its file and asks it what it is (once: the answer is kept in the cache).
    pub async fn load(&self, path: &Utf8Path) -> Result<Module, ModuleError> {
        let (path, limit) = (path.to_owned(), self.0.limits.module_size);
        let name = path.to_string();
        let bytes = blocking(&name, move || read(path, limit)).await?;
        self.load_bytes(&name, bytes).await
    }

    /// The same for a module that is in memory already. `name` stands in error messages.
    pub async fn load_bytes(&self, name: &str, bytes: Vec<u8>) -> Result<Module, ModuleError> {
        Module::load(self.clone(), name.to_owned(), bytes.into()).await
    }

    pub(super) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.0.engine
    }

    pub(super) fn cache(&self) -> Option<&Cache> {
        self.0.cache.as_ref()
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(super) fn ticker(&self) -> &Ticker {
        &self.0.ticker
    }

    /// Compiles a module, or takes it from the cache, and checks that it fits the world. Takes a while.
    pub(super) async fn prepare(
        &self,
        name: &str,
        digest: Digest,
        bytes: Arc<[u8]>,
    ) -> Result<PhaseModulePre<State>, ModuleError> {
        let limit = self.0.limits.compile_time;
        let (this, module, unchecked) = (self.clone(), name.to_owned(), bytes.clone());
        let cached = on_thread(name, limit, move || match this.cached(digest) {
            Some(component) => this.link(&module, &component).map(Some),
            None => admit::check_bytes(&module, &unchecked, &this.0.limits).map(|()| None),
        });
        if let Some(linked) = cached.await? {
            return Ok(linked);
        }
        let code = match &self.0.compiler {
            Some(program) => Some(compile::in_child(program, name, &bytes, &self.0.limits).await?),
            None => None,
        };
        let (this, module) = (self.clone(), name.to_owned());
        on_thread(name, limit, move || {
            let engine = &this.0.engine;
            let component = match code {
                // SAFETY: `deserialize` runs what it is given, so it must be what wasmtime made. It was just written by farmhand
                // itself, to a pipe that nobody else holds.
                Some(code) => unsafe { Component::deserialize(engine, code) },
                None => Component::from_binary(engine, &bytes),
            };
            let component = component.map_err(|error| ModuleError::Invalid {
                module: module.clone(),
                message: super::text::one_line(&format!("{error:#}"), 500),
            })?;
            if let Some(cache) = this.cache() {
                cache.store_component(digest, &component);
            }
            this.link(&module, &component)
        })
        .await
    }

    fn cached(&self, digest: Digest) -> Option<Component> {
        self.cache().and_then(|cache| cache.component(digest, &self.0.engine))
    }

    fn link(&self, module: &str, component: &Component) -> Result<PhaseModulePre<State>, ModuleError> {
        admit::check_imports(module, component)?;
        let unfit = |error: wasmtime::Error| ModuleError::NotAPhaseModule {
            module: module.to_owned(),
            message: super::text::one_line(&format!("{error:#}"), 500),
        };
        PhaseModulePre::new(self.0.linker.instantiate_pre(component).map_err(unfit)?).map_err(unfit)
    }
}

/// What code is made for: the same in every process.
pub(super) fn config(limits: &Limits) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        // Epochs stop a module that does not stop by itself, at nearly no cost.
        .epoch_interruption(true)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_relaxed_simd(false)
        // The only bits that could differ between two processors.
        .cranelift_nan_canonicalization(true)
        .cranelift_opt_level(OptLevel::Speed)
        .max_wasm_stack(limits.stack)
        // Calls to the host run on the same stack.
        .async_stack_size(limits.stack.saturating_add(HOST_STACK));
    config
}

fn read(path: Utf8PathBuf, limit: usize) -> Result<Vec<u8>, ModuleError> {
    use std::io::Read as _;
    let fail = |source| ModuleError::Read { path: path.clone(), source };
    let file = std::fs::File::open(&path).map_err(fail)?;
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() > limit {
        return Err(ModuleError::TooLarge {
            module: path.to_string(),
            what: "its file",
            name: "module size",
            limit,
        });
    }
    Ok(bytes)
}

/// Works on a module on a thread of its own. When it takes longer than it may, it is no longer waited for: the thread goes on
/// until it is through, or until the program ends, which does not wait for it either.
async fn on_thread<T: Send + 'static>(
    module: &str,
    limit: Duration,
    work: impl FnOnce() -> Result<T, ModuleError> + Send + 'static,
) -> Result<T, ModuleError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let work = move || drop(sender.send(work()));
    let thread = std::thread::Builder::new().name("module-compile".to_owned()).spawn(work);
    thread.map_err(|error| host(module, &format!("can't start a thread: {error}")))?;
    match tokio::time::timeout(limit, receiver).await {
        Ok(Ok(compiled)) => compiled,
        Ok(Err(_)) => Err(host(module, "the compiler crashed")),
        Err(_) => Err(ModuleError::Limit { module: module.to_owned(), limit: LimitHit::CompileTime(limit) }),
    }
}

/// Runs what would hold up the async runtime on a thread for that.
async fn blocking<T: Send + 'static>(
    module: &str,
    work: impl FnOnce() -> Result<T, ModuleError> + Send + 'static,
) -> Result<T, ModuleError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| host(module, &error.to_string()))?
}

fn host(module: &str, message: &str) -> ModuleError {
    ModuleError::Host { module: module.to_owned(), message: message.to_owned() }
}
