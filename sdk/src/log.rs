//! Lines for the operator, shown under the machine's name. On the native target (in tests) they go nowhere.

/// Shown with `--verbose` only.
pub fn debug(message: impl AsRef<str>) {
    write(Level::Debug, message.as_ref(), &[]);
}

/// What the operator should see.
pub fn info(message: impl AsRef<str>) {
    write(Level::Info, message.as_ref(), &[]);
}

/// What may go wrong because of how things are.
pub fn warn(message: impl AsRef<str>) {
    write(Level::Warn, message.as_ref(), &[]);
}

/// What went wrong.
pub fn error(message: impl AsRef<str>) {
    write(Level::Error, message.as_ref(), &[]);
}

/// A message with fields, for those who search: `log::event(Level::Info, "mounted", &[("device", "/dev/vdb")])`.
pub fn event(level: Level, message: impl AsRef<str>, fields: &[(&str, &str)]) {
    write(level, message.as_ref(), fields);
}

/// Says how far the module has got: one line, and per cent where that is known.
#[cfg(target_family = "wasm")]
pub fn progress(message: impl AsRef<str>, percent: Option<u8>) {
    crate::bindings::farmhand::phase::log::progress(message.as_ref(), percent);
}

/// Says how far the module has got: one line, and per cent where that is known.
#[cfg(not(target_family = "wasm"))]
pub fn progress(_message: impl AsRef<str>, _percent: Option<u8>) {}

/// How important a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Shown with `--verbose` only.
    Debug,
    /// What the operator should see.
    Info,
    /// What may go wrong.
    Warn,
    /// What went wrong.
    Error,
}

#[cfg(target_family = "wasm")]
pub(crate) fn write(level: Level, message: &str, fields: &[(&str, &str)]) {
    use crate::bindings::farmhand::phase::log;
    let level = match level {
        Level::Debug => log::Level::Debug,
        Level::Info => log::Level::Info,
        Level::Warn => log::Level::Warn,
        Level::Error => log::Level::Error,
    };
    let field =
        |(name, value): &(&str, &str)| log::Field { name: (*name).to_owned(), value: (*value).to_owned() };
    log::write(level, message, &fields.iter().map(field).collect::<Vec<_>>());
}

#[cfg(not(target_family = "wasm"))]
pub(crate) fn write(_level: Level, _message: &str, _fields: &[(&str, &str)]) {}
