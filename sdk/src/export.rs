//! Between the exports of the world and [`PhaseModule`]. Used by [`phase_module!`](crate::phase_module) only.

use std::sync::Once;

use crate::{
    Backend, CommandOutput, Content, Context, Event, Facts, Failure, Guest, GuestError, PhaseModule, Pieces,
    Running, Writing,
    bindings::farmhand::phase::{guest as wit, types},
    log,
};

/// A panic's message would be lost: WebAssembly has no standard error.
fn install_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| log::write(log::Level::Error, &panic.to_string(), &[])))
    });
}

/// The export `describe`.
pub fn describe<M: PhaseModule>() -> types::Descriptor {
    install_panic_hook();
    let descriptor = M::describe();
    let schema = schemars::SchemaGenerator::default().into_root_schema_for::<M::Settings>();
    types::Descriptor {
        name: descriptor.name,
        version: descriptor.version,
        summary: descriptor.summary,
        authors: descriptor.authors,
        license: descriptor.license,
        provides: descriptor.provides,
        platforms: descriptor.platforms,
        phases: descriptor.phases,
        capabilities: descriptor
            .capabilities
            .into_iter()
            .map(|(capability, values, reason)| types::CapabilityRequest { capability, values, reason })
            .collect(),
        settings_schema: schema.as_value().to_string(),
    }
}

/// The export `run`.
pub fn run<M: PhaseModule>(context: types::Context, guest: &wit::Guest_) -> Result<types::Outcome, Failure> {
    install_panic_hook();
    let settings = parse::<M>(&context.settings)?;
    let context = Context {
        phase: context.phase,
        platform: context.platform,
        target: context.target,
        machine: context.machine,
        r#become: context.become_,
    };
    let backend = Imported(guest);
    let outcome = M::run(&context, settings, &Guest::new(&backend, context.r#become))?;
    Ok(types::Outcome { changed: outcome.changed, summary: outcome.summary })
}

pub(crate) fn parse<M: PhaseModule>(settings: &str) -> Result<M::Settings, Failure> {
    serde_json::from_str(settings).map_err(|error| Failure::InvalidSettings(error.to_string()))
}

/// The guest that the host lends.
struct Imported<'a>(&'a wit::Guest_);

impl Backend for Imported<'_> {
    fn facts(&self) -> Result<Facts, GuestError> {
        self.0.facts()
    }

    fn exec(&self, command: &wit::Command) -> Result<CommandOutput, GuestError> {
        self.0.exec(command).map(Into::into)
    }

    fn start(&self, command: &wit::Command) -> Result<Box<dyn Running>, GuestError> {
        Ok(Box::new(self.0.start(command)?))
    }

    fn read_file(&self, path: &str, max_size: u32, r#become: bool) -> Result<Vec<u8>, GuestError> {
        self.0.read_file(path, max_size, r#become)
    }

    fn write_file(
        &self,
        path: &str,
        content: &[Content],
        mode: u32,
        r#become: bool,
    ) -> Result<(), GuestError> {
        self.0.write_file(path, content, mode, r#become)
    }

    fn open_file(&self, path: &str, r#become: bool) -> Result<Box<dyn Pieces + '_>, GuestError> {
        Ok(Box::new(self.0.open_file(path, r#become)?))
    }

    fn create_file(
        &self,
        path: &str,
        mode: u32,
        r#become: bool,
    ) -> Result<Box<dyn Writing + '_>, GuestError> {
        Ok(Box::new(self.0.create_file(path, mode, r#become)?))
    }

    fn save_artifact(&self, name: &str, content: &[u8]) -> Result<(), GuestError> {
        self.0.save_artifact(name, content)
    }

    fn save_file(&self, name: &str, path: &str, r#become: bool) -> Result<(), GuestError> {
        self.0.save_file(name, path, r#become)
    }
}

impl Pieces for wit::FileReader {
    fn next(&self) -> Result<Option<Vec<u8>>, GuestError> {
        Self::next(self)
    }
}

impl Writing for wit::FileWriter {
    fn write(&self, content: &Content) -> Result<(), GuestError> {
        Self::write(self, content)
    }

    fn finish(self: Box<Self>) -> Result<(), GuestError> {
        Self::finish(*self)
    }
}

impl Running for wit::Process {
    fn next(&self) -> Result<Event, GuestError> {
        Self::next(self)
    }
}
