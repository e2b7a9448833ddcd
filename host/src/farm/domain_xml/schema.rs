//! libvirt's own schema of domain XML (RELAX NG), from the installed libvirt.

use std::{fmt, path::PathBuf};

use camino::{Utf8Path, Utf8PathBuf};
use relax_ng::{
    Content, DatatypeRegistry, Element, ExpandedName, ResolveError, Schema, SchemaResolver, SchemaSource,
    SchemaSyntax, ValidationErrorKind,
};
use roxmltree::{Document, Node};

/// libvirt's schema of domains.
pub struct DomainSchema {
    schema: Schema,
    datatypes: DatatypeRegistry,
}

impl fmt::Debug for DomainSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DomainSchema")
    }
}

/// Why domains can't be checked against libvirt's schema. That is no mistake of the farm's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// It is not installed.
    #[error("libvirt's schema of domains is not installed (looked for {})", looked.iter().map(|path| path.as_str()).collect::<Vec<_>>().join(", "))]
    Absent {
        /// The files that were looked for.
        looked: Vec<Utf8PathBuf>,
    },
    /// It is there and can't be used.
    #[error("libvirt's schema of domains, {path}, can't be used: {why}")]
    Unusable {
        /// Its file.
        path: Utf8PathBuf,
        /// Why.
        why: String,
    },
}

/// Where in a domain's XML the schema does not allow what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    /// Where the element begins, in bytes.
    pub(super) offset: usize,
    pub(super) message: String,
}

/// The schema's place below each of the data folders of the XDG base directories.
const FILE: &str = "libvirt/schemas/domain.rng";

impl DomainSchema {
    /// The schema of the installed libvirt: the one that its `virt-xml-validate` uses.
    pub fn installed() -> Result<Self, SchemaError> {
        let folders = std::env::var("XDG_DATA_DIRS").ok().filter(|folders| !folders.is_empty());
        let folders = folders.unwrap_or_else(|| "/usr/local/share:/usr/share".to_owned());
        let folders =
            std::env::split_paths(&folders).filter_map(|path: PathBuf| Utf8PathBuf::try_from(path).ok());
        let looked: Vec<_> = folders.map(|folder| folder.join(FILE)).collect();
        match looked.iter().find(|path| path.is_file()) {
            Some(path) => Self::read(path),
            None => Err(SchemaError::Absent { looked }),
        }
    }

    /// Reads a schema and those beside it that it includes.
    pub(super) fn read(path: &Utf8Path) -> Result<Self, SchemaError> {
        let unusable = |why: String| SchemaError::Unusable { path: path.to_owned(), why };
        let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
        let source = SchemaSource::new(text, path.as_str(), SchemaSyntax::Xml);
        let beside = Beside(path.parent().unwrap_or(Utf8Path::new("")));
        let schema = Schema::compile(&source, &beside).map_err(|error| unusable(error.to_string()))?;
        Ok(Self { schema, datatypes: DatatypeRegistry::default() })
    }

    /// All that the schema does not allow in a document.
    pub(super) fn violations(&self, document: &Document<'_>) -> Result<Vec<Violation>, String> {
        let found = self.schema.validate(&self.datatypes, &XmlElement(document.root_element()));
        let found = found.map_err(|error| error.to_string())?;
        let violation = |error: &relax_ng::ValidationError<usize>| {
            let within = error.path().last().map_or_else(String::new, |name| format!(" in <{}>", name.local));
            let of = error.path().last().map_or_else(String::new, |name| format!(" of <{}>", name.local));
            let message = match error.kind() {
                ValidationErrorKind::UnexpectedElement(name) => {
                    format!("<{}> can't stand{within} here", name.local)
                }
                ValidationErrorKind::UnexpectedAttribute(name) => {
                    format!("`{}` is no attribute{of}", name.local)
                }
                ValidationErrorKind::InvalidAttributeValue(name, value) => {
                    format!("`{value}` is no value of the attribute `{}`{of}", name.local)
                }
                ValidationErrorKind::UnexpectedText => format!("this text can't stand{within}"),
                ValidationErrorKind::MissingContent => format!("something is missing{within}"),
            };
            Violation { offset: error.location().copied().unwrap_or_default(), message }
        };
        // What lacks something because something else is wrong with it is told once.
        let is_missing = |error: &relax_ng::ValidationError<usize>| {
            matches!(error.kind(), ValidationErrorKind::MissingContent)
        };
        let wrong: Vec<_> = found
            .iter()
            .filter(|error| !is_missing(error))
            .map(relax_ng::ValidationError::location)
            .collect();
        let told = found.iter().filter(|error| !(is_missing(error) && wrong.contains(&error.location())));
        Ok(told.map(violation).collect())
    }
}

/// The files that a schema includes stand beside it.
struct Beside<'a>(&'a Utf8Path);

impl SchemaResolver for Beside<'_> {
    fn resolve(&self, href: &str, _base: &str) -> Result<SchemaSource, ResolveError> {
        let name = Utf8Path::new(href).file_name();
        let name = name
            .filter(|name| *name == href)
            .ok_or_else(|| ResolveError::new("it is not beside the schema"))?;
        let path = self.0.join(name);
        let text = std::fs::read_to_string(&path).map_err(|error| ResolveError::new(error.to_string()))?;
        Ok(SchemaSource::new(text, path.as_str(), SchemaSyntax::Xml))
    }
}

/// An element, as the validator looks at it.
struct XmlElement<'a>(Node<'a, 'a>);

impl Element for XmlElement<'_> {
    type Location = usize;

    fn name(&self) -> ExpandedName {
        let name = self.0.tag_name();
        ExpandedName::new(name.namespace(), name.name())
    }

    fn attributes(&self) -> impl Iterator<Item = (ExpandedName, String)> {
        let name = |attribute: &roxmltree::Attribute<'_, '_>| {
            ExpandedName::new(attribute.namespace(), attribute.name())
        };
        self.0.attributes().map(move |attribute| (name(&attribute), attribute.value().to_owned()))
    }

    fn children(&self) -> impl Iterator<Item = Content<Self>> {
        // Texts around a comment are one text.
        let mut children: Vec<Content<Self>> = Vec::new();
        for child in self.0.children() {
            match (child.is_element(), child.text().filter(|_| child.is_text()), children.last_mut()) {
                (true, ..) => children.push(Content::Element(XmlElement(child))),
                (_, Some(text), Some(Content::Text(before))) => before.push_str(text),
                (_, Some(text), _) if !text.is_empty() => children.push(Content::Text(text.to_owned())),
                _ => {}
            }
        }
        children.into_iter()
    }

    fn location(&self) -> Option<usize> {
        Some(self.0.range().start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(text: &str) -> (tempfile::TempDir, Result<DomainSchema, SchemaError>) {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap().join("domain.rng");
        std::fs::write(&path, text).unwrap();
        let schema = DomainSchema::read(&path);
        (folder, schema)
    }

    #[test]
    fn violations_say_what_and_where() {
        let text = r#"<element name="domain" xmlns="http://relaxng.org/ns/structure/1.0" datatypeLibrary="http://www.w3.org/2001/XMLSchema-datatypes">
            <attribute name="type"><choice><value>kvm</value><value>qemu</value></choice></attribute>
            <element name="vcpu"><data type="unsignedInt"/></element></element>"#;
        let (_folder, schema) = schema(text);
        let schema = schema.unwrap();
        let told = |xml: &str| -> Vec<String> {
            let document = Document::parse(xml).unwrap();
            let violations = schema.violations(&document).unwrap();
            violations.into_iter().map(|found| format!("{}: {}", found.offset, found.message)).collect()
        };
        assert_eq!(told("<domain type='kvm'><vcpu>2<!-- a -->3</vcpu></domain>"), [""; 0]);
        assert_eq!(
            told("<domain type='xen'><vcpu>2</vcpu></domain>"),
            ["0: `xen` is no value of the attribute `type` of <domain>"]
        );
        assert_eq!(
            told("<domain type='kvm'><vcpu>many</vcpu></domain>"),
            ["19: this text can't stand in <vcpu>"]
        );
        assert_eq!(
            told("<domain type='kvm'><vcpu>2</vcpu><cpu/></domain>"),
            ["33: <cpu> can't stand in <domain> here"]
        );
    }

    #[test]
    fn a_schema_that_is_none_says_so() {
        assert!(matches!(schema("<nonsense/>").1, Err(SchemaError::Unusable { .. })));
        // Files elsewhere are none of a schema's.
        let (_folder, outside) = schema(
            r#"<grammar xmlns="http://relaxng.org/ns/structure/1.0"><include href="../../etc/passwd"/></grammar>"#,
        );
        assert!(outside.unwrap_err().to_string().contains("not beside"));
    }
}
