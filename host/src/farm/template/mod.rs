//! Jinja expressions in definition files, in Ansible's manner: each text is a template of its own.

use std::ops::Range;

use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, value::Serde};
use serde_json::Value;

use crate::base::xml_escape;

/// Steps of the template machine that one text may take: enough for any honest definition, and an end to loops.
const FUEL: u64 = 100_000;

/// Renders the texts of definition files and of domain templates.
pub(super) struct Templates(Environment<'static>);

/// Why a text could not be rendered, and where in it (bytes).
#[derive(Debug)]
pub(super) struct TemplateError {
    pub(super) message: String,
    pub(super) range: Option<Range<usize>>,
    pub(super) line: Option<usize>,
}

impl Templates {
    pub(super) fn new() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(64);
        environment.set_auto_escape_callback(|name| {
            if name.ends_with(".xml.j2") { AutoEscape::Custom("xml".into()) } else { AutoEscape::None }
        });
        environment.set_formatter(|output, state, value| match state.auto_escape() {
            // minijinja's own escaping is for HTML.
            AutoEscape::Custom(_) => {
                output.write_str(&xml_escape(&value.to_string())).map_err(|_| ErrorKind::WriteFailure.into())
            }
            _ => minijinja::escape_formatter(output, state, value),
        });
        Self(environment)
    }

    /// Whether a text holds anything to render.
    pub(super) fn is_template(text: &str) -> bool {
        text.contains("{{") || text.contains("{%") || text.contains("{#")
    }

    /// Renders a text of a definition. A text that is one single expression keeps the expression's type; any other gives a
    /// text.
    pub(super) fn value(&self, text: &str, context: &Value) -> Result<Value, TemplateError> {
        if let Some(expression) = single_expression(text) {
            let offset = text.len() - text.trim_start().len() + 2;
            let value = self
                .0
                .compile_expression(expression)
                .and_then(|compiled| compiled.eval(Serde(context)))
                .map_err(|error| TemplateError::new(&error, offset))?;
            if value.is_undefined() {
                let message = format!("`{}` is not defined", expression.trim());
                return Err(TemplateError {
                    message,
                    range: Some(offset..offset + expression.len()),
                    line: None,
                });
            }
            return serde_json::to_value(value).map_err(|error| TemplateError {
                message: error.to_string(),
                range: None,
                line: None,
            });
        }
        self.text("<text>", text, context).map(Value::String)
    }

    /// Renders a template file or a text. A name that ends in `.xml.j2` has its expressions escaped for XML.
    pub(super) fn text(&self, name: &str, text: &str, context: &Value) -> Result<String, TemplateError> {
        self.0.render_named_str(name, text, Serde(context)).map_err(|error| TemplateError::new(&error, 0))
    }
}

impl TemplateError {
    fn new(error: &minijinja::Error, offset: usize) -> Self {
        let mut message = error.kind().to_string();
        if let Some(detail) = error.detail() {
            message = format!("{message}: {detail}");
        }
        let range = error.range().map(|range| range.start + offset..range.end + offset);
        Self { message, range, line: error.line() }
    }
}

/// The inside of a text that is `{{ ... }}` and nothing else.
fn single_expression(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!inner.contains("{{") && !inner.contains("}}") && !inner.contains("{%")).then_some(inner)
}
