//! Lines for the operator, shown under the machine's name. On the native target (in tests) they go nowhere.

/// Shown with `--verbose` only.
pub fn debug(message: impl AsRef<str>) {
    write(Level::Debug, message.as_ref());
}

/// What the operator should see.
pub fn info(message: impl AsRef<str>) {
    write(Level::Info, message.as_ref());
}

/// What may go wrong because of how things are.
pub fn warn(message: impl AsRef<str>) {
    write(Level::Warn, message.as_ref());
}

/// What went wrong.
pub fn error(message: impl AsRef<str>) {
    write(Level::Error, message.as_ref());
}

pub(crate) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

#[cfg(target_arch = "wasm32")]
pub(crate) fn write(level: Level, message: &str) {
    use crate::bindings::farmhand::phase::log;
    let level = match level {
        Level::Debug => log::Level::Debug,
        Level::Info => log::Level::Info,
        Level::Warn => log::Level::Warn,
        Level::Error => log::Level::Error,
    };
    log::write(level, message);
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn write(_level: Level, _message: &str) {}
