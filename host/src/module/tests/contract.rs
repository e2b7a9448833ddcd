//! The version rules of `wit/`: what was released stays as it is.

use std::collections::BTreeMap;

use camino::Utf8Path;
use semver::Version;
use wit_parser::{Function, Resolve, Stability, Type, TypeDefKind, WorldItem};

/// The items of a package by name, each with its whole shape; and interfaces and worlds that don't say since when they are.
fn items(resolve: &Resolve) -> (BTreeMap<String, String>, Vec<String>) {
    let (mut items, mut undated) = (BTreeMap::new(), Vec::new());
    let is_dated = |stability: &Stability| matches!(stability, Stability::Stable { .. });
    for (_, interface) in resolve.interfaces.iter() {
        let name = interface.name.clone().unwrap_or_default();
        if !is_dated(&interface.stability) {
            undated.push(name.clone());
        }
        for (type_name, id) in &interface.types {
            items.insert(format!("{name}.{type_name}"), kind(resolve, &resolve.types[*id].kind));
        }
        for (function, shape) in &interface.functions {
            items.insert(format!("{name}.{function}"), function_shape(resolve, shape));
        }
    }
    for (_, world) in resolve.worlds.iter() {
        if !is_dated(&world.stability) {
            undated.push(world.name.clone());
        }
        let direction = [("import", &world.imports), ("export", &world.exports)];
        for (word, list) in direction {
            for (key, item) in list {
                let shape = match item {
                    WorldItem::Function(function) => function_shape(resolve, function),
                    WorldItem::Interface { .. } => "interface".to_owned(),
                    WorldItem::Type { .. } => "type".to_owned(),
                };
                // An interface is named with the package's version, which is another one each time.
                let key = resolve.name_world_key(key);
                let key = key.split_once('@').map_or(key.as_str(), |(name, _)| name);
                items.insert(format!("{} {word} {key}", world.name), shape);
            }
        }
    }
    (items, undated)
}

fn function_shape(resolve: &Resolve, function: &Function) -> String {
    let params = function.params.iter().map(|param| format!("{}: {}", param.name, shape(resolve, &param.ty)));
    let params = params.collect::<Vec<_>>().join(", ");
    let result = function.result.map(|result| shape(resolve, &result)).unwrap_or_default();
    format!("func({params}) -> {result}")
}

fn shape(resolve: &Resolve, ty: &Type) -> String {
    match ty {
        Type::Id(id) => match &resolve.types[*id] {
            named if named.name.is_some() => named.name.clone().unwrap_or_default(),
            anonymous => kind(resolve, &anonymous.kind),
        },
        primitive => format!("{primitive:?}"),
    }
}

fn kind(resolve: &Resolve, kind: &TypeDefKind) -> String {
    let optional = |ty: &Option<Type>| ty.as_ref().map(|ty| shape(resolve, ty)).unwrap_or_default();
    match kind {
        TypeDefKind::Record(record) => {
            let fields =
                record.fields.iter().map(|field| format!("{}: {}", field.name, shape(resolve, &field.ty)));
            format!("record {{ {} }}", fields.collect::<Vec<_>>().join(", "))
        }
        TypeDefKind::Variant(variant) => {
            let cases = variant.cases.iter().map(|case| format!("{}({})", case.name, optional(&case.ty)));
            format!("variant {{ {} }}", cases.collect::<Vec<_>>().join(", "))
        }
        TypeDefKind::Enum(cases) => {
            let cases: Vec<_> = cases.cases.iter().map(|case| case.name.as_str()).collect();
            format!("enum {{ {} }}", cases.join(", "))
        }
        TypeDefKind::Flags(flags) => {
            let flags: Vec<_> = flags.flags.iter().map(|flag| flag.name.as_str()).collect();
            format!("flags {{ {} }}", flags.join(", "))
        }
        TypeDefKind::Tuple(tuple) => {
            let types: Vec<_> = tuple.types.iter().map(|ty| shape(resolve, ty)).collect();
            format!("tuple<{}>", types.join(", "))
        }
        TypeDefKind::List(ty) => format!("list<{}>", shape(resolve, ty)),
        TypeDefKind::Option(ty) => format!("option<{}>", shape(resolve, ty)),
        TypeDefKind::Result(result) => format!("result<{}, {}>", optional(&result.ok), optional(&result.err)),
        TypeDefKind::Handle(handle) => {
            let (word, id) = match handle {
                wit_parser::Handle::Own(id) => ("own", id),
                wit_parser::Handle::Borrow(id) => ("borrow", id),
            };
            format!("{word}<{}>", shape(resolve, &Type::Id(*id)))
        }
        TypeDefKind::Type(ty) => format!("type {}", shape(resolve, ty)),
        TypeDefKind::Resource => "resource".to_owned(),
        other => format!("{other:?}"),
    }
}

fn read(folder: &Utf8Path) -> Resolve {
    let mut resolve = Resolve::default();
    resolve.push_path(folder).unwrap();
    resolve
}

/// Since which version each function and each type with a date of its own is there, by name.
fn dates(resolve: &Resolve) -> BTreeMap<String, Version> {
    let mut dates = BTreeMap::new();
    for (_, interface) in resolve.interfaces.iter() {
        let name = interface.name.clone().unwrap_or_default();
        let types = interface.types.iter().map(|(item, id)| (item, &resolve.types[*id].stability));
        let functions = interface.functions.iter().map(|(item, function)| (item, &function.stability));
        for (item, stability) in types.chain(functions) {
            if let Stability::Stable { since, .. } = stability {
                dates.insert(format!("{name}.{item}"), since.clone());
            }
        }
    }
    dates
}

/// What of a released version is gone, or is another thing now.
fn incompatible(released: &Resolve, now: &Resolve) -> Vec<String> {
    let (released, now) = (items(released).0, items(now).0);
    let changed = released.iter().filter(|(name, shape)| now.get(*name) != Some(shape));
    changed
        .map(|(name, shape)| match now.get(name) {
            None => format!("{name} is gone"),
            Some(now) => format!("{name} was {shape} and is {now}"),
        })
        .collect()
}

#[test]
fn released_versions_stay_as_they_are() {
    let wit = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let now = read(&wit);
    assert_eq!(items(&now).1, Vec::<String>::new(), "items without @since");
    let mut versions = 0;
    for entry in wit.join("released").read_dir_utf8().unwrap() {
        let folder = entry.unwrap().into_path();
        assert_eq!(incompatible(&read(&folder), &now), Vec::<String>::new(), "{folder}");
        versions += 1;
    }
    assert!(versions > 0);
}

#[test]
fn what_was_added_says_since_when() {
    let wit = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let now = read(&wit);
    let (mut released, mut last) = (BTreeMap::new(), Version::new(0, 0, 0));
    for entry in wit.join("released").read_dir_utf8().unwrap() {
        let entry = entry.unwrap();
        last = last.max(entry.file_name().parse().unwrap());
        released.extend(items(&read(entry.path())).0);
    }
    let dates = dates(&now);
    let of_interfaces = |name: &&String| name.contains('.') && !released.contains_key(*name);
    let items = items(&now).0;
    // The methods of a resource came with it, unless they say otherwise.
    let resource = |name: &str| {
        let (interface, function) = name.split_once('.').unwrap();
        let (_, of) = function.split_once(']')?;
        dates.get(&format!("{interface}.{}", of.split('.').next()?)).cloned()
    };
    for name in items.keys().filter(of_interfaces) {
        let since = dates.get(name).cloned().or_else(|| resource(name));
        assert!(since.is_some_and(|since| since > last), "{name} is new and does not say since when");
    }
}

#[test]
fn incompatible_changes_are_found_and_additions_are_not() {
    let text = include_str!("../../../../wit/phase.wit");
    let parse = |text: &str| {
        let mut resolve = Resolve::default();
        resolve.push_str("phase.wit", text).unwrap();
        resolve
    };
    let change = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        incompatible(&parse(text), &parse(&text.replacen(from, to, 1)))
    };
    assert!(change("    /// Waits for what comes next.", "    /// Says.").is_empty());
    let added = "    /// More.\n    added: func();\n\n    /// How important a message is.";
    assert!(change("    /// How important a message is.", added).is_empty());
    assert_eq!(change("percent: option<u8>", "percent: u8").len(), 1);
    assert_eq!(change("        info,\n", "").len(), 1);
    assert_eq!(change("        architecture: string,", "        machine: string,").len(), 1);
}
