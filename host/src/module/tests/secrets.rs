//! Secrets of a run: read once, and shown by no step, whichever was granted them.

use std::sync::Arc;

use camino::Utf8Path;

use super::support::*;
use crate::{
    base::{Grants, Phase},
    farm::Farm,
    module::*,
};

/// Runs `true` in the guest and fails with the first 64 bytes that it wrote.
const TELL: &str = "
    local.get $guest i32.const 96 i32.const 1 i32.const 300 call $exec
    (i32.store (i32.const 400) (i32.const 1)) (i32.store (i32.const 404) (i32.const 4))
    (i32.store (i32.const 408) (i32.load (i32.const 316))) (i32.store (i32.const 412) (i32.load (i32.const 320)))
    i32.const 400";

fn farm(home: &Utf8Path, secrets: &str) -> Farm {
    let write = |path: &str, content: &str| {
        std::fs::create_dir_all(home.join(path).parent().unwrap()).unwrap();
        std::fs::write(home.join(path), content).unwrap();
    };
    write(
        "farm.yaml",
        &format!(
            "project: {{ id: x }}\npermutations: {{ targets: [amd64], platforms: [a, b] }}\nsecrets: {secrets}\n"
        ),
    );
    for platform in ["a", "b"] {
        let disks = "[{ src: https://example.org/x.qcow2 }]";
        let platform = format!("setup_vm/platforms/{platform}.yaml");
        write(&platform, &format!("vm: {{ metadata: {{ auth: {{ password: x }} }}, disks: {disks} }}\n"));
    }
    write("provisioning_phases/main.yaml", "- run: cat /srv/app.env\n");
    write("token", "hunter2");
    Farm::load(home).unwrap()
}

/// The steps of both machines: the first one's module was granted these secrets, the second one's nothing.
async fn steps(farm: &Farm, secrets: &[&str]) -> [ResolvedSteps; 2] {
    let module = Arc::new(wat(TELL).load().await.unwrap());
    let granted = Grants { secrets: secrets.iter().map(|name| (*name).to_owned()).collect(), ..granted() };
    let machines: Vec<_> = farm.machines.values().collect();
    let of = |index: usize, grants: Grants| {
        let steps = machines[index].phases().steps(Phase::Main).iter().map(|step| ResolvedStep {
            step: step.clone(),
            module: module.clone(),
            known_as: KnownAs::by_name("test"),
            grants: grants.clone(),
            limits: Limits::default(),
            secrets: Secrets::default(),
        });
        ResolvedSteps::new([Vec::new(), Vec::new(), steps.collect(), Vec::new()])
    };
    [of(0, granted), of(1, super::support::granted())]
}

#[tokio::test]
async fn a_secret_that_one_step_was_granted_is_shown_by_none() {
    let home = tempfile::tempdir().unwrap();
    let farm = farm(Utf8Path::from_path(home.path()).unwrap(), "{ TOKEN: { file: token } }");
    let mut steps = steps(&farm, &["TOKEN"]).await;
    ResolvedSteps::read_secrets(&mut steps, &farm).unwrap();
    let step = &steps[1].of(Phase::Main)[0];
    // The last one is torn apart by what a terminal would not show.
    let wrote = b"TOKEN=hunter2\nhun\x1b[1mter2 ".to_vec();
    let (guest, log) = (Arc::new(FakeGuest::new(move |_| (0, wrote.clone()))), Arc::new(Lines::default()));
    let call = Call {
        grants: step.grants.clone(),
        secrets: step.secrets.clone(),
        log: log.clone(),
        ..call_on(guest)
    };
    let error = step.run(call).await.unwrap_err();
    assert_eq!(error.to_string(), "TOKEN=***\n*** ");
    assert_eq!(log.all(), ["Stdout: TOKEN=***", "Stdout: *** "]);
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_is_told_of_the_steps_that_were_granted_it() {
    let home = tempfile::tempdir().unwrap();
    let farm = farm(Utf8Path::from_path(home.path()).unwrap(), "{ TOKEN: { file: missing } }");
    let mut steps = steps(&farm, &["TOKEN", "UNKNOWN"]).await;
    let problems = ResolvedSteps::read_secrets(&mut steps, &farm).unwrap_err();
    let problems: String = problems.into_iter().map(|problem| problem.to_string()).collect();
    assert!(problems.contains("secret TOKEN can't be read"), "{problems}");
    assert!(problems.contains("secret UNKNOWN is not in farm.yaml"), "{problems}");
}
