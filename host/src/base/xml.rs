use std::fmt::Write as _;

/// `text` as the content of an XML element or of an attribute in double quotes.
///
/// Characters that XML 1.0 forbids become U+FFFD: libvirt would refuse the whole document.
pub fn xml_escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\r' => {
                // Written as it is, a parser would turn it into a line feed.
                let _ = write!(escaped, "&#13;");
            }
            '\t' | '\n' => escaped.push(character),
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_text_is_read_back_as_it_was() {
        let text = "a < b && c > \"d\" 'e' {\"f\": [1]}\r\n\tπ ]]>";
        let xml = format!("<x y=\"{0}\">{0}</x>", xml_escape(text));
        let document = roxmltree::Document::parse(&xml).unwrap();
        assert_eq!(document.root_element().text(), Some(text));
    }

    #[test]
    fn characters_that_xml_forbids_are_replaced() {
        assert_eq!(xml_escape("a\0b\u{1b}c\u{ffff}"), "a\u{fffd}b\u{fffd}c\u{fffd}");
    }
}
