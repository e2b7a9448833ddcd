//! The networks of libvirt's that machines are in, looked at before anything is touched.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use miette::IntoDiagnostic;

use super::workbench::Workbench;
use crate::{
    base::Problems,
    farm::Machine,
    hypervisor::NewNetwork,
    plan::{self, Member, Placed},
};

/// What is to be made of networks that are missing, by the names of their machines. That a machine can't have its fixed address
/// is an error, with its place.
pub(super) async fn missing(
    workbench: &Workbench,
    placed: &[(Machine, Placed)],
) -> miette::Result<BTreeMap<String, NewNetwork>> {
    let mut groups: BTreeMap<(usize, &str), Vec<&Machine>> = BTreeMap::new();
    for (machine, placed) in placed {
        if let Some(network) = machine.net.libvirt_network() {
            groups.entry((placed.hypervisor, network)).or_default().push(machine);
        }
    }
    let chosen: BTreeSet<_> = placed.iter().map(|(machine, _)| machine.name.as_str()).collect();
    let (mut missing, mut problems) = (BTreeMap::new(), Vec::new());
    let mut known = BTreeMap::new();
    for ((host, network), machines) in groups {
        let existing = match known.entry(host) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                unknown.insert(workbench.hosts[host].hypervisor.networks().await.into_diagnostic()?)
            }
        };
        let members: Vec<_> = machines.iter().map(|machine| Member::of(machine)).collect();
        let others = workbench.farm.machines.values().filter(|machine| {
            machine.net.libvirt_network() == Some(network) && !chosen.contains(machine.name.as_str())
        });
        let others: Vec<_> = others.map(Member::of).collect();
        match plan::network(network, &members, &others, existing) {
            Ok(None) => {}
            Ok(Some(new)) => {
                // The next one must not overlap it.
                existing.push(new.network());
                missing.extend(machines.iter().map(|machine| (machine.name.clone(), new.clone())));
            }
            Err(errors) => problems.extend(errors.into_iter().map(|error| {
                let of = machines.iter().find(|machine| error.machine() == Some(machine.name.as_str()));
                let help =
                    "see `virsh net-dumpxml` for what there is, and give another `ip`, `mask` or `source`";
                of.unwrap_or(&machines[0]).network_problem(error.to_string()).help(help)
            })),
        }
    }
    Problems::unless_empty(problems, missing).map_err(Into::into)
}
