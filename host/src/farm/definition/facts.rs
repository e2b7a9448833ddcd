//! What definitions may know of the host that they are read on, under Ansible's names.

use std::sync::Arc;

use crate::farm::yaml::{Data, Entry, Node};

/// Facts of the hypervisor's host, which is this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::farm) struct HostFacts {
    /// `ansible_architecture`: the machine's architecture in the kernel's words.
    pub(in crate::farm) architecture: String,
    /// `ansible_env.HOME`, `ansible_user_dir`: the user's home folder.
    pub(in crate::farm) home: String,
    /// `ansible_user_id`: the user's name.
    pub(in crate::farm) user: String,
}

impl HostFacts {
    /// The facts of this host and user. What can't be found out is empty.
    pub(in crate::farm) fn of_this_host() -> Self {
        let architecture = rustix::system::uname().machine().to_string_lossy().into_owned();
        let id = rustix::process::geteuid().as_raw().to_string();
        // passwd(5): name, password, user id, group id, comment, home folder, shell.
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let own = fields.into_iter().find(|fields| fields.get(2) == Some(&id.as_str()));
        let field = |index: usize| own.as_ref().and_then(|own| own.get(index)).map(|text| (*text).to_owned());
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            architecture,
            home: variable("HOME").or_else(|| field(5)).unwrap_or_default(),
            user: field(0).or_else(|| variable("USER")).unwrap_or_default(),
        }
    }

    /// As variables of templates.
    pub(super) fn variables(&self) -> Arc<Node> {
        let text = |text: &str| Node::literal(text, None);
        let variables = [
            ("ansible_architecture", text(&self.architecture)),
            ("ansible_env", Node::map([("HOME", text(&self.home))])),
            ("ansible_user_dir", text(&self.home)),
            ("ansible_user_id", text(&self.user)),
        ];
        Arc::new(Node::map(variables))
    }
}

/// Variables with more of them.
pub(super) fn with(variables: &Arc<Node>, more: impl IntoIterator<Item = (&'static str, Node)>) -> Arc<Node> {
    let mut variables = variables.clone();
    if let Data::Map(entries) = &mut Arc::make_mut(&mut variables).data {
        entries.extend(more.into_iter().map(|(name, value)| (Arc::from(name), Entry::new(Arc::new(value)))));
    }
    variables
}
