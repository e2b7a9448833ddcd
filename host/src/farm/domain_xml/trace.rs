//! From a place in rendered XML to the place in the template that it came from.
//!
//! Every `<` that the template itself writes gets a mark in front, the template is rendered once more, and the marks are taken
//! out again. A mark is no blank, so it changes nothing of what Jinja trims.

use std::ops::Range;

use crate::farm::template::literals;

/// Around a mark: characters that no template or definition has a use for.
const OPEN: char = '\u{e000}';
const CLOSE: char = '\u{e001}';

/// A template with marks that say where they stand.
pub(super) fn mark(template: &str) -> String {
    let mut marked = String::with_capacity(template.len() * 2);
    let mut at = 0;
    for literal in literals(template) {
        for (offset, _) in template[literal.clone()].match_indices('<') {
            let here = literal.start + offset;
            marked.push_str(&template[at..here]);
            marked.push(OPEN);
            marked.push_str(&here.to_string());
            marked.push(CLOSE);
            at = here;
        }
    }
    marked.push_str(&template[at..]);
    marked
}

/// Where the parts of rendered XML come from: offsets in the XML and in the template.
#[derive(Debug)]
pub(super) struct Trace(Vec<(usize, usize)>);

impl Trace {
    /// Takes the marks out of what a marked template gave. The XML without them comes beside it.
    pub(super) fn read(rendered: &str) -> (String, Self) {
        let mut xml = String::with_capacity(rendered.len());
        let mut marks = Vec::new();
        let mut rest = rendered;
        while let Some((before, after)) = rest.split_once(OPEN) {
            xml.push_str(before);
            match after.split_once(CLOSE).and_then(|(number, after)| Some((number.parse().ok()?, after))) {
                Some((offset, after)) => {
                    marks.push((xml.len(), offset));
                    rest = after;
                }
                None => {
                    xml.push(OPEN);
                    rest = after;
                }
            }
        }
        xml.push_str(rest);
        (xml, Self(marks))
    }

    /// What in the template gave what stands at `offset` of the XML: the start of a tag, up to its name's end.
    pub(super) fn origin(&self, offset: usize, template: &str) -> Range<usize> {
        let index = self.0.partition_point(|(at, _)| *at <= offset);
        let start = index.checked_sub(1).map_or(0, |index| self.0[index].1);
        let tag = template.get(start..).unwrap_or_default();
        let end = tag.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(tag.len());
        start..start + end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rendered_leads_back_to_its_template() {
        let template =
            "{# <x> #}<a>\n  {%- for i in [1, 2] %}\n  <b c=\"<{{ i }}\"/>\n  {%- endfor %}\n</a>\n";
        let engine = crate::farm::template::Templates::new();
        let render = |text: &str| engine.xml(text, &serde_json::json!({})).unwrap();
        let (xml, trace) = Trace::read(&render(&mark(template)));
        assert_eq!(xml, render(template), "marks change nothing");
        let second = xml.rfind("<b").unwrap();
        assert_eq!(&template[trace.origin(second, template)], "<b");
        let end = xml.rfind("</a").unwrap();
        assert_eq!(trace.origin(end, template).start, template.rfind("</a").unwrap());
        assert_eq!(&template[trace.origin(0, template)], "<a");
    }

    #[test]
    fn signs_that_are_no_marks_stay() {
        let (xml, trace) = Trace::read("a\u{e000}b<c>\u{e001}");
        assert_eq!(xml, "a\u{e000}b<c>\u{e001}");
        assert_eq!(trace.origin(3, ""), 0..0);
    }
}
