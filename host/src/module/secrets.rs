//! Secrets of a call, and what keeps them out of what modules and people see.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use aho_corasick::{AhoCorasick, MatchKind};

use super::{Level, ModuleLog};
use crate::{base::Secret, farm::Farm, guest::Stream};

/// What stands where a secret was.
const MASK: &[u8] = b"***";

/// The secrets of a run, by name, with their values: all are masked, and a module may use those that it was granted. Cheap to
/// clone.
#[derive(Clone, Default)]
pub struct Secrets(Option<Arc<Inner>>);

struct Inner {
    values: BTreeMap<String, Secret>,
    /// Finds all values at once. `None` when they are too large for that.
    finder: Option<AhoCorasick>,
    longest: usize,
}

impl Secrets {
    /// These secrets.
    pub fn new(values: BTreeMap<String, Secret>) -> Self {
        if values.is_empty() {
            return Self::default();
        }
        let texts: Vec<&str> = values.values().map(Secret::reveal).collect();
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or_default();
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts).ok();
        Self(Some(Arc::new(Inner { values, finder, longest })))
    }

    /// Reads a secret from where the farm says. The error says why it can't be read.
    pub(super) fn read(farm: &Farm, name: &str) -> Result<Secret, String> {
        let source = farm.config.secrets.get(name);
        let source = source.ok_or_else(|| format!("secret {name} is not in farm.yaml under `secrets`"))?;
        source.read(&farm.root).map_err(|why| format!("secret {name} can't be read: {why}"))
    }

    /// The value of one.
    pub(super) fn get(&self, name: &str) -> Option<&Secret> {
        self.0.as_ref()?.values.get(name)
    }

    /// The bytes with `***` for every secret in them.
    pub(super) fn mask<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let mut mask = Mask::new(self.clone());
        match &self.0 {
            None => Cow::Borrowed(bytes),
            Some(_) => {
                let mut masked = mask.push(bytes).into_owned();
                masked.extend(mask.finish());
                Cow::Owned(masked)
            }
        }
    }

    /// The text with `***` for every secret in it.
    pub(super) fn mask_text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.mask(text.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            Cow::Owned(masked) => Cow::Owned(String::from_utf8_lossy(&masked).into_owned()),
        }
    }
}

/// Keeps secrets out of what goes to a log. Guests can tear a secret apart with control codes, so it is looked for once more
/// where lines are plain.
pub(super) struct MaskedLog {
    pub(super) log: Arc<dyn ModuleLog>,
    pub(super) secrets: Secrets,
}

impl ModuleLog for MaskedLog {
    fn line(&self, level: Level, line: &str) {
        self.log.line(level, &self.secrets.mask_text(line));
    }

    fn output(&self, stream: Stream, line: &str) {
        self.log.output(stream, &self.secrets.mask_text(line));
    }

    fn progress(&self, message: &str, percent: Option<u8>) {
        self.log.progress(&self.secrets.mask_text(message), percent);
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.iter().flat_map(|inner| inner.values.keys())).finish()
    }
}

/// Masks a stream of bytes. What may be the beginning of a secret is kept back until more has come.
pub(super) struct Mask {
    secrets: Secrets,
    held: Vec<u8>,
}

impl Mask {
    pub(super) fn new(secrets: Secrets) -> Self {
        Self { secrets, held: Vec::new() }
    }

    /// Takes the next bytes and gives those that are safe by now.
    pub(super) fn push<'a>(&mut self, chunk: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(inner) = self.secrets.0.clone() else { return Cow::Borrowed(chunk) };
        self.held.extend_from_slice(chunk);
        // A secret that begins before this is here as a whole.
        let whole = self.held.len().saturating_sub(inner.longest.saturating_sub(1));
        Cow::Owned(self.give(&inner, whole))
    }

    /// Gives the rest.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        match self.secrets.0.clone() {
            None => Vec::new(),
            Some(inner) => self.give(&inner, self.held.len()),
        }
    }

    fn give(&mut self, inner: &Inner, end: usize) -> Vec<u8> {
        let Some(finder) = &inner.finder else {
            // Nothing can be said of what is in there, so nothing is shown of it.
            self.held.clear();
            return Vec::new();
        };
        let (mut given, mut at) = (Vec::with_capacity(self.held.len()), 0);
        for found in finder.find_iter(&self.held).take_while(|found| found.start() < end) {
            given.extend_from_slice(&self.held[at..found.start()]);
            given.extend_from_slice(MASK);
            at = found.end();
        }
        let end = end.max(at);
        given.extend_from_slice(&self.held[at..end]);
        self.held.drain(..end);
        given
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secrets(values: &[&str]) -> Secrets {
        let named = values.iter().enumerate();
        Secrets::new(named.map(|(index, value)| (format!("S{index}"), Secret::new(*value))).collect())
    }

    #[test]
    fn secrets_are_masked() {
        let secrets = secrets(&["hunter2", "hunter2-long", "x1"]);
        for (text, expected) in [
            ("nothing here", "nothing here"),
            ("hunter2", "***"),
            ("a hunter2-long b", "a *** b"),
            ("x1x1 hunter", "****** hunter"),
        ] {
            assert_eq!(secrets.mask(text.as_bytes()), expected.as_bytes(), "{text}");
        }
        assert_eq!(format!("{secrets:?}"), r#"{"S0", "S1", "S2"}"#);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_a_stream_is_cut(text in "[ab]{0,40}", cuts in prop::collection::vec(0usize..40, 0..6)) {
            let secrets = secrets(&["ab", "aab", "bbb"]);
            let whole = secrets.mask(text.as_bytes()).into_owned();
            let mut mask = Mask::new(secrets);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let mut given = Vec::new();
            for pair in cuts.windows(2) {
                given.extend_from_slice(&mask.push(&text.as_bytes()[pair[0]..pair[1]]));
            }
            given.extend(mask.finish());
            prop_assert_eq!(&given, &whole);
            let has = |secret: &[u8]| given.windows(secret.len()).any(|window| window == secret);
            prop_assert!(!has(b"aab") && !has(b"bbb"));
        }
    }
}
