//! The JSON Schema of `farm.yaml`, by which editors complete and check it.

use schemars::{Schema, generate::SchemaSettings};
use serde_json::{Value, json};

use super::Config;

/// Keys that have an older name as well.
const OLDER_NAMES: [(&str, &str); 3] =
    [("list", "combinations"), ("list", "definitions"), ("serial", "jobs")];

/// The JSON Schema (draft 7, which editors know best) of `farm.yaml`.
pub fn json_schema() -> Value {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<Config>();
    schema.insert("title".to_owned(), json!("farm.yaml"));
    schema.to_value()
}

/// Adds the older names of keys, which serde reads and schemars does not see.
pub(super) fn add_older_names(schema: &mut Schema) {
    let Some(Value::Object(properties)) = schema.get_mut("properties") else { return };
    for (name, older) in OLDER_NAMES {
        if let Some(mut property) = properties.get(name).cloned() {
            if let Value::Object(property) = &mut property {
                property.insert("deprecated".to_owned(), json!(true));
                property.insert("description".to_owned(), json!(format!("The same as `{name}`.")));
            }
            properties.insert(older.to_owned(), property);
        }
    }
}
