use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::base::Problem;

/// Definition files in a folder of their own.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::write(
            folder.path().join("farm.yaml"),
            "project: { id: p }\npermutations:\n  targets: [amd64]\n  platforms:\n    - debian\n",
        )
        .unwrap();
        Self { folder }
    }

    fn root(&self) -> Utf8PathBuf {
        Utf8PathBuf::from_path_buf(self.folder.path().canonicalize().unwrap()).unwrap()
    }

    fn merge(&self) -> Result<(Merged, Vec<Explained>), Problems> {
        let root = self.root();
        let (source, config) = Config::read(&root.join("farm.yaml"))?;
        let definitions = Definitions::new(&root, &config, &facts(), &Arc::new(Templates::new()));
        let pair = &config.pairs()[0];
        let merged = definitions.merge(&source, pair)?;
        let explained = definitions.explain(&source, pair, &merged);
        Ok((merged, explained))
    }

    fn vm(&self) -> Value {
        self.merge().unwrap().0.value()
    }

    /// The value, file and line of a path.
    fn origin(&self, path: &str) -> (Option<Value>, String) {
        let explained = self.merge().unwrap().1;
        let found = explained.into_iter().find(|explained| explained.path == path).unwrap();
        (found.value, format!("{}:{}", found.file, found.line))
    }

    fn problems(&self) -> Vec<String> {
        let show = |problem: Problem| {
            let place = problem.location().unwrap_or_default();
            format!(
                "{}: {}",
                place.trim_start_matches(self.root().as_str()).trim_start_matches('/'),
                problem.message()
            )
        };
        self.merge().unwrap_err().into_iter().map(show).collect()
    }
}

fn facts() -> HostFacts {
    HostFacts { architecture: "x86_64".into(), home: "/home/tester".into(), user: "tester".into() }
}

#[test]
fn three_shapes_say_the_same() {
    let mapping = "vm: { arch: x86_64, metadata: { tmp_dir: '/tmp/{{ platform_name }}' } }\n";
    let tasks = "
- name: Define it
  set_fact:
    vm:
      arch: x86_64
      metadata: { tmp_dir: '/tmp/{{ platform_name }}' }
";
    let combined = "
- ansible.builtin.set_fact:
    base: { arch: x86_64 }
- set_fact:
    vm: \"{{ vm | combine(base, {'metadata': {'tmp_dir': '/tmp/' ~ platform_name}}, recursive=True) }}\"
";
    let expected = Files::new(&[("setup_vm/platforms/debian.yaml", mapping)]).vm();
    assert_eq!(expected["metadata"]["tmp_dir"], "/tmp/debian");
    assert_eq!(expected["metadata"]["target_name"], "amd64");
    for files in [
        [("setup_vm/platforms/debian.yml", tasks)],
        [("vars/platforms/debian.yaml", mapping)],
        [("vars/platforms/debian.yml", combined)],
    ] {
        assert_eq!(Files::new(&files).vm(), expected, "{files:?}");
    }
}

#[test]
fn files_are_searched_in_order() {
    let places = [
        "setup_vm/platforms/debian.yaml",
        "setup_vm/platforms/debian.yml",
        "vars/platforms/debian.yaml",
        "vars/platforms/debian.yml",
    ];
    for first in 0..places.len() {
        let texts: Vec<_> =
            places[first..].iter().map(|place| (*place, format!("vm: {{ from: {place} }}"))).collect();
        let files: Vec<_> = texts.iter().map(|(place, text)| (*place, text.as_str())).collect();
        assert_eq!(Files::new(&files).vm()["from"], places[first]);
    }
}

#[test]
fn defaults_of_older_farms_are_read() {
    let files = Files::new(&[
        ("vars/platforms/defaults.yml", "vm: { ram: 4096 }"),
        ("vars/platforms/debian.yml", "vm: { vcpus: 3 }"),
    ]);
    assert_eq!((&files.vm()["ram"], &files.vm()["vcpus"]), (&json!(4096), &json!(3)));
}

#[test]
fn a_platform_wins_over_defaults_and_those_over_the_target() {
    let files = Files::new(&[
        (
            "setup_vm/targets/amd64.yaml",
            "vm: { a: 1, b: 1, c: 1, map: { x: 1, y: 1 }, list: [1, 2], was: { a: 1 } }",
        ),
        ("setup_vm/platforms/defaults.yaml", "vm: { b: 2, c: 2, map: { y: 2 }, is: [1] }"),
        (
            "setup_vm/platforms/debian.yaml",
            "vm: { c: 3, map: { z: 3 }, list: [3], was: text, is: { now: a map } }",
        ),
    ]);
    let mut vm = files.vm();
    vm.as_object_mut().unwrap().remove("metadata");
    let expected = json!({
        "a": 1, "b": 2, "c": 3, "map": { "x": 1, "y": 2, "z": 3 }, "list": [3], "was": "text", "is": { "now": "a map" }
    });
    assert_eq!(vm, expected);
}

#[test]
fn templates_see_what_came_before() {
    let files = Files::new(&[
        (
            "setup_vm/targets/amd64.yaml",
            "vm: { arch: x86_64, first: '{{ vm.metadata.target_name | upper }}' }",
        ),
        (
            "setup_vm/platforms/debian.yaml",
            "
vm:
  metadata: { name: '{{ distribution }}-{{ vm.arch }}' }
  image: '{{ image }}'
  home: '{{ ansible_env.HOME }}/{{ ansible_user_id }}/{{ ansible_architecture }}'
  later: '{{ vm.image }}.xz'
distribution: debian
image: '{{ distribution }}.qcow2'
after: '{{ vm.image }}'
",
        ),
    ]);
    let vm = files.vm();
    assert_eq!(vm["first"], "AMD64");
    assert_eq!(vm["metadata"]["name"], "debian-x86_64");
    assert_eq!(vm["home"], "/home/tester/tester/x86_64");
    assert_eq!(vm["later"], "debian.qcow2.xz");
}

#[test]
fn every_value_knows_where_it_comes_from() {
    let files = Files::new(&[
        ("setup_vm/targets/amd64.yaml", "vm:\n  arch: x86_64\n  machine: q35\n"),
        ("setup_vm/platforms/defaults.yaml", "vm:\n  ram: 512\n  net:\n    type: user\n"),
        (
            "setup_vm/platforms/debian.yaml",
            "- set_fact:
    vm: { ram: 1024, disks: [{ src: a }] }
- set_fact:
    vm: \"{{ vm | combine({'machine': 'pc', 'arch': vm.arch, 'net': {'mac': 'x'}}, recursive=True) }}\"
",
        ),
    ]);
    for (path, value, place) in [
        ("vm.arch", json!("x86_64"), "setup_vm/targets/amd64.yaml:2"),
        ("vm.machine", json!("pc"), "setup_vm/platforms/debian.yaml:4"),
        ("vm.ram", json!(1024), "setup_vm/platforms/debian.yaml:2"),
        ("vm.net.type", json!("user"), "setup_vm/platforms/defaults.yaml:4"),
        ("vm.net.mac", json!("x"), "setup_vm/platforms/debian.yaml:4"),
        ("vm.disks[0].src", json!("a"), "setup_vm/platforms/debian.yaml:2"),
        ("vm.metadata.target_name", json!("amd64"), "farm.yaml:3"),
        ("vm.metadata.platform_name", json!("debian"), "farm.yaml:5"),
    ] {
        assert_eq!(files.origin(path), (Some(value), place.to_owned()), "{path}");
    }
}

#[test]
fn passwords_are_not_explained() {
    let files = Files::new(&[(
        "setup_vm/platforms/debian.yaml",
        "
root_password: toor
vm:
  metadata: { auth: { user: tester, password: hunter2, become_password: '{{ root_password }}' } }
  params: 'password={{ root_password }}'
  hashed: '{{ vm.metadata.auth.password | hash }}'
  copy: '{{ vm.params }}'
  all: '{{ vm.metadata }}'
  in_list: ['x', '{{ root_password }}']
",
    )]);
    let explained = files.merge().unwrap().1;
    let shown = serde_json::to_string(&explained).unwrap();
    assert!(!shown.contains("hunter2") && !shown.contains("toor"), "{shown}");
    assert!(files.origin("vm.hashed").0.is_none());
    assert!(files.origin("vm.copy").0.is_none());
    assert_eq!(files.origin("vm.metadata.auth.user").0, Some(json!("tester")));
}

#[test]
fn all_problems_of_all_files_are_told_at_once() {
    let files = Files::new(&[
        ("setup_vm/targets/amd64.yaml", "vm: { a: '{{ gone }}', b: '{{ vm.a }}' }"),
        (
            "setup_vm/platforms/defaults.yaml",
            "vm: { c: '{{ lost }}', l: [1, '{{ x }}', '{{ y | nofilter }}'] }",
        ),
        ("setup_vm/platforms/debian.yaml", "vm: { d: '{{ vm.b }}', e: '{{ vm.metadata.target_nam }}' }"),
    ]);
    assert_eq!(
        files.problems(),
        [
            "setup_vm/targets/amd64.yaml:1:14: `gone` is not defined",
            "setup_vm/platforms/defaults.yaml:1:14: `lost` is not defined",
            "setup_vm/platforms/defaults.yaml:1:35: `x` is not defined",
            "setup_vm/platforms/defaults.yaml:1:50: filter nofilter is unknown",
            "setup_vm/platforms/debian.yaml:1:43: `vm.metadata.target_nam` is not defined",
        ]
    );
}

#[test]
fn tasks_that_do_other_things_are_refused() {
    let files = Files::new(&[
        ("setup_vm/targets/amd64.yaml", "- set_fact: { vm: 12 }\n- set_fact: vm\n- name: nothing\n- text\n"),
        (
            "setup_vm/platforms/debian.yaml",
            "
- name: Download
  ansible.builtin.get_url: { url: x }
- set_fact: { vm: {} }
  when: x
",
        ),
    ]);
    assert_eq!(
        files.problems(),
        [
            "setup_vm/targets/amd64.yaml:1:19: `vm` must be a mapping, but this is a number",
            "setup_vm/targets/amd64.yaml:2:3: `set_fact` must be a mapping of facts, but this is a text",
            "setup_vm/targets/amd64.yaml:3:3: this task sets no fact",
            "setup_vm/targets/amd64.yaml:4:3: a task must be a mapping, but this is a text",
            "setup_vm/platforms/debian.yaml:3:3: `ansible.builtin.get_url` can't stand in a definition's task",
            "setup_vm/platforms/debian.yaml:5:3: `when` can't stand in a definition's task",
        ]
    );
}

#[test]
fn definitions_that_copy_themselves_stay_bounded() {
    let doubling: String =
        (0..60).map(|level| format!("  a{level}: ['{{{{ vm }}}}', '{{{{ vm }}}}']\n")).collect();
    let nesting: String = (0..200).map(|level| format!("  a{level}: {{ x: '{{{{ vm }}}}' }}\n")).collect();
    for text in [doubling, nesting] {
        let files = Files::new(&[("setup_vm/platforms/debian.yaml", &format!("vm:\n{text}"))]);
        let begin = std::time::Instant::now();
        let problems = files.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("gives too much"), "{problems:?}");
        assert!(begin.elapsed().as_secs() < 10, "{:?}", begin.elapsed());
    }
}

#[test]
fn built_in_targets() {
    let (files, templates) = (files::Files::new(Utf8Path::new("/nowhere")), Templates::new());
    for name in files.names(Kind::Target) {
        let document = files.get(Kind::Target, &name).unwrap().unwrap();
        let mut merger = Merger::new(&templates, Arc::new(Node::map([])), facts().variables());
        merger.add(&document);
        let vm = merger.finish().unwrap().value();
        insta::assert_snapshot!(format!("target_{name}"), serde_json::to_string_pretty(&vm).unwrap());
    }
}
