use std::sync::Arc;

use serde_json::Value;
use tokio::sync::OnceCell;

use super::{
    admit,
    bindings::PhaseModulePre,
    call::{self, Call, Lending, Level, Outcome, Rehearsal},
    descriptor::Descriptor,
    engine::Engine,
    error::ModuleError,
    schema::{Schema, SettingsProblem},
    state::State,
    transcript::{Recording, Transcript},
};
use crate::base::Digest;

/// A phase module that was found, checked, and asked what it is.
pub struct Module {
    engine: Engine,
    source: String,
    digest: Digest,
    bytes: Arc<[u8]>,
    descriptor: Descriptor,
    settings: Schema,
    prepared: OnceCell<PhaseModulePre<State>>,
}

impl Module {
    pub(super) async fn load(engine: Engine, source: String, bytes: Arc<[u8]>) -> Result<Self, ModuleError> {
        let digest = Digest::of(&bytes);
        let prepared = OnceCell::new();
        let descriptor = match engine.cache().and_then(|cache| cache.descriptor(digest)) {
            Some(descriptor) => descriptor,
            None => {
                let module = engine.prepare(&source, digest, bytes.clone()).await?;
                let descriptor = call::describe(&engine, &source, &module).await?;
                if let Some(cache) = engine.cache() {
                    cache.store_descriptor(digest, &descriptor);
                }
                drop(prepared.set(module));
                descriptor
            }
        };
        let settings = Schema::compile(&descriptor.settings_schema)
            .map_err(|message| ModuleError::Descriptor { module: source.clone(), message })?;
        Ok(Self { engine, source, digest, bytes, descriptor, settings, prepared })
    }

    /// What it is.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The digest of its file.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Where it is from: its file's path.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Checks a step's settings against the module's schema.
    pub fn check_settings(&self, settings: &Value) -> Result<(), Vec<SettingsProblem>> {
        self.settings.check(settings)
    }

    /// Carries out a phase on a guest.
    ///
    /// Refuses, before the guest is touched, when the phase, the grants or the settings don't fit. The module starts afresh at
    /// every call; when this future is dropped, it ends, and so does its command in the guest.
    pub async fn run(&self, call: Call) -> Result<Outcome, ModuleError> {
        call::check(self, &call.context, &call.grants)?;
        let Some(path) = call.record.clone() else { return self.lend(Lending::live(call, None)).await };
        let recording = Arc::new(Recording::default());
        let (context, facts, log) = (call.context.clone(), call.facts.clone(), call.log.clone());
        let outcome = self.lend(Lending::live(call, Some(recording.clone()))).await;
        let name = self.descriptor.name.clone();
        let transcript = Transcript::new((name, self.digest), context, facts, &recording, &outcome);
        let write = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || transcript.write(&path))
        };
        if let Err(error) = write.await.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            log.line(Level::Warn, &format!("the transcript {path} can't be written: {error}"));
        }
        outcome
    }

    /// Carries out a phase with something in the guest's place. Nothing is changed anywhere.
    pub async fn rehearse(&self, call: Rehearsal) -> Result<Outcome, ModuleError> {
        call::check(self, &call.context, &call.grants)?;
        self.lend(call.into()).await
    }

    async fn lend(&self, lending: Lending) -> Result<Outcome, ModuleError> {
        call::run(&self.engine, &self.descriptor.name, self.prepared().await?, lending).await
    }

    /// Its compiled code, linked.
    async fn prepared(&self) -> Result<&PhaseModulePre<State>, ModuleError> {
        let prepare = || self.engine.prepare(&self.descriptor.name, self.digest, self.bytes.clone());
        self.prepared.get_or_try_init(prepare).await
    }

    /// Makes an instance as each call does, and throws it away: what a call costs before the module does anything.
    pub async fn instantiate(&self) -> Result<(), ModuleError> {
        call::instantiate(&self.engine, &self.descriptor.name, self.prepared().await?).await
    }

    /// How large its file is, in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The interfaces that it imports, by name.
    pub async fn imports(&self) -> Result<Vec<String>, ModuleError> {
        Ok(admit::imports(self.prepared().await?.instance_pre().component()))
    }
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Module")
            .field("name", &self.descriptor.name)
            .field("source", &self.source)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}
