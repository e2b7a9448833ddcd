//! Where the expressions of a template begin and end.

use std::ops::Range;

/// What stands between `{{` and `}}`, or `{%` and `%}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expression {
    /// With its delimiters.
    pub(super) whole: Range<usize>,
    /// Without them, and without the signs that trim blanks.
    pub(super) inner: Range<usize>,
    /// Whether it gives a text, rather than being a statement.
    pub(super) is_output: bool,
}

/// All expressions and statements of a template.
pub(super) fn expressions(text: &str) -> Vec<Expression> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(open) = text[at..].find('{') {
        let start = at + open;
        at = match text.as_bytes().get(start + 1) {
            Some(b'#') => text[start..].find("#}").map_or(text.len(), |end| start + end + 2),
            Some(b'{') => close(text, start, "}}", &mut found),
            Some(b'%') => close(text, start, "%}", &mut found),
            _ => start + 1,
        };
    }
    found
}

/// The inside of a text that is one expression and nothing else.
pub(super) fn single_expression(text: &str) -> Option<Range<usize>> {
    let start = text.len() - text.trim_start().len();
    match &expressions(text)[..] {
        [only] if only.is_output && only.whole == (start..text.trim_end().len()) => Some(only.inner.clone()),
        _ => None,
    }
}

/// Notes what begins at `start` and gives its end. Delimiters in brackets and quotes do not count.
fn close(text: &str, start: usize, delimiter: &str, found: &mut Vec<Expression>) -> usize {
    let mut depth = 0_usize;
    let mut quote = None;
    let mut escaped = false;
    let mut end = text.len();
    for (offset, c) in text[start + 2..].char_indices() {
        let at = start + 2 + offset;
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, _) if depth == 0 && text[at..].starts_with(delimiter) => {
                end = at + 2;
                break;
            }
            (None, '"' | '\'') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
    }
    let is_closed = end >= start + 4 && text[..end].ends_with(delimiter);
    let mut inner = start + 2..if is_closed { end - 2 } else { end };
    if text[inner.clone()].starts_with(['-', '+']) {
        inner.start += 1;
    }
    if text[inner.clone()].ends_with(['-', '+']) {
        inner.end -= 1;
    }
    let is_output = delimiter == "}}" && is_closed;
    found.push(Expression { whole: start..end, inner, is_output });
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_end_where_jinja_ends_them() {
        let inner = |text: &'static str| single_expression(text).map(|range| &text[range]);
        assert_eq!(inner(" {{ a }}\n"), Some(" a "));
        assert_eq!(inner("{{- a -}}"), Some(" a "));
        assert_eq!(inner("{{ -1 }}"), Some(" -1 "));
        assert_eq!(inner("{{ {'a': {'b': 1}} | combine({}) }}"), Some(" {'a': {'b': 1}} | combine({}) "));
        assert_eq!(inner("{{ '}}' ~ \"\\\"}}\" }}"), Some(" '}}' ~ \"\\\"}}\" "));
        assert_eq!(inner("{{ a }}{{ b }}"), None);
        assert_eq!(inner("{% if a %}"), None);
        assert_eq!(inner("{{ a"), None);
        assert_eq!(inner("{{}}"), Some(""));
        assert_eq!(inner("{{-}}"), Some(""));
        assert_eq!(inner("{# {{ a }} #}"), None);
    }
}
