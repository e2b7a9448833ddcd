mod machine;
mod place;
mod schedule;
