//! An action on an artifact: the lines of the task's ceiling it falls under, and what is decided on them.

use std::fmt;

use crate::artifact::{self, Misfit};
use crate::caller::Caller;
use crate::parameter;
use crate::rules::Rules;
use crate::scope::{Scope, ScopeAsk};
use crate::task::Task;
use crate::time::Timestamp;

use super::facts::{check_caller, check_lineage};
use super::{Act, Decision, Denial, DenyReason, Wish, decide};

/// What was decided on an action, and on which line of the ceiling.
#[derive(Clone, Debug)]
pub struct Ruling {
    /// The line with the action; none where the action falls under no line.
    pub wish: Option<Wish>,
    /// What was decided on it.
    pub decision: Decision,
}

/// Decides whether a caller may act on an artifact. The caller names no scope: the task's ceiling is what it declared, and
/// the first line that is for the action and allowed carries it. Of lines that are for it and denied the first tells why.
///
/// `lineage` is the tree above the task, root first, the task itself last; each as it stands in the database now.
pub fn decide_act(rules: &Rules, caller: &Caller, lineage: &[Task], act: &Act, now: Timestamp) -> Ruling {
    let deny = |denial| Ruling { wish: None, decision: Decision::Deny(denial) };
    let task = match check_caller(rules, caller, now).and_then(|()| check_lineage(caller, lineage, now)) {
        Ok(task) => task,
        Err(denial) => return deny(denial),
    };
    let mut nearest = None;
    let mut trace = Vec::new();
    for ask in task.ceiling.lines() {
        let scope = rules.scope(&ask.scope);
        let Some(scope) = scope.filter(|scope| scope.provider == artifact::PROVIDER) else { continue };
        if let Err(misfit) = fits(scope, ask, act) {
            trace.push(format!("- scope {}: {misfit}", ask.scope));
            continue;
        }
        let wish = Wish { ask: ask.clone(), ttl: None, act: Some(act.clone()) };
        let decision = decide(rules, caller, lineage, &wish, now);
        let ruling = Ruling { wish: Some(wish), decision };
        match ruling.decision {
            Decision::Allow(_) => return ruling,
            Decision::Deny(_) => nearest = nearest.or(Some(ruling)),
        }
    }
    nearest.unwrap_or_else(|| deny(outside(task, act, trace)))
}

/// Whether a scope with these values is for the action on the artifact.
pub(super) fn fits(scope: &Scope, ask: &ScopeAsk, act: &Act) -> Result<(), Misfit> {
    if scope.provider != artifact::PROVIDER {
        return Err(Misfit::Credentials);
    }
    parameter::check(&scope.parameters, &ask.parameters).map_err(|_| Misfit::Unreadable)?;
    let target = scope.target.render(&ask.parameters).map_err(|_| Misfit::Unreadable)?;
    artifact::fits(&target, &act.action, &act.artifact)
}

fn outside(task: &Task, act: &Act, trace: Vec<String>) -> Denial {
    let message = format!("task {} did not declare {act}", task.id);
    let next =
        "open the task with a scope that is for this action on this artifact, digest included".to_owned();
    Denial { next, trace, ..DenyReason::OutsideCeiling.denial(message) }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.action, self.artifact.name)?;
        match &self.artifact.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NOW, caller, id, node, rules_of, task};
    use super::*;
    use crate::policy::{Artifact, Judge, Judgement, PolicyInput, PolicyStep};
    use crate::scope::Ceiling;
    use crate::time::Ttl;

    const HEX: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

    const RULES: &str = r#"
kind: Stage
metadata: {name: inference}
spec: {patterns: ["spiffe://example.org/infer/**"]}
---
kind: Stage
metadata: {name: node}
spec: {patterns: ["spiffe://example.org/node/*"]}
---
kind: Scope
metadata: {name: model-load}
spec:
  stages: [inference]
  parameters: {model: {type: segment}, digest: {type: segment, pattern: "[0-9a-f]{64}"}}
  target: {artifact: {actions: [load-model, verify-model], name: "models/{model}", digest: "sha256:{digest}"}}
---
kind: Scope
metadata: {name: any-version}
spec:
  stages: [inference]
  parameters: {model: {type: segment}}
  target: {artifact: {actions: [load-model], name: "models/{model}"}}
---
kind: Scope
metadata: {name: look-alike}
spec:
  stages: [inference]
  parameters: {model: {type: segment}}
  target: {token: {actions: [load-model], name: "models/{model}"}}
---
kind: Binding
metadata: {name: server-loads}
spec: {identities: ["spiffe://example.org/infer/server"], scope: model-load}
---
kind: Binding
metadata: {name: server-loads-any}
spec: {identities: ["spiffe://example.org/infer/server"], scope: any-version, parameters: {model: [small]}}
---
kind: Binding
metadata: {name: server-look-alike}
spec: {identities: ["spiffe://example.org/infer/server"], scope: look-alike}
"#;

    fn line(scope: &str, values: &[(&str, &str)]) -> ScopeAsk {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        ScopeAsk { scope: scope.to_owned(), parameters: values.collect() }
    }

    fn act(action: &str, name: &str, digest: Option<&str>) -> Act {
        let digest = digest.map(|digits| format!("sha256:{digits}"));
        Act { action: action.to_owned(), artifact: Artifact { name: name.to_owned(), digest } }
    }

    /// What `infer/server` is told in a root task of its own with this ceiling: the scope that carries it, or the reason.
    fn told(rules: &Rules, lines: &[ScopeAsk], act: &Act) -> (Option<String>, Result<Ttl, DenyReason>) {
        let caller = caller(rules, "infer/server", node());
        let mut own = task(1, "infer/server", &node(), None);
        own.ceiling = Ceiling::new(lines.to_vec());
        let ruling = decide_act(rules, &caller, &[own], act, NOW);
        let decided = match ruling.decision {
            Decision::Allow(grant) => Ok(grant.ttl),
            Decision::Deny(denial) => Err(denial.reason),
        };
        (ruling.wish.map(|wish| wish.ask.scope), decided)
    }

    #[test]
    fn the_line_that_is_for_the_action_carries_it() {
        let rules = rules_of(RULES);
        let other = HEX.replace("2c", "2d");
        let lines = [
            line("look-alike", &[("model", "small")]),
            line("nowhere", &[]),
            line("model-load", &[("model", "llama"), ("digest", HEX)]),
            line("any-version", &[("model", "large")]),
            line("any-version", &[("model", "small")]),
        ];
        let yes = Ok(Ttl::minutes(5));
        let outside = (None, Err(DenyReason::OutsideCeiling));
        for (asked, expected) in [
            (act("load-model", "models/llama", Some(HEX)), (Some("model-load"), yes)),
            (act("verify-model", "models/llama", Some(HEX)), (Some("model-load"), yes)),
            (act("load-model", "models/llama", Some(&other)), outside),
            (act("load-model", "models/llama", None), outside),
            (act("train-model", "models/llama", Some(HEX)), outside),
            (act("load-model", "models/small", Some(&other)), (Some("any-version"), yes)),
            (act("load-model", "models/small", None), (Some("any-version"), yes)),
            (act("verify-model", "models/small", None), outside),
            (
                act("load-model", "models/large", None),
                (Some("any-version"), Err(DenyReason::ScopeNotGranted)),
            ),
        ] {
            let (scope, decided) = told(&rules, &lines, &asked);
            assert_eq!((scope.as_deref(), decided), expected, "{asked}");
        }
        assert_eq!(told(&rules, &[], &act("load-model", "models/small", None)).1, outside.1);
    }

    #[test]
    fn of_several_lines_one_that_is_allowed_is_enough() {
        let rules = rules_of(RULES);
        let large = act("load-model", "models/large", Some(HEX));
        let lines = [
            line("any-version", &[("model", "large")]),
            line("model-load", &[("model", "large"), ("digest", HEX)]),
        ];
        assert_eq!(told(&rules, &lines, &large).0.as_deref(), Some("model-load"));
        let (scope, decided) = told(&rules, &lines[..1], &large);
        assert_eq!((scope.as_deref(), decided), (Some("any-version"), Err(DenyReason::ScopeNotGranted)));
    }

    #[test]
    fn a_task_above_must_have_declared_it_too_and_nobody_elses_task_is_acted_in() {
        let rules = rules_of(RULES);
        let server = caller(&rules, "infer/server", node());
        let small = act("load-model", "models/small", None);
        let declared = Ceiling::new(vec![line("any-version", &[("model", "small")])]);
        let mut root = task(1, "infer/server", &node(), None);
        let mut child = task(2, "infer/server", &node(), Some(&root));
        child.ceiling = declared.clone();
        let reason =
            |lineage: &[Task], caller: &Caller| match decide_act(&rules, caller, lineage, &small, NOW)
                .decision
            {
                Decision::Allow(_) => None,
                Decision::Deny(denial) => Some(denial.reason),
            };
        root.ceiling = Ceiling::default();
        assert_eq!(reason(&[root.clone(), child.clone()], &server), Some(DenyReason::OutsideCeiling));
        root.ceiling = declared;
        assert_eq!(reason(&[root.clone(), child.clone()], &server), None);
        let elsewhere = Caller { via: crate::caller::Via::Agent { node: id("node/n2") }, ..server.clone() };
        assert_eq!(reason(&[root, child], &elsewhere), Some(DenyReason::TaskNotOpen));
        assert_eq!(reason(&[], &server), Some(DenyReason::TaskNotOpen));
        let late = Caller { proof_expires_at: NOW, ..server };
        assert_eq!(reason(&[], &late), Some(DenyReason::ProofExpired));
    }

    #[test]
    fn no_line_passes_for_an_action_it_is_not_for_whoever_names_it() {
        let rules = rules_of(RULES);
        let caller = caller(&rules, "infer/server", node());
        let mut own = task(1, "infer/server", &node(), None);
        let small = line("any-version", &[("model", "small")]);
        let look_alike = line("look-alike", &[("model", "small")]);
        own.ceiling = Ceiling::new(vec![small.clone(), look_alike.clone()]);
        for (ask, act) in [
            (&small, act("load-model", "models/other", None)),
            (&small, act("delete-model", "models/small", None)),
            (&look_alike, act("load-model", "models/small", None)),
        ] {
            let wish = Wish { ask: ask.clone(), ttl: None, act: Some(act) };
            match decide(&rules, &caller, std::slice::from_ref(&own), &wish, NOW) {
                Decision::Deny(denial) => assert_eq!(denial.reason, DenyReason::OutsideCeiling, "{wish:?}"),
                Decision::Allow(_) => panic!("{wish:?}"),
            }
        }
    }

    /// Denies one action, and says what it saw.
    #[derive(Debug)]
    struct NoLoads;

    impl Judge for NoLoads {
        fn judge(&self, input: &PolicyInput<'_>) -> Judgement {
            let artifact = input.claimed.artifact.map(|artifact| artifact.name.clone());
            match (input.proven.action, input.proven.provider, artifact.as_deref()) {
                ("load-model", "artifact", Some("models/small")) => {
                    Judgement::Deny { policy: "no-loads".to_owned(), reasons: vec!["not today".to_owned()] }
                }
                _ => Judgement::Allow(Default::default()),
            }
        }

        fn explain(&self, input: &PolicyInput<'_>) -> (Judgement, Vec<PolicyStep>) {
            (self.judge(input), Vec::new())
        }

        fn is_for(&self, _: &str) -> bool {
            true
        }

        fn of_scope(&self, _: &str) -> Vec<(String, String)> {
            Vec::new()
        }
    }

    #[test]
    fn a_policy_sees_the_action_and_the_artifact() {
        let rules = rules_of(RULES).with_judge(std::sync::Arc::new(NoLoads));
        let lines = [
            line("any-version", &[("model", "small")]),
            line("model-load", &[("model", "llama"), ("digest", HEX)]),
        ];
        let denied = told(&rules, &lines, &act("load-model", "models/small", None)).1;
        assert_eq!(denied, Err(DenyReason::PolicyDenied));
        assert!(told(&rules, &lines, &act("load-model", "models/llama", Some(HEX))).1.is_ok());
    }
}
