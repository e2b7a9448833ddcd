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
    scan(text).0
}

/// What a template gives as it is written: all but expressions, statements and comments.
pub(in crate::farm) fn literals(text: &str) -> Vec<Range<usize>> {
    let (expressions, comments) = scan(text);
    let mut others: Vec<_> = expressions.into_iter().map(|found| found.whole).chain(comments).collect();
    others.sort_by_key(|range| range.start);
    let mut literals = Vec::new();
    let mut at = 0;
    for other in others {
        literals.push(at..other.start);
        at = other.end;
    }
    literals.push(at..text.len());
    literals.retain(|range| !range.is_empty());
    literals
}

/// All expressions and statements of a template, and its comments.
fn scan(text: &str) -> (Vec<Expression>, Vec<Range<usize>>) {
    let mut found = Vec::new();
    let mut comments = Vec::new();
    let mut at = 0;
    while let Some(open) = text[at..].find('{') {
        let start = at + open;
        at = match text.as_bytes().get(start + 1) {
            Some(b'#') => {
                let end = text[start..].find("#}").map_or(text.len(), |end| start + end + 2);
                comments.push(start..end);
                end
            }
            Some(b'{') => close(text, start, "}}", &mut found),
            Some(b'%') => close(text, start, "%}", &mut found),
            _ => start + 1,
        };
    }
    (found, comments)
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
    fn literals_are_all_the_rest() {
        let text = "a{# {{ no }} #}b{{ c }}{% if d %}e {f} {% endif %}";
        let parts: Vec<_> = literals(text).into_iter().map(|range| &text[range]).collect();
        assert_eq!(parts, ["a", "b", "e {f} "]);
        assert_eq!(literals("").len(), 0);
    }

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
