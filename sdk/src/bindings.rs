//! What wit-bindgen makes of the world `phase-module`.
#![allow(missing_docs, unreachable_pub, clippy::all)]

wit_bindgen::generate!({
    world: "phase-module",
    path: "wit",
    additional_derives: [PartialEq, Eq],
    generate_unused_types: true,
    pub_export_macro: true,
    default_bindings_module: "farmhand_sdk::bindings",
    export_macro_name: "export_phase_module",
});
