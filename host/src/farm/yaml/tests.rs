use std::sync::Arc;

use camino::Utf8Path;
use serde_json::{Value, json};

use super::*;
use crate::base::Problem;

fn source(text: &str) -> SourceFile {
    SourceFile::new(Utf8Path::new("f.yaml"), text)
}

fn read(source: &SourceFile) -> Result<Value, Problem> {
    load(&Arc::new(source.clone())).map(|root| root.to_value())
}

fn value(text: &str) -> Value {
    read(&source(text)).unwrap()
}

/// The problem with a file, with its place.
fn problem(text: &str) -> String {
    let problem = load(&Arc::new(source(text))).unwrap_err();
    format!("{}: {}", problem.location().unwrap_or_default(), problem.message())
}

#[test]
fn anchors_aliases_and_merge_keys() {
    let text = "
base: &base { a: 1, b: 1 }
other: &other { b: 2, c: 2 }
one: { <<: *base, b: 3 }
two: { <<: [*base, *other], d: *base }
name: &name x
*name : y
";
    let value = value(text);
    assert_eq!(value["one"], json!({ "a": 1, "b": 3 }));
    assert_eq!(value["two"], json!({ "a": 1, "b": 1, "c": 2, "d": { "a": 1, "b": 1 } }));
    assert_eq!(value["x"], "y");
}

#[test]
fn tags_say_what_a_value_is() {
    let text = "{ a: !!str 12, b: !!int '12', c: !!bool 'yes', d: !!null '', e: !unsafe '{{ x }}', f: ! 12 }";
    let expected = json!({ "a": "12", "b": 12, "c": true, "d": null, "e": "{{ x }}", "f": "12" });
    assert_eq!(value(text), expected);
    let root = load(&Arc::new(source(text))).unwrap();
    assert!(!root.templated, "a text that is marked as unsafe is no template");
}

#[test]
fn keys_are_texts_as_they_are_written() {
    assert_eq!(value("{ on: 1, 12: 2, 1.0: 3 }"), json!({ "on": 1, "12": 2, "1.0": 3 }));
}

#[test]
fn an_empty_file_is_null() {
    assert_eq!(value(""), Value::Null);
    assert_eq!(value("# nothing\n---\n"), Value::Null);
}

#[test]
fn mistakes_are_told_with_their_places() {
    let bomb = |levels: usize| {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..levels {
            let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
            text += &format!("a{level}: &a{level} [{aliases}]\n");
        }
        text
    };
    assert_eq!(problem(&bomb(12)), "f.yaml:6:10: the file becomes too large when its aliases are followed");
    let deep = problem(&"[".repeat(200));
    assert_eq!(deep, "f.yaml:1:65: this is nested more than 64 deep");
    let deep_blocks: String = (0..100).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    assert_eq!(problem(&deep_blocks), "f.yaml:65:65: this is nested more than 64 deep");
    let deep_aliases: String = (0..100)
        .map(
            |level| {
                if level == 0 { "- &a0 [x]\n".into() } else { format!("- &a{level} [*a{}]\n", level - 1) }
            },
        )
        .collect();
    assert_eq!(problem(&deep_aliases), "f.yaml:63:9: this is nested more than 64 deep");
    for (text, expected) in [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: the key `a` stands here twice"),
        ("a: &a [*a]\n", "f.yaml:1:8: this alias stands within what it names"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1: a second document begins here; a file has one"),
        ("a: !vault x\n", "f.yaml:1:4: the tag `!vault` means nothing here"),
        ("a: !!int x\n", "f.yaml:1:4: `x` is not what its tag says, !!int"),
        ("{ [a]: 1 }\n", "f.yaml:1:3: a key of a mapping must be a text"),
        ("a: 1\n<<: 2\n", "f.yaml:2:5: `<<` merges mappings, but this is a number"),
    ] {
        assert_eq!(problem(text), expected);
    }
}

#[test]
fn values_and_keys_are_found_again() {
    let file = source("a:\n  b: [1, { c: 'x' }]\n  é: y\n");
    let text = |range: Range<usize>| &file.text()[range];
    let path = |path: &[&str]| {
        path.iter().map(|key| key.parse().map_or_else(|_| Key::from(*key), Key::Index)).collect::<Vec<_>>()
    };
    assert_eq!(text(find(&file, &path(&["a"]))), "a");
    assert_eq!(text(find(&file, &path(&["a", "b", "1", "c"]))), "'x'");
    assert_eq!(text(find(&file, &path(&["a", "é"]))), "y");
    assert_eq!(text(find(&file, &path(&["a", "é", "gone"]))), "y");
    assert_eq!(find(&file, &[]), 0..0);
}

proptest::proptest! {
    /// What serde_yaml writes is read as it was meant. It writes YAML 1.2, to which Ansible's booleans are texts.
    #[test]
    fn written_values_are_read_back(texts in proptest::collection::vec("[ -~\\n\u{e9}\u{1f600}]{0,12}", 0..6)) {
        let booleans = ["yes", "no", "on", "off", "y", "n"];
        proptest::prop_assume!(!texts.iter().any(|text| booleans.contains(&text.to_lowercase().as_str())));
        let value = json!({ "list": texts.clone(), "map": { "k": texts } });
        let text = serde_yaml::to_string(&value).unwrap();
        proptest::prop_assert_eq!(read(&source(&text)).unwrap(), value, "{}", text);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "(?s).{0,80}") {
        let _ = load(&Arc::new(source(&text)));
    }

    #[test]
    fn any_yaml_like_text_is_read_or_refused(text in "[\\[\\]{}:,&*!|>'\"%@#ab \\n-]{0,80}") {
        let _ = load(&Arc::new(source(&text)));
    }
}
