//! farmhand deploys virtual machines on libvirt hypervisors and provisions them phase by phase, with snapshots between
//! the phases.
//!
//! Data flows one way through the rooms of this crate, and a room imports only from those before it:
//! [`base`] → [`farm`] → [`module`], [`image`], [`hypervisor`], [`guest`] → [`plan`] → [`run`] → [`report`] → [`cli`].
//! `docs/architecture.md` has the picture.

#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod base;
pub mod cli;
pub mod farm;
pub mod guest;
pub mod hypervisor;
pub mod image;
pub mod module;
pub mod plan;
pub mod report;
pub mod run;
