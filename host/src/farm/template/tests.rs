use camino::Utf8Path;
use serde_json::json;

use super::*;
use crate::{
    base::SourceFile,
    farm::yaml::{Data, Key, load},
};

/// What templates can refer to in these tests.
const SCOPE: &str = "
vm:
  arch: x86_64
  flag: true
  nothing:
  ram: 512
  metadata: { name: debian, target_name: amd64, auth: { user: tester, password: hunter2 } }
  disks: [{ src: a.qcow2 }, { src: b.qcow2 }]
variables:
  images: /images
  ansible_env: { HOME: /home/tester }
";

fn scope() -> Scope {
    let root = load(&Arc::new(SourceFile::new(Utf8Path::new("scope.yaml"), SCOPE))).unwrap();
    Scope { vm: root.get("vm").unwrap().clone(), variables: root.get("variables").unwrap().clone() }
}

/// Renders the value `k` of a file.
fn render(file: &str) -> Result<Arc<Node>, Option<Problem>> {
    let file = Arc::new(SourceFile::new(Utf8Path::new("f.yaml"), file));
    let root = load(&file).unwrap();
    let node = root.step(&Key::from("k")).unwrap();
    let Data::Text(text) = &node.data else { panic!("{node:?}") };
    Templates::new().value(text, node.place.as_ref(), &scope(), &mut Budget::default())
}

fn expression(expression: &str) -> serde_json::Value {
    match render(&format!("k: >-\n  {{{{ {expression} }}}}\n")) {
        Ok(node) => node.to_value(),
        Err(problem) => panic!("{expression}: {problem:?}"),
    }
}

/// The message, place and help of the problem with a file's `k`.
fn problem(file: &str) -> String {
    let problem = render(file).unwrap_err().unwrap();
    let help = miette::Diagnostic::help(&problem).map(|help| help.to_string()).unwrap_or_default();
    format!("{}: {} ({help})", problem.location().unwrap(), problem.message())
}

#[test]
fn filters_do_what_ansible_says() {
    for (text, expected) in [
        ("'Debian' | lower", json!("debian")),
        ("vm.arch | upper", json!("X86_64")),
        ("vm.arch | replace('_', '-')", json!("x86-64")),
        ("[images, 'a', 'b.img'] | path_join", json!("/images/a/b.img")),
        ("[images, '/a', 'b/', 'c'] | path_join", json!("/a/b/c")),
        ("'/a/b.img' | basename", json!("b.img")),
        ("'/a/' | basename", json!("")),
        ("'/a/b.img' | dirname", json!("/a")),
        ("'/a' | dirname", json!("/")),
        ("'a' | dirname", json!("")),
        // int
        ("'12' | int", json!(12)),
        ("'12.7' | int", json!(12)),
        ("'x' | int", json!(0)),
        ("'x' | int(7)", json!(7)),
        ("'x' | int(default=7)", json!(7)),
        ("'ff' | int(0, 16)", json!(255)),
        ("'0xff' | int(base=16)", json!(255)),
        ("true | int", json!(1)),
        ("vm.nothing | int", json!(0)),
        // bool
        ("'yes' | bool", json!(true)),
        ("'On' | bool", json!(true)),
        ("'1' | bool", json!(true)),
        ("1 | bool", json!(true)),
        ("2 | bool", json!(false)),
        ("'no' | bool", json!(false)),
        ("'other' | bool", json!(false)),
        ("vm.nothing | bool", json!(null)),
        // default
        ("vm.gone | default('x')", json!("x")),
        ("vm.gone | d('x')", json!("x")),
        ("vm.gone.deeper['still'] | default('x')", json!("x")),
        ("gone.deeper | default('x')", json!("x")),
        ("vm.nothing | default('x')", json!(null)),
        ("vm.nothing | default('x', true)", json!("x")),
        ("'' | default('x', boolean=true)", json!("x")),
        ("vm.gone | default", json!("")),
        // hash: the digests of `abc` in FIPS 180 and RFC 1321
        ("'abc' | hash", json!("a9993e364706816aba3e25717850c26c9cd0d89d")),
        ("'abc' | hash('sha1')", json!("a9993e364706816aba3e25717850c26c9cd0d89d")),
        ("'abc' | hash('md5')", json!("900150983cd24fb0d6963f7d28e17f72")),
        (
            "'abc' | hash(hashtype='sha256')",
            json!("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ),
        // regex_replace
        (r"'ansible' | regex_replace('^a.*i(.*)$', 'a\\1')", json!("able")),
        (r"'foobar' | regex_replace('^f.*o(.*)$', '\\1')", json!("bar")),
        (
            r"'localhost:80' | regex_replace('^(?P<host>.+):(?P<port>\\d+)$', '\\g<host>, \\g<port>')",
            json!("localhost, 80"),
        ),
        (r"'a-b-c' | regex_replace('-', '+', count=1)", json!("a+b-c")),
        (r"'ABC' | regex_replace('b', 'x', ignorecase=true)", json!("AxC")),
        (r"'a\nb' | regex_replace('^b', 'x', multiline=true)", json!("a\nx")),
        (r"'$x' | regex_replace('x', '$0')", json!("$$0")),
        // lists
        ("vm.disks | map(attribute='src') | join(',')", json!("a.qcow2,b.qcow2")),
        ("vm.disks | first", json!({ "src": "a.qcow2" })),
        ("(vm.disks | first).src", json!("a.qcow2")),
        ("[3, 1] | join", json!("31")),
        ("'abc' | first", json!("a")),
        ("(vm.arch == 'x86_64') | ternary('q35', 'virt')", json!("q35")),
        ("vm.arch | mandatory", json!("x86_64")),
        // Python's methods
        ("vm.arch.startswith('x86')", json!(true)),
        ("vm.metadata.get('gone', 'x')", json!("x")),
        ("vm.arch.split('_')[0]", json!("x86")),
    ] {
        assert_eq!(expression(text), expected, "{text}");
    }
}

#[test]
fn combine_does_what_ansible_says() {
    for (text, expected) in [
        ("{'a': 1, 'b': 2} | combine({'b': 3})", json!({ "a": 1, "b": 3 })),
        ("{'a': {'x': 1}} | combine({'a': {'y': 2}})", json!({ "a": { "y": 2 } })),
        (
            "{'a': {'x': 1, 'z': {'p': 1}}} | combine({'a': {'y': 2, 'z': {'q': 2}}}, recursive=True)",
            json!({ "a": { "x": 1, "z": { "p": 1, "q": 2 }, "y": 2 } }),
        ),
        ("{'a': 1} | combine([{'a': 2}, {'b': 3}])", json!({ "a": 2, "b": 3 })),
        ("{'a': 1} | combine({'b': 2}, {'c': 3})", json!({ "a": 1, "b": 2, "c": 3 })),
        ("{'a': 1} | combine", json!({ "a": 1 })),
        ("{'l': [1, 2]} | combine({'l': [2, 3]})", json!({ "l": [2, 3] })),
        ("{'l': [1, 2]} | combine({'l': [2, 3]}, list_merge='keep')", json!({ "l": [1, 2] })),
        ("{'l': [1, 2]} | combine({'l': [2, 3]}, list_merge='append')", json!({ "l": [1, 2, 2, 3] })),
        ("{'l': [1, 2]} | combine({'l': [2, 3]}, list_merge='prepend')", json!({ "l": [2, 3, 1, 2] })),
        ("{'l': [1, 2]} | combine({'l': [2, 3]}, list_merge='append_rp')", json!({ "l": [1, 2, 3] })),
        ("{'l': [1, 2]} | combine({'l': [2, 3]}, list_merge='prepend_rp')", json!({ "l": [2, 3, 1] })),
        ("(vm.metadata | combine({'name': 'x'})).name", json!("x")),
    ] {
        assert_eq!(expression(text), expected, "{text}");
    }
}

#[test]
fn texts_are_written_as_ansible_writes_them() {
    for (text, expected) in [
        ("k: '{{ vm.ram }}'", json!(512)),
        ("k: '{{ vm.ram }} MiB'", json!("512 MiB")),
        ("k: 'flag={{ vm.flag }} nothing={{ vm.nothing }}'", json!("flag=True nothing=")),
        ("k: '{{ ansible_env.HOME }}/images'", json!("/home/tester/images")),
        ("k: '{% for disk in vm.disks %}{{ disk.src }} {% endfor %}'", json!("a.qcow2 b.qcow2 ")),
        ("k: '{{- vm.ram -}}'", json!(512)),
    ] {
        assert_eq!(render(text).unwrap().to_value(), expected, "{text}");
    }
}

#[test]
fn what_a_template_gives_is_no_template() {
    let node = render(r#"k: "{{ '{{' ~ ' gone }}' }}""#).unwrap();
    assert_eq!((node.to_value(), node.templated), (json!("{{ gone }}"), false));
}

#[test]
fn unknown_names_are_found_where_they_stand() {
    for (text, expected) in [
        (
            "k: \"{{ vm.metadata.nmae }}\"",
            "f.yaml:1:20: `vm.metadata.nmae` is not defined (did you mean `name`?)",
        ),
        ("k: '{{ imagse }}/x'", "f.yaml:1:8: `imagse` is not defined (did you mean `images`?)"),
        (
            "k: >-\n  {{ vm.ram }} and\n  {{ vm.metadata['auth'].usre }}",
            "f.yaml:3:26: `vm.metadata.auth.usre` is not defined (did you mean `user`?)",
        ),
        (
            "k: '{{ vm.gone | default(1) }} {{ vm.gone }}'",
            "f.yaml:1:38: `vm.gone` is not defined (`vm` has `arch`, `flag`, `nothing`, `ram`, `metadata`, `disks`)",
        ),
        (
            "k: '{{ vm.zzz.deeper }}'",
            "f.yaml:1:11: `vm.zzz` is not defined (`vm` has `arch`, `flag`, `nothing`, `ram`, `metadata`, `disks`)",
        ),
        ("k: '{{ vm.disks[7].src }}'", "f.yaml:1:17: `vm.disks[7]` is not defined (`vm.disks` has no names)"),
        (
            "k: \"{{ vm | combine({'metadata': {'x': vm.metadata.nmae}}, recursive=True) }}\"",
            "f.yaml:1:52: `vm.metadata.nmae` is not defined (did you mean `name`?)",
        ),
        ("k: '{{ imagse | upper }}'", "f.yaml:1:8: `imagse` is not defined (did you mean `images`?)"),
        ("k: '{% if vm.falg %}x{% endif %}'", "f.yaml:1:14: `vm.falg` is not defined (did you mean `flag`?)"),
        (
            "k: '{% for disk in vm.disks %}{{ disk.scr }}{% endfor %}'",
            "f.yaml:1:34: `disk.scr` is not defined (in the template `{% for disk in vm.disks %}{{ disk.scr }}{% endfor %}`)",
        ),
    ] {
        let problem = problem(text);
        assert_eq!(problem, expected);
    }
}

#[test]
fn other_mistakes_are_found_too() {
    insta::assert_snapshot!(
        [
            "k: '{{ vm.ram | upperr }}'",
            "k: '{{ vm.ram | combine({}) }}'",
            "k: '{{ vm | combine({}, list_merge=\"x\") }}'",
            "k: '{{ \"a\" | hash(\"crc32\") }}'",
            "k: '{{ \"a\" | regex_replace(\"(\", \"\") }}'",
            "k: '{{ \"a\" | regex_replace(\"a\", \"\\\\2\") }}'",
            "k: '{{ vm.ram'",
            "k: 'a {{ 1 / 0 }}'",
            "k: '{{ lookup(\"env\", \"HOME\") }}'",
            "k: '{% include \"x\" %}'",
        ]
        .map(problem)
        .join("\n")
    );
}

#[test]
fn work_and_results_are_bounded() {
    for text in [
        "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
        "{{ range(1000000000) | list }}",
        "{{ 'x' * 1000000000 }}",
        "{{ ('x' * 100000) }}{{ ('x' * 100000) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 'a' | replace('', 'x' * 1000000) }}",
        "{{ ('a' * 60000) | regex_replace('a', 'bbbbbbbbbbbbbbbb') }}",
        "{{ ('a' * 60000) | regex_replace('(a*)*b', '') }}x{{ 1 / 0 }}",
    ] {
        let begin = std::time::Instant::now();
        assert!(render(&format!("k: {}", serde_json::to_string(text).unwrap())).is_err(), "{text}");
        assert!(begin.elapsed().as_secs() < 5, "{text} took {:?}", begin.elapsed());
    }
}

#[test]
fn what_is_made_from_a_password_is_hidden() {
    for (text, hidden) in [
        ("k: '{{ vm.metadata.auth.password }}'", true),
        ("k: 'x{{ vm.metadata.auth.password | hash }}'", true),
        ("k: '{{ vm.metadata.auth.user }}'", false),
        ("k: '{{ vm.metadata.name }}'", false),
    ] {
        assert_eq!(render(text).unwrap().hidden, hidden, "{text}");
    }
    let combined =
        render("k: \"{{ vm | combine({'x': 'a' ~ vm.metadata.auth.password, 'y': 'b'}) }}\"").unwrap();
    assert!(combined.get("x").unwrap().hidden);
    assert!(!combined.get("y").unwrap().hidden);
}

#[test]
fn budgets_bound_a_machine_whole() {
    let (templates, scope) = (Templates::new(), scope());
    let mut budget = Budget::default();
    let text = "{% for i in range(30000) %}{% endfor %}";
    let count = (0..10_000).take_while(|_| templates.value(text, None, &scope, &mut budget).is_ok()).count();
    assert!((50..1000).contains(&count), "{count}");
}
