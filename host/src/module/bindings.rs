//! What wasmtime makes of the world `phase-module`.
#![allow(missing_docs, unreachable_pub, clippy::all)]

wasmtime::component::bindgen!({
    world: "phase-module",
    path: "../wit",
    imports: { default: async | trappable },
    exports: { default: async },
    with: {
        "farmhand:phase/guest.guest": super::state::LentGuest,
        "farmhand:phase/guest.process": super::capability::Process,
        "farmhand:phase/guest.file-reader": super::capability::FileReader,
        "farmhand:phase/guest.file-writer": super::capability::FileWriter,
    },
});
