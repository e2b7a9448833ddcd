//! Two machines never meet: what both would have is refused, or given out anew where the user left it open.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;

use super::{Machine, PortForward, Protocol, machine::made_mac, yaml::Place};
use crate::base::Problem;

/// That two machines have one name.
pub(super) fn same_name(first: &Machine, second: &Machine) -> Problem {
    let of = |machine: &Machine| format!("{} on {}", machine.platform(), machine.target());
    let message =
        format!("two machines are named `{}`: one is {}, the other {}", first.name, of(first), of(second));
    let help = "give one of them another vm.metadata.name; `{{ target_name }}` and variables can stand in it";
    match &second.places().name {
        // The name is in a file that both share, or in none.
        Some(place) if first.places().name.as_ref().is_some_and(|first| !same_place(first, place)) => {
            place.problem(message).help(help)
        }
        _ => Problem::new(message).help(help),
    }
}

fn same_place(a: &Place, b: &Place) -> bool {
    a.file.path() == b.file.path() && a.range() == b.range()
}

/// Finds what two machines both ask for, and gives those that ask for no MAC address one that no other has. It follows from the
/// machine's name and stays the same from run to run.
pub(super) fn resolve(machines: &mut IndexMap<String, Machine>, problems: &mut Vec<Problem>) {
    explicit(machines, problems);
    let mut taken: BTreeSet<String> =
        machines.values().filter_map(|machine| machine.net.mac.clone()).collect();
    // By name, so that the order of the farm file decides nothing.
    let mut open: Vec<&mut Machine> =
        machines.values_mut().filter(|machine| machine.net.mac.is_none()).collect();
    open.sort_by(|a, b| a.name.cmp(&b.name));
    for machine in open {
        let made = (0..).map(|attempt| made_mac(&machine.name, attempt)).find(|mac| !taken.contains(mac));
        // There are 16 million of them, and far fewer machines in any farm.
        if let Some(mac) = made {
            taken.insert(mac.clone());
            machine.with_mac(mac);
        }
    }
}

fn explicit(machines: &IndexMap<String, Machine>, problems: &mut Vec<Problem>) {
    let mut macs = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    let mut ports: BTreeMap<(Protocol, u16), Vec<(&PortForward, &Machine)>> = BTreeMap::new();
    for machine in machines.values() {
        let places = machine.places();
        if let Some(mac) = &machine.net.mac {
            let other = *macs.entry(mac).or_insert(machine);
            let what = format!("the MAC address {mac}");
            let help = "leave it out to have one made for each";
            problems.extend(both(other, machine, &what, places.mac.as_ref(), help));
        }
        if let Some(ip) = machine.net.ip {
            let same: &mut Vec<&Machine> =
                addresses.entry((machine.net.kind, machine.net.source(), ip)).or_default();
            let help = "give one of them another `ip`, or `dhcp`";
            if let Some(other) = same.iter().find(|other| may_meet(other, machine)) {
                problems.extend(both(other, machine, &format!("the address {ip}"), places.ip.as_ref(), help));
            }
            same.push(machine);
        }
        for (forward, place) in machine.net.port_forwards.iter().zip(&places.port_forwards) {
            let same = ports.entry((forward.protocol, forward.host)).or_default();
            let help = "let one of them forward another `host` port; it can be worked out: `\"{{ 8000 + offset }}\"`";
            let what = format!("port {} ({}) of {}", forward.host, forward.protocol.name(), forward.address);
            let clashes = |(other, of): &&(&PortForward, &Machine)| {
                other.clashes_with(forward) && may_meet(of, machine)
            };
            if let Some((_, other)) = same.iter().find(clashes) {
                problems.extend(both(other, machine, &what, place.as_ref(), help));
            }
            same.push((forward, machine));
        }
    }
}

/// Whether two machines can be on one hypervisor. One that names no `connection` can get to any.
fn may_meet(a: &Machine, b: &Machine) -> bool {
    a.connection.is_none() || b.connection.is_none() || a.connection == b.connection
}

/// That two machines ask for one thing; nothing when they are one.
fn both(first: &Machine, second: &Machine, what: &str, place: Option<&Place>, help: &str) -> Option<Problem> {
    if first.name == second.name {
        return None;
    }
    let message = format!("{} and {} would both have {what}", first.name, second.name);
    let problem = match place {
        Some(place) => place.problem(message),
        None => Problem::new(message),
    };
    Some(problem.help(help))
}
