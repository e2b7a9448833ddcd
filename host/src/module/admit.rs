use wasmparser::{Parser, Payload, ValidPayload, Validator, WasmFeatures};
use wasmtime::component::{Component, types::ComponentItem};

use super::{error::ModuleError, limits::Limits, wasi};

/// What a module may use: WebAssembly 2.0 and what compilers emit by now. Off: threads, 64-bit and several memories, garbage
/// collection, exceptions, and everything that is not deterministic or not yet settled.
const FEATURES: WasmFeatures = WasmFeatures::WASM2
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::COMPONENT_MODEL);

/// The package whose interfaces a module may import.
const PACKAGE: &str = "farmhand:phase/";

/// Looks at a module's bytes before wasmtime does. Its decoder takes 25 s and 8 GB for a component of 238 KB that is nested
/// 20,000 deep; wasmparser's validator refuses that in a millisecond.
pub(super) fn check_bytes(module: &str, bytes: &[u8], limits: &Limits) -> Result<(), ModuleError> {
    let too_large =
        |what, name, limit| ModuleError::TooLarge { module: module.to_owned(), what, name, limit };
    if bytes.len() > limits.module_size {
        return Err(too_large("its file", "module size", limits.module_size));
    }
    if Parser::is_core_wasm(bytes) {
        return Err(ModuleError::NotAComponent { module: module.to_owned() });
    }
    let invalid = |error: wasmparser::BinaryReaderError| ModuleError::Invalid {
        module: module.to_owned(),
        message: super::text::one_line(&error.to_string(), 300),
    };
    let mut validator = Validator::new_with_features(FEATURES);
    let mut allocations = wasmparser::FuncValidatorAllocations::default();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(invalid)?;
        if let Payload::CodeSectionEntry(body) = &payload
            && body.as_bytes().len() > limits.function_size
        {
            return Err(too_large("one of its functions", "function size", limits.function_size));
        }
        if let ValidPayload::Func(function, body) = validator.payload(&payload).map_err(invalid)? {
            let mut function = function.into_validator(std::mem::take(&mut allocations));
            function.validate(&body).map_err(invalid)?;
            allocations = function.into_allocations();
        }
    }
    Ok(())
}

/// The names of what a component imports.
pub(super) fn imports(component: &Component) -> Vec<String> {
    let component_type = component.component_type();
    let imports = component_type.imports(component.engine());
    // Types are only names for what comes from the instances; a resource of nobody's is refused by the linker.
    let instances = imports
        .filter(|(_, import)| !matches!(import.ty, ComponentItem::Type(_) | ComponentItem::Resource(_)));
    instances.map(|(name, _)| name.to_owned()).collect()
}

/// Checks that a component imports nothing but the interfaces of `wit/`, and those of WASI, which grant nothing.
pub(super) fn check_imports(module: &str, component: &Component) -> Result<(), ModuleError> {
    let foreign: Vec<String> = imports(component)
        .iter()
        .filter(|name| !is_ours(name) && !wasi::has(name))
        .take(8)
        .map(|name| format!("`{}`", super::text::one_line(name, 100)))
        .collect();
    if foreign.is_empty() {
        Ok(())
    } else {
        Err(ModuleError::WrongImports { module: module.to_owned(), imports: foreign.join(", ") })
    }
}

/// `farmhand:phase/INTERFACE@0.1.x`: minor versions only add.
fn is_ours(import: &str) -> bool {
    import.strip_prefix(PACKAGE).and_then(|import| import.split_once('@')).is_some_and(
        |(interface, version)| matches!(interface, "types" | "log" | "guest") && version.starts_with("0.1."),
    )
}
