//! Has a schema of settings that leads back to itself without end.

use hostile::*;

struct Module;

impl Bad for Module {
    fn describe() -> Descriptor {
        Descriptor { settings_schema: r##"{"$ref": "#"}"##.to_owned(), ..descriptor("bad") }
    }

    fn run(_: Context, _: &Guest) -> Result<Outcome, Failure> {
        done("")
    }
}

bad!(Module);
