//! What there is of a machine.

use crate::{
    hypervisor::{Hypervisor, HypervisorError},
    plan::Existing,
};

/// What a hypervisor has of a machine; `None` if it has no domain of that name.
pub async fn look(hypervisor: &dyn Hypervisor, name: &str) -> Result<Option<Existing>, HypervisorError> {
    let Some(domain) = hypervisor.domain(name).await? else { return Ok(None) };
    let snapshots = hypervisor.snapshots(name).await?;
    Ok(Some(Existing { domain, snapshots }))
}
