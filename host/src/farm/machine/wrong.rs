use crate::farm::yaml::{Key, Mistake};

/// What is wrong, and with which value of `vm`.
#[derive(Debug)]
pub(in crate::farm) struct Wrong {
    pub(in crate::farm) path: Vec<Key>,
    pub(in crate::farm) message: String,
    help: Option<String>,
    is_key: bool,
}

impl Wrong {
    pub(in crate::farm) fn new(
        path: impl IntoIterator<Item = impl Into<Key>>,
        message: impl Into<String>,
    ) -> Self {
        let path = path.into_iter().map(Into::into).collect();
        Self { path, message: message.into(), help: None, is_key: false }
    }

    /// Says what to do about it.
    pub(in crate::farm) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

impl From<Wrong> for Mistake {
    fn from(Wrong { path, message, help, is_key }: Wrong) -> Self {
        Self { path, message, help, is_key }
    }
}

impl From<Mistake> for Wrong {
    fn from(Mistake { path, message, help, is_key }: Mistake) -> Self {
        Self { path, message, help, is_key }
    }
}
