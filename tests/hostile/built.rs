//! The bad modules, built; and those that no compiler makes.

use std::{collections::BTreeMap, sync::OnceLock};

use crate::encode::{build, encode, encode_text, repository};

/// A module of `modules/bad`, as a component.
pub(crate) fn component(name: &str) -> Vec<u8> {
    all().get(name).unwrap_or_else(|| panic!("there is no modules/bad/{name}.rs")).clone()
}

/// The names of all modules of `modules/bad`.
pub(crate) fn names() -> Vec<String> {
    all().keys().cloned().collect()
}

/// Built once.
fn all() -> &'static BTreeMap<String, Vec<u8>> {
    static ALL: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let sources = std::fs::read_dir(repository().join("tests/hostile/modules/bad")).unwrap();
        let names =
            sources.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned());
        let built = build("wasm32-unknown-unknown", &["--examples"]);
        let component = |name: &str| encode(&std::fs::read(built.join(format!("{name}.wasm"))).unwrap());
        let mut all: BTreeMap<String, Vec<u8>> = names.map(|name| (name.clone(), component(&name))).collect();
        // This one's compiler makes a component by itself.
        let built = build("wasm32-wasip2", &["--example", "wasi_fisher"]);
        all.insert("wasi_fisher".to_owned(), std::fs::read(built.join("wasi_fisher.wasm")).unwrap());
        all
    })
}

/// A component whose core module does this as soon as it is instantiated.
pub(crate) fn at_start(more: &str, start: &str) -> Vec<u8> {
    let parameters = "i32 ".repeat(11);
    encode_text(&format!(
        r#"(module {more}
            (memory (export "memory") 1)
            (func $start {start})
            (start $start)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
            (func (export "describe") (result i32) unreachable)
            (func (export "run") (param {parameters}) (result i32) unreachable))"#
    ))
}

/// Grows a table to 10 million elements.
pub(crate) fn table_bomb() -> Vec<u8> {
    at_start("(table $t 1 funcref)", "(drop (table.grow $t (ref.null func) (i32.const 10000000)))")
}

/// One function of nearly as much code as a function may have: it takes long to compile.
pub(crate) fn compile_bomb() -> Vec<u8> {
    let body =
        "(local.set $i (i32.mul (i32.add (local.get $i) (i32.const 3)) (local.get $i)))".repeat(60_000);
    at_start("", &format!("(local $i i32) {body}"))
}

/// A component that is nested so deeply that wasmtime's own decoder would need 25 s and 8 GB for it.
pub(crate) fn nesting_bomb() -> Vec<u8> {
    let mut bytes = wat::parse_str("(component)").unwrap();
    for _ in 0..20_000 {
        bytes = nested(&bytes);
    }
    bytes
}

/// A component that holds this one.
fn nested(inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, b'a', b's', b'm', 0x0d, 0, 1, 0, 4];
    let mut length = inner.len();
    while length > 0x7f {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(inner);
    bytes
}

/// A component whose type is a list of lists of lists.
pub(crate) fn deep_types() -> Vec<u8> {
    let mut text = "(component (type $t0 (list u8))".to_owned();
    for depth in 1..5_000 {
        text += &format!("(type $t{depth} (list $t{}))", depth - 1);
    }
    wat::parse_str(text + r#"(import "f" (func (param "x" $t4999))))"#).unwrap()
}

/// A good module in which one bit was changed, at many places that are the same each time.
pub(crate) fn corrupted() -> Vec<Vec<u8>> {
    let whole = component("neighbour");
    let corrupt = |seed: usize| {
        let mut bytes = whole.clone();
        let at = (seed * 7919) % bytes.len();
        bytes[at] ^= 1 << (seed % 8);
        bytes
    };
    (1..300).map(corrupt).collect()
}

/// A good module cut short, at many places.
pub(crate) fn truncated() -> Vec<Vec<u8>> {
    let whole = component("neighbour");
    (0..whole.len()).step_by(whole.len() / 100).map(|length| whole[..length].to_vec()).collect()
}
