use std::collections::BTreeSet;

use crate::{
    farm::DomainType,
    hypervisor::{Capabilities, GuestCapability},
    plan::{Candidate, Capacity, Need, PlaceError, place},
};

fn candidate(name: &str, runs: &[(&str, &str)]) -> Candidate {
    let guest = |(arch, kind): &(&str, &str)| GuestCapability {
        arch: (*arch).into(),
        domain_type: (*kind).into(),
        emulator: format!("/usr/bin/qemu-system-{arch}").into(),
    };
    Candidate {
        name: name.into(),
        uri: format!("qemu+ssh://{name}/system"),
        labels: BTreeSet::new(),
        capabilities: Capabilities {
            host_arch: runs.first().map_or("x86_64", |(arch, _)| arch).into(),
            memory: 8192,
            cpus: 4,
            guests: runs.iter().map(guest).collect(),
        },
        capacity: Capacity { machines: None, memory: 8192, vcpus: 16 },
        domains: BTreeSet::new(),
    }
}

fn need(machine: &str) -> Need {
    Need {
        machine: machine.into(),
        arch: Some("x86_64".into()),
        domain_type: None,
        labels: vec![],
        connection: None,
        memory: 1024,
        vcpus: 2,
    }
}

const BOTH: &[(&str, &str)] = &[("x86_64", "kvm"), ("x86_64", "qemu")];

fn names(needs: &[Need], candidates: &[Candidate]) -> Vec<String> {
    let name = |placed: &Result<crate::plan::Placed, PlaceError>| match placed {
        Ok(placed) => format!("{} {}", candidates[placed.hypervisor].name, placed.domain_type.name()),
        Err(error) => error.to_string(),
    };
    place(needs, candidates).iter().map(name).collect()
}

#[test]
fn kvm_comes_before_qemu_and_loads_are_evened_out() {
    let candidates =
        [candidate("slow", &[("x86_64", "qemu")]), candidate("one", BOTH), candidate("two", BOTH)];
    let needs = ["a", "b", "c", "d"].map(need);
    assert_eq!(names(&needs, &candidates), ["one kvm", "two kvm", "one kvm", "two kvm"]);
    let qemu = Need { domain_type: Some(DomainType::Qemu), ..need("q") };
    assert_eq!(names(&[qemu], &candidates), ["slow qemu"]);
    // One of twice the size takes twice as many.
    let mut larger = candidates.clone();
    larger[1].capacity.memory *= 2;
    let needs = ["a", "b", "c"].map(need);
    assert_eq!(names(&needs, &larger), ["one kvm", "two kvm", "one kvm"]);
}

#[test]
fn a_machine_stays_where_it_is() {
    let mut candidates = [candidate("one", BOTH), candidate("two", &[("x86_64", "qemu")])];
    candidates[1].domains.insert("b".into());
    assert_eq!(names(&["a", "b"].map(need), &candidates), ["one kvm", "two qemu"]);
    candidates[0].domains.insert("b".into());
    let twice = PlaceError::Twice { machine: "b".into(), first: "one".into(), second: "two".into() };
    assert_eq!(place(&[need("b")], &candidates), [Err(twice)]);
}

#[test]
fn labels_connections_and_architectures_choose() {
    let mut candidates =
        [candidate("one", BOTH), candidate("two", BOTH), candidate("arm", &[("aarch64", "kvm")])];
    candidates[1].labels.insert("ssd".into());
    let labelled = Need { labels: vec!["ssd".into()], ..need("a") };
    let named = Need { connection: Some("qemu+ssh://two/system".into()), ..need("b") };
    let arm = Need { arch: Some("aarch64".into()), ..need("c") };
    assert_eq!(names(&[labelled, named, arm], &candidates), ["two kvm", "two kvm", "arm kvm"]);
}

#[test]
fn a_machine_that_fits_nowhere_is_told_why() {
    let mut candidates =
        [candidate("one", BOTH), candidate("arm", &[("aarch64", "kvm")]), candidate("none", &[])];
    candidates[2].labels.insert("ssd".into());
    let large = Need { memory: 9000, ..need("large") };
    let wide = Need { vcpus: 17, ..need("wide") };
    let labelled = Need { labels: vec!["ssd".into(), "gpu".into()], ..need("labelled") };
    let elsewhere = Need { connection: Some("qemu:///session".into()), ..need("elsewhere") };
    let other = Need { arch: Some("riscv64".into()), ..need("other") };
    insta::assert_snapshot!(names(&[large, wide, labelled, elsewhere, other], &candidates).join("\n"));
}
