//! Has a schema of settings that doubles with each of its levels.

use hostile::*;

struct Module;

impl Bad for Module {
    fn describe() -> Descriptor {
        let level = |level: u32| {
            let below = format!(r##"{{"$ref": "#/$defs/l{}"}}"##, level + 1);
            format!(r#""l{level}": {{"allOf": [{below}, {below}]}}"#)
        };
        let levels: Vec<String> = (0..40).map(level).collect();
        let schema =
            format!(r##"{{"$ref": "#/$defs/l0", "$defs": {{{}, "l40": {{}}}}}}"##, levels.join(", "));
        Descriptor { settings_schema: schema, ..descriptor("bad") }
    }

    fn run(_: Context, _: &Guest) -> Result<Outcome, Failure> {
        done("")
    }
}

bad!(Module);
