//! Modules that want what they should not have, each with what has to become of it: stopped within its limit, by an error
//! that names limit, value and module, while the other machines of the same run go on.
//!
//! `cargo test --test hostile -- --nocapture` prints the table, with the time that each took to be stopped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod built;
mod encode;
mod forged;
mod machine;
mod released;
mod table;
