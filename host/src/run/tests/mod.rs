//! Runs without any machine: on a simulated hypervisor and simulated guests, driven as the command line does.

mod ends;
mod failures;
mod faults;
mod life;
mod modules;
mod ready;
mod retries;
mod scale;
mod support;
