//! Runs without any machine: on a simulated hypervisor and simulated guests, driven as the command line does.

mod checkpoints;
mod ends;
mod failures;
mod faults;
mod images;
mod kept;
mod leftovers;
mod life;
mod modules;
mod network;
mod ready;
mod remote_storage;
mod retries;
mod scale;
mod support;
