//! Runs without any machine: on a simulated hypervisor and simulated guests, driven as the command line does.

mod failures;
mod faults;
mod kept;
mod life;
mod modules;
mod ready;
mod support;
