//! From a place in a text to where that is written in the file.

/// The offset in `raw`, the way a text is written in a YAML file, of what stands at `offset` in the text itself.
///
/// A written text differs from what it means by quotes, escapes, indentation and folded lines. Blanks may be taken for one
/// another (the indentation of a line for blanks of the text); everything else is found exactly.
pub(super) fn offset(raw: &str, text: &str, offset: usize) -> usize {
    let style = Style::of(raw);
    let mut at = style.start(raw);
    for (index, wanted) in text.char_indices() {
        at = style.skip_to(raw, at, wanted);
        if index >= offset {
            break;
        }
        at += style.width(&raw[at..]);
    }
    at.min(raw.len())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Single,
    Double,
    Block,
}

impl Style {
    fn of(raw: &str) -> Self {
        match raw.as_bytes().first() {
            Some(b'\'') => Self::Single,
            Some(b'"') => Self::Double,
            Some(b'|' | b'>') => Self::Block,
            _ => Self::Plain,
        }
    }

    /// Where the content begins.
    fn start(self, raw: &str) -> usize {
        match self {
            Self::Plain => 0,
            Self::Single | Self::Double => 1,
            Self::Block => raw.find('\n').map_or(raw.len(), |line| line + 1),
        }
    }

    /// Leaves out what stands in the file alone: indentation, escaped line breaks, the rest of a folded line.
    fn skip_to(self, raw: &str, mut at: usize, wanted: char) -> usize {
        while let Some(found) = raw[at.min(raw.len())..].chars().next() {
            if found == wanted || wanted.is_whitespace() && found.is_whitespace() {
                break;
            }
            if self == Self::Double && raw[at..].starts_with("\\\n") {
                at += 2;
            } else if found.is_whitespace() {
                at += found.len_utf8();
            } else {
                break;
            }
        }
        at.min(raw.len())
    }

    /// How many bytes the next character of the text takes in the file.
    fn width(self, rest: &str) -> usize {
        let escape = rest.as_bytes().get(1).copied();
        let width = match (self, rest.chars().next()) {
            (_, None) => 0,
            (Self::Single, Some('\'')) => 2,
            (Self::Double, Some('\\')) => match escape {
                Some(b'x') => 4,
                Some(b'u') => 6,
                Some(b'U') => 10,
                _ => 1 + rest.chars().nth(1).map_or(0, char::len_utf8),
            },
            (_, Some(c)) => c.len_utf8(),
        };
        // Whatever the file holds, a place between two bytes of a character is none.
        (width.min(rest.len())..=rest.len()).find(|&width| rest.is_char_boundary(width)).unwrap_or(rest.len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use camino::Utf8Path;
    use proptest::prelude::*;

    use super::super::{load, node::Data};
    use crate::base::SourceFile;

    /// Where the file writes what stands at the first `needle` of its only value's text.
    fn written(file: &str, needle: char) -> (String, usize) {
        let file = Arc::new(SourceFile::new(Utf8Path::new("f.yaml"), file));
        let root = load(&file).unwrap();
        let node = root.get("k").unwrap();
        let Data::Text(text) = &node.data else { panic!("{node:?}") };
        let place = node.place.as_ref().unwrap();
        let offset = super::offset(&file.text()[place.range()], text, text.find(needle).unwrap());
        (file.text().to_owned(), place.range().start + offset)
    }

    #[test]
    fn every_way_of_writing_a_text_leads_back() {
        for file in [
            "k: abc X",
            "k: 'it''s X'",
            r#"k: "a\tb\x41\u00e9\"X""#,
            "k: \"a \\\n   X\"",
            "k: abc\n  def\n\n  X",
            "k: |\n  abc\n    def\n  X\n",
            "k: |2\n    abc\n  X",
            "k: >-\n  abc\n  def\n\n  X\n",
            "k: >-  # note\n    abc\n\n    X\n",
            "k: \"é {{ X }}\"",
            "k: 'abc\n\n  X'",
        ] {
            let (file, at) = written(file, 'X');
            assert_eq!(file[at..].chars().next(), Some('X'), "{file:?} at {at}");
        }
    }

    proptest! {
        #[test]
        fn never_leaves_the_file(raw in ".{0,40}", text in ".{0,40}", offset in 0usize..50) {
            let at = super::offset(&raw, &text, offset);
            prop_assert!(raw.is_char_boundary(at));
        }

        #[test]
        fn double_quotes_lead_back(before in "[a-z\\\\\"\\t\\n\u{e9} ]{0,20}") {
            let (file, at) = written(&format!("k: {}", serde_json::to_string(&format!("{before}X")).unwrap()), 'X');
            prop_assert_eq!(file[at..].chars().next(), Some('X'));
        }
    }
}
