use std::{
    collections::HashSet,
    fmt,
    ops::Range,
    sync::{Arc, OnceLock},
};

use camino::{Utf8Path, Utf8PathBuf};
use miette::{Diagnostic, LabeledSpan, MietteSpanContents, SourceCode, SourceSpan, SpanContents};

/// The largest input file that is read: definitions and phase files are written by hand.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// A text file of the user's, kept so that problems can point into it.
#[derive(Clone)]
pub struct SourceFile {
    path: Utf8PathBuf,
    text: Arc<str>,
    /// The text as it may be shown.
    shown: Arc<OnceLock<String>>,
}

/// Without its text, in which there may be passwords.
impl fmt::Debug for SourceFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SourceFile").field(&self.path).finish()
    }
}

impl SourceFile {
    /// Reads a UTF-8 file of at most 1 MiB.
    pub fn read(path: &Utf8Path) -> Result<Self, Problem> {
        let fail = |why: String| Problem::new(format!("can't read {path}: {why}"));
        let size = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?.len();
        if size > MAX_FILE_SIZE {
            return Err(fail(format!("it is larger than {MAX_FILE_SIZE} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        Ok(Self::new(path, text))
    }

    /// A file with this content.
    pub fn new(path: &Utf8Path, text: impl Into<Arc<str>>) -> Self {
        Self { path: path.to_owned(), text: text.into(), shown: Arc::default() }
    }

    /// Where the file is.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// The folder it is in.
    pub fn folder(&self) -> &Utf8Path {
        self.path.parent().unwrap_or(Utf8Path::new(""))
    }

    /// What is in it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A problem at a byte range of this file.
    pub fn problem(&self, range: Range<usize>, message: impl Into<String>) -> Problem {
        let end = self.text.len();
        let range = range.start.min(end)..range.end.min(end);
        Problem { place: Some((self.clone(), range)), ..Problem::new(message) }
    }

    /// Line and column (both from 1; columns count characters) of a byte offset.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset.min(self.text.len())).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (line, column)
    }

    /// The byte offset of a line and column (both from 1).
    pub fn offset(&self, line: usize, column: usize) -> usize {
        let start = self.text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum::<usize>();
        let rest = &self.text[start.min(self.text.len())..];
        start + rest.chars().take(column.saturating_sub(1)).map(char::len_utf8).sum::<usize>()
    }
}

/// A text with stars for what stands after keys that name passwords, byte for byte so that places stay right. A key that is
/// misspelt hides its value, too; a template does not, as it is no password yet.
fn masked(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("pass") {
        let word = |c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '"' | '\''));
        let key = start + rest[start..].find(word).unwrap_or(rest.len() - start);
        let blanks = rest[key..].len() - rest[key..].trim_start_matches([':', ' ', '\t']).len();
        let value = key + blanks;
        let is_key = rest[key..value].contains(':');
        let end = value + if is_key { value_length(&rest[value..]) } else { 0 };
        shown.push_str(&rest[..value]);
        match &rest[value..end] {
            template if template.contains("{{") => shown.push_str(template),
            password => shown.extend(password.bytes().map(|_| '*')),
        }
        rest = &rest[end..];
    }
    shown + rest
}

/// How long a scalar is that stands on one line, in a flow mapping or not.
fn value_length(text: &str) -> usize {
    let line = text.lines().next().unwrap_or_default();
    match line.chars().next() {
        Some(quote @ ('"' | '\'')) => line[1..].find(quote).map_or(line.len(), |end| end + 2),
        // A tag, or a text on the lines that follow.
        Some('!' | '|' | '>') => 0,
        _ if line.starts_with("{{") => line.len(),
        _ => line[..line.find([',', '}']).unwrap_or(line.len())].trim_end().len(),
    }
}

impl SourceCode for SourceFile {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, miette::MietteError> {
        let contents = self.shown.get_or_init(|| masked(&self.text)).read_span(span, before, after)?;
        Ok(Box::new(MietteSpanContents::new_named(
            self.path.to_string(),
            contents.data(),
            *contents.span(),
            contents.line(),
            contents.column(),
            contents.line_count(),
        )))
    }
}

/// Something wrong with the user's input: what, where, and what to do about it.
#[derive(Debug, Clone)]
pub struct Problem {
    message: String,
    help: Option<String>,
    place: Option<(SourceFile, Range<usize>)>,
}

impl Problem {
    /// A problem with no place in a file.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, place: None }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Says where it is, unless that is known.
    #[must_use]
    pub fn or_at(self, file: &SourceFile, range: Range<usize>) -> Self {
        let place = self.place.or_else(|| file.problem(range, "").place);
        Self { place, ..self }
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Drops problems that were told already: files are shared by machines.
    pub fn dedup(problems: &mut Vec<Self>) {
        let mut told = HashSet::new();
        problems.retain(|problem| told.insert((problem.location(), problem.message.clone())));
    }

    /// `file:line:column`, if it is in a file.
    pub fn location(&self) -> Option<String> {
        let (file, line, column) = self.position()?;
        Some(format!("{file}:{line}:{column}"))
    }

    /// The file, line and column (both from 1) that it is at, if it is in a file.
    pub fn position(&self) -> Option<(&Utf8Path, usize, usize)> {
        let (file, range) = self.place.as_ref()?;
        let (line, column) = file.position(range.start);
        Some((file.path(), line, column))
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.place.as_ref().map(|(file, _)| file as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (_, range) = self.place.as_ref()?;
        let label = LabeledSpan::new(Some("here".to_owned()), range.start, range.len());
        Some(Box::new(std::iter::once(label)))
    }
}

/// All problems that were found: never empty.
#[derive(Debug, Clone)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// `Ok(value)` when there are no problems.
    pub fn unless_empty<T>(problems: Vec<Problem>, value: T) -> Result<T, Self> {
        if problems.is_empty() { Ok(value) } else { Err(Self(problems)) }
    }

    /// The problems themselves.
    pub fn as_slice(&self) -> &[Problem] {
        &self.0
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// Of at least one problem.
impl From<Vec<Problem>> for Problems {
    fn from(problems: Vec<Problem>) -> Self {
        Self(problems)
    }
}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = std::vec::IntoIter<Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the farm has a problem; no machine was touched"),
            count => write!(f, "the farm has {count} problems; no machine was touched"),
        }
    }
}

impl std::error::Error for Problems {}

impl Diagnostic for Problems {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.0.iter().map(|problem| problem as &dyn Diagnostic)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_where_a_file_is_shown() {
        for (text, shown) in [
            ("auth: { user: ada, password: hunter2 }\n", "auth: { user: ada, password: ******* }\n"),
            ("  become_password: \"a, b\" # x\n  ram: 1", "  become_password: ****** # x\n  ram: 1"),
            ("passwrd: s\u{e9}cret", "passwrd: *******"),
            ("'password' : 'x'", "'password' : ***"),
            ("password: \"{{ x }}\"\nb: 1", "password: \"{{ x }}\"\nb: 1"),
            ("password: !vault |\n  62313", "password: !vault |\n  62313"),
            ("passwords:\n  - a", "passwords:\n  - a"),
            ("type: user # passt", "type: user # passt"),
            ("password: 'open", "password: *****"),
            ("pass", "pass"),
        ] {
            assert_eq!(masked(text), shown);
            assert_eq!(shown.len(), text.len(), "{text}");
        }
    }
}
