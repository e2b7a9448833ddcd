/// The text of an element's child element of that name, trimmed of nothing; `None` if there is no such child.
pub(super) fn child_text<'a>(node: roxmltree::Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.children().find(|child| child.has_tag_name(name)).map(|child| child.text().unwrap_or_default())
}
