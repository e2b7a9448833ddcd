//! What the program prints, without a hypervisor: golden files (see `snapshots/`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_input;
mod check;
mod help;
mod images;
mod init;
mod machines;
mod report;
mod unreached;
