//! Random worlds: stages, scopes, bindings, approvals, policies, a tree of tasks, and somebody who asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::*;
use crate::approval::{self, Approval};
use crate::binding::{AllowedValues, Binding, Delegation, Start, ViaRule};
use crate::parameter::{ParameterSpec, ParameterType, WholePattern};
use crate::pattern::SpiffePattern;
use crate::policy::{Judge, Judgement, Narrowing, PolicyInput, PolicyStep};
use crate::rules::StageRule;
use crate::scope::{ApprovalRule, ScopeLimits, TtlLimits};
use crate::task::Offer;
use crate::template::Template;

/// SplitMix64: a seed names a world.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("below n")
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Copy, const N: usize>(&mut self, from: [T; N]) -> T {
        from[self.below(N)]
    }

    fn some<T: Clone>(&mut self, from: &[T], one_in: usize) -> Vec<T> {
        from.iter().filter(|_| !self.one_in(one_in)).cloned().collect()
    }
}

pub(super) const IDENTITIES: [&str; 7] =
    ["train/a", "train/b", "infer/planner", "infer/x", "retrieval/r", "tool/t", "tool/u"];
pub(super) const PATTERNS: [&str; 9] = [
    "spiffe://example.org/**",
    "spiffe://example.org/*/*",
    "spiffe://example.org/train/*",
    "spiffe://example.org/infer/planner",
    "spiffe://example.org/infer/**",
    "spiffe://example.org/*/t",
    "spiffe://example.org/tool/**",
    "spiffe://example.org/tool/u",
    "spiffe://example.org/retrieval/*",
];
pub(super) const SCOPES: [&str; 3] = ["one", "two", "three"];
pub(super) const VALUES: [&str; 3] = ["a", "b", "c"];

/// A policy that denies where all of its conditions hold, and narrows.
#[derive(Clone, Debug)]
pub(super) struct DenyRule {
    pub(super) stage: Option<Stage>,
    pub(super) depth: Option<usize>,
    pub(super) value: Option<&'static str>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    pub(super) denies: Vec<DenyRule>,
    pub(super) max_ttl: Option<Ttl>,
}

impl Judge for Book {
    fn judge(&self, input: &PolicyInput<'_>) -> Judgement {
        let holds = |rule: &DenyRule| {
            rule.stage.is_none_or(|stage| stage == input.proven.stage)
                && rule.depth.is_none_or(|depth| depth <= input.proven.task.depth)
                && rule.value.is_none_or(|value| input.claimed.parameters.values().any(|v| v == value))
        };
        match self.denies.iter().any(holds) {
            true => Judgement::Deny { policy: "book".into(), reasons: vec!["no".into()] },
            false => Judgement::Allow(Narrowing { max_ttl: self.max_ttl, ..Narrowing::default() }),
        }
    }

    fn explain(&self, input: &PolicyInput<'_>) -> (Judgement, Vec<PolicyStep>) {
        (self.judge(input), Vec::new())
    }

    fn is_for(&self, _: &str) -> bool {
        true
    }

    fn of_scope(&self, _: &str) -> Vec<(String, String)> {
        vec![("book".into(), "digest".into())]
    }
}

/// One world. Its parts can be changed before it is asked.
#[derive(Clone, Debug)]
pub(super) struct RandomWorld {
    pub(super) scopes: Vec<Scope>,
    pub(super) bindings: Vec<Binding>,
    pub(super) book: Book,
    pub(super) approvals: Vec<Approval>,
    pub(super) caller: Caller,
    pub(super) lineage: Vec<Task>,
    pub(super) wish: Wish,
}

impl RandomWorld {
    pub(super) fn new(seed: u64) -> Self {
        let dice = &mut Dice::new(seed);
        let scopes: Vec<Scope> = SCOPES.iter().map(|name| scope(dice, name)).collect();
        let bindings = (0..dice.below(12)).map(|number| binding(dice, number)).collect();
        let wish = Wish {
            ask: random_ask(dice, &scopes),
            ttl: dice.one_in(4).then(|| Ttl::minutes(dice.below(20) as u64)),
            act: None,
        };
        let via = if dice.one_in(4) { direct() } else { node() };
        let lineage = tree(dice, &scopes, &wish.ask, &via);
        let holder = lineage.last().expect("not empty").opened_by.clone();
        let spiffe_id = if dice.one_in(8) { id(dice.pick(IDENTITIES)) } else { holder };
        let caller = Caller {
            stage: stage_of(&spiffe_id),
            spiffe_id,
            via,
            proof_expires_at: if dice.one_in(30) { NOW } else { NOW + Ttl::minutes(3) },
        };
        let denies = (0..dice.below(3)).map(|_| deny_rule(dice)).collect();
        let max_ttl = dice.one_in(3).then(|| Ttl::minutes(1 + dice.below(5) as u64));
        let approvals = approvals(dice, &caller, &scopes, &wish);
        Self { scopes, bindings, book: Book { denies, max_ttl }, approvals, caller, lineage, wish }
    }

    pub(super) fn rules(&self) -> Rules {
        let domain = TrustDomainRule {
            name: "example.org".into(),
            stages: Stage::ALL.into(),
            patterns: vec!["spiffe://example.org/**".parse().expect("a pattern")],
        };
        let stage = |(stage, pattern): (Stage, &str)| StageRule {
            stage,
            patterns: vec![pattern.parse().expect("a pattern")],
            digest: String::new(),
        };
        let stages = [
            (Stage::Training, "spiffe://example.org/train/**"),
            (Stage::Inference, "spiffe://example.org/infer/**"),
            (Stage::Retrieval, "spiffe://example.org/retrieval/**"),
            (Stage::Tool, "spiffe://example.org/tool/**"),
        ];
        Rules::new(
            1,
            "digest".into(),
            vec![domain],
            stages.map(stage).into(),
            self.scopes.clone(),
            self.bindings.clone(),
            Vec::new(),
        )
        .with_approvals(self.approvals.clone())
        .with_judge(Arc::new(self.book.clone()))
    }

    pub(super) fn decide(&self) -> Decision {
        decide(&self.rules(), &self.caller, &self.lineage, &self.wish, NOW)
    }
}

pub(super) fn stage_of(id: &SpiffeId) -> Stage {
    match id.segments().next().unwrap_or_default() {
        "train" => Stage::Training,
        "infer" => Stage::Inference,
        "retrieval" => Stage::Retrieval,
        _ => Stage::Tool,
    }
}

fn scope(dice: &mut Dice, name: &str) -> Scope {
    let stages = [Stage::Training, Stage::Inference, Stage::Retrieval, Stage::Tool];
    let values = VALUES.map(str::to_owned).to_vec();
    let spec = ParameterSpec { kind: ParameterType::Enum(values), pattern: None };
    let parameters: BTreeMap<String, ParameterSpec> =
        (!dice.one_in(3)).then(|| ("p".to_owned(), spec)).into_iter().collect();
    Scope {
        name: name.into(),
        description: String::new(),
        stages: dice.some(&stages, 4).into_iter().collect::<BTreeSet<_>>(),
        parameters,
        ttl: TtlLimits { default: Ttl::minutes(5), max: Ttl::minutes(15) },
        anchor: dice.one_in(10).then_some(AnchorKind::CgroupOwned),
        approval: dice.one_in(5).then_some(ApprovalRule { max: Ttl::hours(8) }),
        leaves_behind: Vec::new(),
        limits: ScopeLimits::default(),
        on_agent_loss: Default::default(),
        provider: "token".into(),
        target: Template::parse(serde_json::json!({}), &BTreeMap::new()).expect("an empty template"),
        digest: format!("digest of {name}"),
    }
}

fn patterns(dice: &mut Dice) -> Vec<SpiffePattern> {
    (0..1 + dice.below(2)).map(|_| dice.pick(PATTERNS).parse().expect("a pattern")).collect()
}

pub(super) fn binding(dice: &mut Dice, number: usize) -> Binding {
    let may_use = !dice.one_in(4);
    let hands_on = !may_use || dice.one_in(3);
    let allowed = match dice.below(5) {
        0 => Some(AllowedValues::Pattern(WholePattern::new("[ab]").expect("a pattern"))),
        1 | 2 => Some(AllowedValues::List(dice.some(&VALUES.map(str::to_owned), 2))),
        _ => None,
    };
    Binding {
        name: format!("b{number}"),
        identities: patterns(dice),
        scope: dice.pick(SCOPES).into(),
        may_use,
        delegate: hands_on.then(|| Delegation {
            to: patterns(dice),
            depth: 1 + u32::try_from(dice.below(3)).expect("small"),
        }),
        parameters: allowed.map(|values| ("p".to_owned(), values)).into_iter().collect(),
        start: dice.pick([Start::Root, Start::Root, Start::UnderParent]),
        via: dice.pick([ViaRule::Agent, ViaRule::Agent, ViaRule::Agent, ViaRule::Direct]),
        max_task: Ttl::minutes(dice.pick([30, 60, 120])),
        until: dice.one_in(5).then(|| NOW + Ttl::minutes(dice.below(4) as u64)),
        ticket: String::new(),
        owner: String::new(),
        digest: format!("digest of b{number}"),
    }
}

fn random_ask(dice: &mut Dice, scopes: &[Scope]) -> ScopeAsk {
    let scope = &scopes[dice.below(scopes.len())];
    let mut asked = ask(&scope.name, None);
    if scope.parameters.is_empty() == dice.one_in(20) {
        asked.parameters.insert("p".into(), dice.pick(VALUES).into());
    }
    asked
}

fn tree(dice: &mut Dice, scopes: &[Scope], wished: &ScopeAsk, via: &Via) -> Vec<Task> {
    let mut lineage: Vec<Task> = Vec::new();
    let length = 1 + dice.below(4);
    for number in 0..length {
        let mut next = task(number as u128, dice.pick(IDENTITIES), via, lineage.last());
        next.stage = stage_of(&next.opened_by);
        let mut lines = vec![random_ask(dice, scopes)];
        if !dice.one_in(12) {
            lines.push(wished.clone());
        }
        next.ceiling = Ceiling::new(lines);
        next.opened_at = NOW - Ttl::minutes(dice.pick([1, 10, 29, 45, 90]));
        next.state = TaskState::Open { deadline: NOW + Ttl::minutes(dice.pick([2, 10, 60])) };
        if dice.one_in(40) {
            next.state = TaskState::Ended { at: NOW, cause: crate::task::EndCause::Explicit };
        }
        if number + 1 == length && dice.one_in(40) {
            next.offer = Some(Offer { deadline: NOW + Ttl::hours(1) });
        }
        lineage.push(next);
    }
    lineage
}

fn deny_rule(dice: &mut Dice) -> DenyRule {
    let stages = [Stage::Training, Stage::Inference, Stage::Retrieval, Stage::Tool];
    DenyRule {
        stage: (!dice.one_in(3)).then(|| dice.pick(stages)),
        depth: dice.one_in(3).then(|| dice.below(3)),
        value: (!dice.one_in(3)).then(|| dice.pick(VALUES)),
    }
}

fn approvals(dice: &mut Dice, caller: &Caller, scopes: &[Scope], wish: &Wish) -> Vec<Approval> {
    let mut approvals = Vec::new();
    for number in 0..dice.below(3) {
        let ask = if dice.one_in(2) { wish.ask.clone() } else { random_ask(dice, scopes) };
        let identity = if dice.one_in(4) { id(dice.pick(IDENTITIES)) } else { caller.spiffe_id.clone() };
        let until = NOW + Ttl::minutes(dice.below(3) as u64);
        let of = scopes.iter().find(|scope| scope.name == ask.scope).map_or("", |scope| &scope.digest);
        let digest = approval::digest(&identity, &ask, if dice.one_in(6) { "stale" } else { of }, until);
        approvals.push(Approval { id: number.to_string(), identity, ask, until, digest });
    }
    approvals
}
