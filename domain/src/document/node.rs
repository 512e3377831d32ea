//! `kind: Node`: which agents may speak for which workloads.

use std::collections::BTreeSet;

use super::Document;
use super::fields::{Fields, Sink};
use crate::node::NodeRule;
use crate::spiffe::is_trust_domain;
use crate::task::AnchorKind;

/// Live leases of one agent, if the document does not say.
pub const DEFAULT_MAX_LIVE_LEASES: u64 = 10_000;

pub(super) fn read(document: &Document, sink: &mut Sink<'_>) -> Option<NodeRule> {
    let mut spec = Fields::of(document.spec.clone(), "spec", sink)?;
    let agents = spec.text("agents", sink);
    let workloads = spec.patterns("workloads", sink);
    let trust_domains: BTreeSet<String> = spec.texts("trust_domains", sink).into_iter().collect();
    let anchors = spec.texts("anchors", sink);
    let allow_peercred = spec.flag("allow_peercred", false, sink);
    let max_live_leases = spec.number("max_live_leases", DEFAULT_MAX_LIVE_LEASES, sink);
    spec.finish(sink);
    for name in trust_domains.iter().filter(|name| !is_trust_domain(name)) {
        sink.fault("spec.trust_domains", format!("{name:?} is not a trust domain"));
    }
    let anchors = anchors.iter().filter_map(|name| match name.as_str() {
        "cgroup_owned" => Some(AnchorKind::CgroupOwned),
        "process" => Some(AnchorKind::Process),
        other => {
            sink.fault("spec.anchors", format!("{other:?} is not one of cgroup_owned, process"));
            None
        }
    });
    let anchors = anchors.collect();
    let agents = match agents?.parse() {
        Ok(pattern) => pattern,
        Err(error) => {
            sink.fault("spec.agents", format!("{error}"));
            return None;
        }
    };
    Some(NodeRule {
        name: document.key.name.clone(),
        agents,
        workloads,
        trust_domains,
        anchors,
        allow_peercred,
        max_live_leases: u32::try_from(max_live_leases).unwrap_or(u32::MAX),
        digest: document.digest(),
    })
}
