//! `kind: Stage`: the name is the stage, the spec lists who fills it.

use super::Document;
use super::fields::{Fields, Sink};
use crate::rules::StageRule;

pub(super) fn read(document: &Document, sink: &mut Sink<'_>) -> Option<StageRule> {
    let mut spec = Fields::of(document.spec.clone(), "spec", sink)?;
    let patterns = spec.patterns("patterns", sink);
    spec.finish(sink);
    match document.key.name.parse() {
        Ok(stage) => Some(StageRule { stage, patterns, digest: document.digest() }),
        Err(problem) => {
            sink.fault("metadata.name", problem);
            None
        }
    }
}
