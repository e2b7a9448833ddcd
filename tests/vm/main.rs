//! Whole runs with real machines: the promises of the README. Needs libvirt, and the images of `tests/testbed`.
//!
//! Each story has a farm and a `FARMHAND_HOME` of its own, with machines of names that nobody else has, and leaves nothing
//! behind, also when it fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod checkpoints;
mod farm;
mod holds;
mod images;
#[expect(dead_code, reason = "the contract tests of hypervisors use more of it")]
mod isolated;
mod kills;
mod lifecycle;
mod modules;
mod networks;
mod tutorial;
mod wrong_images;
