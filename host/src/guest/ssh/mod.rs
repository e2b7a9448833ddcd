//! Guests over SSH: one connection for a guest, and a channel of it for each command; more connections for what may be left
//! unread.
//!
//! | part | does |
//! |---|---|
//! | [`SshConnector`] | tries until the guest can be reached, checks the host key, logs in |
//! | `through` | a connection that another host forwards |
//! | `script` | what is sent for a command |
//! | `preface` | tells a command's own output from what comes before it |
//! | `running` | a command that runs: its streams, its end, and how it is ended |

mod client;
mod connector;
mod guest;
mod login;
mod preface;
mod running;
pub(super) mod script;
mod stream;
mod through;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use connector::SshConnector;
pub use guest::SshGuest;
