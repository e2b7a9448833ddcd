//! Check mode: modules run against what guests answered before, and what would change something is held back.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};

use super::{plugins::library, support::*};
use crate::{base::Digest, module::*};

/// A Debian guest on which apt works, and which fails the test when it is asked anything in check mode.
struct Debian {
    guest: Arc<FakeGuest>,
    module: Arc<Module>,
    probes: Arc<Probes>,
}

impl Debian {
    async fn new() -> Self {
        let has_curl = AtomicBool::new(false);
        let guest = FakeGuest::new(move |command| match command.argv[0].as_str() {
            "dpkg-query" if has_curl.load(Ordering::Relaxed) => {
                (0, b"bash\tamd64\t5.2\tinstalled\ncurl\tamd64\t8.0\tinstalled\n".to_vec())
            }
            "dpkg-query" => (0, b"bash\tamd64\t5.2\tinstalled\n".to_vec()),
            _ => {
                has_curl.store(true, Ordering::Relaxed);
                (0, Vec::new())
            }
        });
        let module = library().await.resolve("debian-apt", "debian_vs", None).await.unwrap();
        Self { guest: Arc::new(guest), module, probes: Arc::default() }
    }

    /// A restored machine: it has forgotten what was installed, and is known to be in that state.
    fn restored(&self) {
        self.probes.reached(Digest::of("clean"));
    }

    async fn run(&self, settings: Value) {
        let mut call = call_on(self.guest.clone());
        call.context.settings = settings;
        self.module.run(Call { grants: granted(), probes: Some(self.probes.clone()), ..call }).await.unwrap();
    }

    /// The calls of a rehearsal in words, each with how it was answered, and then how it ended.
    async fn rehearse(&self, settings: Value) -> Vec<String> {
        let check = Arc::new(Check::new(self.probes.clone()));
        let Call { context, grants: _, limits, log, .. } = call();
        let call = Rehearsal {
            context: Context { settings, ..context },
            answers: check.clone(),
            facts: self.probes.facts(),
            grants: granted(),
            limits,
            log,
        };
        let before = self.guest.run().len();
        let ended = self.module.rehearse(call).await;
        assert_eq!(self.guest.run().len(), before, "the guest was asked");
        let short = |call: CheckedCall| {
            let words: Vec<&str> = call.text.split_whitespace().collect();
            let program = words.iter().position(|word| ["apt-get", "dpkg-query"].contains(word)).unwrap();
            let verb = words.iter().position(|word| *word == "install").unwrap_or(words.len());
            format!("{:?}: {} {}", call.answer, words[program], words[verb..].join(" ")).trim_end().to_owned()
        };
        let mut lines: Vec<String> = check.take().calls.into_iter().map(short).collect();
        lines.push(match ended {
            Ok(outcome) => format!("changed: {}", outcome.changed),
            Err(error) => format!("failed: {}", error.to_string().split(':').next().unwrap()),
        });
        lines
    }
}

#[tokio::test]
async fn what_would_be_run_is_held_back_and_what_was_answered_is_known() {
    let debian = Debian::new().await;
    debian.restored();
    debian.run(json!({ "packages": ["curl"] })).await;

    // The very same again: all of it is known, also what comes after the command that is held back.
    debian.restored();
    let same = debian.rehearse(json!({ "packages": ["curl"] })).await;
    assert_eq!(
        same,
        [
            "Known: dpkg-query",
            "HeldBack: apt-get install -- curl [root]",
            "Known: dpkg-query",
            "changed: true"
        ]
    );

    // With another package the state before it is known; the one after it was never seen.
    debian.restored();
    let more = debian.rehearse(json!({ "packages": ["curl", "tree"] })).await;
    assert_eq!(
        more,
        [
            "Known: dpkg-query",
            "HeldBack: apt-get install -- curl tree [root]",
            "Assumed: dpkg-query",
            "changed: false"
        ]
    );

    // What is there already is not done again.
    debian.restored();
    let nothing = debian.rehearse(json!({ "packages": ["bash"] })).await;
    assert_eq!(nothing, ["Known: dpkg-query", "Known: dpkg-query", "changed: false"]);
}

#[test]
fn calls_without_end_are_not_kept() {
    let check = Check::new(Arc::default());
    let call = |input: usize| {
        let stdin = vec![Content::Bytes(Bytes(vec![b'x'; input]))];
        GuestCall::Exec(CommandCall { argv: vec!["x".to_owned()], stdin, ..CommandCall::default() })
    };
    for input in [7 << 20, 7 << 20, 7 << 20, 1] {
        assert!(
            matches!(check.answer(&call(input)), Answer::Ended { .. }),
            "the module is answered all the same"
        );
    }
    let seen = check.take();
    assert_eq!((seen.calls.len(), seen.left_out), (2, true));
    // The next step begins anew. Calls without content are bounded, too.
    for _ in 0..200_000 {
        check.answer(&call(0));
    }
    let seen = check.take();
    assert!(seen.calls.len() < 100_000 && seen.left_out, "{}", seen.calls.len());
    check.answer(&call(1));
    assert!(!check.take().left_out);
}

#[tokio::test]
async fn what_is_not_known_is_said_to_be_that() {
    let debian = Debian::new().await;
    debian.restored();
    let never = debian.rehearse(json!({ "packages": ["curl"] })).await;
    assert_eq!(never, ["Unknown: dpkg-query", "failed: not known without the machine"]);

    // In another state the last answer is an assumption.
    debian.run(json!({ "packages": ["curl"] })).await;
    debian.probes.reached(Digest::of("another image"));
    let other = debian.rehearse(json!({ "packages": ["curl"] })).await;
    assert_eq!(other[0], "Assumed: dpkg-query");
}
