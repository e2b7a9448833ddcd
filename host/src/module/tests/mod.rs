//! The room as a whole: hostile and simple modules from WebAssembly text, and the three real ones.

mod cache;
mod calls;
mod check;
mod compile;
mod contract;
mod hostile;
mod plugins;
mod secrets;
mod support;
