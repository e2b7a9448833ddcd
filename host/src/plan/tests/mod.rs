mod machine;
mod network;
mod place;
mod schedule;
