use std::sync::Arc;

use serde_json::Value;

use super::{
    Capability, Context, Ended, Level, Limits, Module, ModuleLog, Rehearsal, Replay, Transcript,
    grants::secrets_in,
};
use crate::{base::Grants, guest::Stream};

/// Plays a transcript back to a module and gives the first difference, if there is one.
pub async fn play(module: &Module, transcript: Transcript) -> Option<String> {
    let recorded = transcript.context;
    let replay = Replay::new(transcript.calls);
    let call = Rehearsal {
        // Nothing is touched, so there is nothing to keep it from.
        grants: everything(module, &recorded.settings),
        context: Context {
            phase: recorded.phase,
            platform: recorded.platform,
            target: recorded.target,
            machine: recorded.machine,
            settings: recorded.settings,
            r#become: recorded.r#become,
        },
        answers: replay.clone(),
        facts: Some(transcript.facts),
        limits: Limits::default(),
        log: Arc::new(Silent),
    };
    let now = match module.rehearse(call).await {
        Ok(outcome) => Ended::Done { changed: outcome.changed, summary: outcome.summary },
        Err(error) => Ended::Failed(error.to_string()),
    };
    let other_end = || {
        let differs = now != transcript.ended;
        differs.then(|| format!("it ends otherwise:\n  recorded: {}\n  now:      {now}", transcript.ended))
    };
    replay.difference().or_else(other_end)
}

/// All that can be granted, with the secrets that the module or the settings name.
fn everything(module: &Module, settings: &Value) -> Grants {
    let asks = module.descriptor().asks();
    let asked = asks.into_iter().filter(|(ask, _)| ask.capability == Capability::Secrets);
    let handed_over = secrets_in(settings).into_iter().map(str::to_owned);
    Grants {
        exec: true,
        r#become: true,
        files: "/**".to_owned().try_into().into_iter().collect(),
        secrets: asked.filter_map(|(ask, _)| ask.value).chain(handed_over).collect(),
        artifacts: true,
        facts: true,
    }
}

struct Silent;

impl ModuleLog for Silent {
    fn line(&self, _: Level, _: &str) {}

    fn output(&self, _: Stream, _: &str) {}

    fn progress(&self, _: &str, _: Option<u8>) {}
}
