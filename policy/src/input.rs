//! The input as a value of the engine: built once for a request, shared by all policies, never written out as text.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use dayfly_domain::policy::{Artifact, Claimed, Link, Observed, PolicyInput, Proven, ProvenTask};
use regorus::Value;
use regorus::value::Object;

/// Keys and words that every input holds, made once.
macro_rules! words {
    ($($name:ident),* $(,)?) => {
        struct Words { $($name: Value),* }
        static WORDS: LazyLock<Words> =
            LazyLock::new(|| Words { $($name: Value::from(stringify!($name))),* });
    };
}

words! {
    proven, observed, claimed, spiffe_id, trust_domain, stage, via, scope, provider, action, task, chain, now, id,
    session, depth, opened_at, deadline, node, anchor, attested_by, cgroup_id, boot_id, intent, labels, parameters,
    ttl, artifact, name, digest,
}

/// The input, field by field as it is serialised.
pub(crate) fn value(input: &PolicyInput<'_>) -> Value {
    let w = &*WORDS;
    object([
        (&w.proven, proven(&input.proven)),
        (&w.observed, observed(&input.observed)),
        (&w.claimed, claimed(&input.claimed)),
    ])
}

fn proven(proven: &Proven<'_>) -> Value {
    let w = &*WORDS;
    let Proven { spiffe_id, trust_domain, stage, via, scope, provider, action, task, chain, now } = proven;
    let chain: Vec<Value> = chain.iter().map(link).collect();
    object([
        (&w.spiffe_id, spiffe_id.as_str().into()),
        (&w.trust_domain, (*trust_domain).into()),
        (&w.stage, stage.as_str().into()),
        (&w.via, (*via).into()),
        (&w.scope, (*scope).into()),
        (&w.provider, (*provider).into()),
        (&w.action, (*action).into()),
        (&w.task, proven_task(task)),
        (&w.chain, chain.into()),
        (&w.now, (*now).into()),
    ])
}

fn proven_task(task: &ProvenTask) -> Value {
    let w = &*WORDS;
    let ProvenTask { id, session, depth, opened_at, deadline } = task;
    object([
        (&w.id, id.as_str().into()),
        (&w.session, session.as_str().into()),
        (&w.depth, (*depth).into()),
        (&w.opened_at, (*opened_at).into()),
        (&w.deadline, (*deadline).into()),
    ])
}

fn link(link: &Link<'_>) -> Value {
    let w = &*WORDS;
    let Link { spiffe_id, stage } = link;
    object([(&w.spiffe_id, spiffe_id.as_str().into()), (&w.stage, stage.as_str().into())])
}

fn observed(observed: &Observed<'_>) -> Value {
    let w = &*WORDS;
    let Observed { node, anchor, attested_by, cgroup_id, boot_id } = observed;
    let fields = [
        (&w.anchor, (*anchor).into()),
        (&w.attested_by, (*attested_by).into()),
        (&w.cgroup_id, (*cgroup_id).into()),
        (&w.boot_id, (*boot_id).into()),
    ];
    object(fields.into_iter().chain(node.map(|node| (&w.node, node.as_str().into()))))
}

fn claimed(claimed: &Claimed<'_>) -> Value {
    let w = &*WORDS;
    let Claimed { intent, labels, parameters, ttl, artifact } = claimed;
    let fields = [
        (&w.intent, (*intent).into()),
        (&w.labels, texts(labels)),
        (&w.parameters, texts(parameters)),
        (&w.ttl, (*ttl).into()),
    ];
    object(fields.into_iter().chain(artifact.map(|artifact| (&w.artifact, artifact_value(artifact)))))
}

fn artifact_value(artifact: &Artifact) -> Value {
    let w = &*WORDS;
    let Artifact { name, digest } = artifact;
    let digest = digest.as_deref().map(|digest| (&w.digest, digest.into()));
    object([(&w.name, name.as_str().into())].into_iter().chain(digest))
}

fn texts(map: &BTreeMap<String, String>) -> Value {
    let fields = map.iter().map(|(key, value)| (Value::from(key.as_str()), Value::from(value.as_str())));
    fields.collect::<Object>().into_value()
}

fn object<'a>(fields: impl IntoIterator<Item = (&'a Value, Value)>) -> Value {
    fields.into_iter().map(|(key, value)| (key.clone(), value)).collect::<Object>().into_value()
}
