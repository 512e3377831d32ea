//! Everything decisions are made from, as one immutable revision that is swapped whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::approval::Approval;
use crate::binding::Binding;
use crate::binding_index::BindingIndex;
use crate::kill::Kills;
use crate::node::{NodeRule, TrustDomainRule};
use crate::parameter::Parameters;
use crate::pattern::{SpiffePattern, common_id};
use crate::pattern_index::PatternIndex;
use crate::policy::{Judge, PolicySource, Unloaded};
use crate::scope::{OnAgentLoss, Scope, ScopeAsk};
use crate::spiffe::SpiffeId;
use crate::stage::Stage;
use crate::time::Timestamp;

/// Patterns of the identities that fill a stage.
#[derive(Clone, Debug)]
pub struct StageRule {
    /// The stage.
    pub stage: Stage,
    /// Who fills it.
    pub patterns: Vec<SpiffePattern>,
    /// SHA-256 of the document it was written in, hexadecimal.
    pub digest: String,
}

/// One revision of the platform team's documents, indexed for deciding.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Number of the revision; grows with each apply.
    pub revision: u64,
    /// SHA-256 over the digests of all documents, and of the approvals and kills that stand beside them; hexadecimal.
    pub digest: String,
    documents: String,
    trust_domains: Vec<TrustDomainRule>,
    stages: Vec<StageRule>,
    stage_index: PatternIndex<Vec<Stage>>,
    scopes: BTreeMap<String, Arc<Scope>>,
    bindings: HashMap<String, BindingIndex>,
    nodes: Vec<NodeRule>,
    policies: Vec<PolicySource>,
    judge: Option<Arc<dyn Judge>>,
    approvals: HashMap<SpiffeId, Vec<Approval>>,
    kills: Arc<Kills>,
}

impl Rules {
    /// Indexes checked documents.
    pub fn new(
        revision: u64,
        digest: String,
        trust_domains: Vec<TrustDomainRule>,
        stages: Vec<StageRule>,
        scopes: Vec<Scope>,
        bindings: Vec<Binding>,
        nodes: Vec<NodeRule>,
    ) -> Self {
        let scopes = scopes.into_iter().map(|scope| (scope.name.clone(), Arc::new(scope))).collect();
        let mut by_scope: HashMap<String, BindingIndex> = HashMap::new();
        for binding in bindings {
            by_scope.entry(binding.scope.clone()).or_default().add(Arc::new(binding));
        }
        let mut stage_index = PatternIndex::<Vec<Stage>>::default();
        for (rule, pattern) in stages.iter().flat_map(|rule| rule.patterns.iter().map(move |p| (rule, p))) {
            stage_index.entry(pattern).push(rule.stage);
        }
        Self {
            revision,
            documents: digest.clone(),
            digest,
            trust_domains,
            stages,
            stage_index,
            scopes,
            bindings: by_scope,
            nodes,
            policies: Vec::new(),
            judge: None,
            approvals: HashMap::new(),
            kills: Arc::default(),
        }
    }

    /// The same rules with these policies. Until they are loaded, everything they are for is denied: see
    /// [`Rules::with_judge`].
    #[must_use]
    pub fn with_policies(self, policies: Vec<PolicySource>) -> Self {
        let judge = (!policies.is_empty()).then(|| Arc::new(Unloaded(policies.clone())) as Arc<dyn Judge>);
        Self { policies, judge, ..self }
    }

    /// The policies as they are written.
    pub fn policies(&self) -> &[PolicySource] {
        &self.policies
    }

    /// The same rules with these policies loaded.
    #[must_use]
    pub fn with_judge(self, judge: Arc<dyn Judge>) -> Self {
        Self { judge: Some(judge), ..self }
    }

    /// The same rules with these approvals in place of those there were.
    #[must_use]
    pub fn with_approvals(self, approvals: Vec<Approval>) -> Self {
        let mut by_identity: HashMap<SpiffeId, Vec<Approval>> = HashMap::new();
        for approval in approvals {
            by_identity.entry(approval.identity.clone()).or_default().push(approval);
        }
        Self { approvals: by_identity, ..self }.digested()
    }

    fn digested(self) -> Self {
        let approvals = self.approvals.values().flatten().map(|one| format!("{} {}", one.id, one.digest));
        let kills = self.kills.all().iter().map(|kill| format!("kill {}", kill.id));
        let mut beside: Vec<String> = approvals.chain(kills).collect();
        beside.sort_unstable();
        let digest = match beside.is_empty() {
            true => self.documents.clone(),
            false => {
                let whole = format!("{}\n{}", self.documents, beside.join("\n"));
                Sha256::digest(whole).iter().map(|byte| format!("{byte:02x}")).collect()
            }
        };
        Self { digest, ..self }
    }

    /// The same rules with these kills in place of those there were. What they cut off is denied whatever bindings say.
    #[must_use]
    pub fn with_kills(self, kills: Arc<Kills>) -> Self {
        Self { kills, ..self }.digested()
    }

    /// What is cut off.
    pub fn kills(&self) -> &Arc<Kills> {
        &self.kills
    }

    /// Whether an identity is cut off.
    pub fn cuts_off(&self, id: &SpiffeId) -> bool {
        !self.kills.is_empty() && self.kills.strike_identity(id, self.stage_of(id))
    }

    /// The policies, if any stand.
    pub fn judge(&self) -> Option<&Arc<dyn Judge>> {
        self.judge.as_ref()
    }

    /// The approval that allows the ask now. The one that stands longest, of several.
    pub fn approval(
        &self,
        id: &SpiffeId,
        ask: &ScopeAsk,
        scope: &Scope,
        now: Timestamp,
    ) -> Option<&Approval> {
        let of_identity = self.approvals.get(id).into_iter().flatten();
        of_identity.filter(|one| one.allows(id, ask, &scope.digest, now)).max_by_key(|one| one.until)
    }

    /// The stage an identity fills, if its trust domain may fill it.
    pub fn stage_of(&self, id: &SpiffeId) -> Option<Stage> {
        // One identity fills one stage: overlapping patterns of two stages are refused when they are applied.
        let mut stage = None;
        self.stage_index.each(id, &mut |stages: &Vec<Stage>| stage = stage.or(stages.first().copied()));
        stage.filter(|stage| self.trust_domains.iter().any(|domain| domain.admits(id, *stage)))
    }

    /// Which patterns fill which stage.
    pub fn stages(&self) -> &[StageRule] {
        &self.stages
    }

    /// Some identity that one of the patterns takes in and that fills a stage which is wanted, if there can be one.
    pub fn somebody(
        &self,
        patterns: &[SpiffePattern],
        wanted: impl Fn(Stage) -> bool + Copy,
    ) -> Option<SpiffeId> {
        let rules = self.stages.iter().filter(|rule| wanted(rule.stage));
        let of_stages = rules.flat_map(|rule| rule.patterns.iter());
        let of_domains = || self.trust_domains.iter().flat_map(|domain| domain.patterns.iter());
        let mut all = of_stages.flat_map(|stage| of_domains().map(move |domain| (stage, domain)));
        all.find_map(|(stage, domain)| {
            let common = patterns.iter().filter_map(|pattern| common_id(&[pattern, stage, domain]));
            common.into_iter().find(|id| self.stage_of(id).is_some_and(wanted))
        })
    }

    /// Which agents may speak for which workloads.
    pub fn nodes(&self) -> &[NodeRule] {
        &self.nodes
    }

    /// What an agent may do: it fills stage `node`, and a node rule is for it.
    pub fn node(&self, agent: &SpiffeId) -> Option<&NodeRule> {
        (self.stage_of(agent) == Some(Stage::Node)).then_some(())?;
        self.nodes.iter().find(|rule| rule.agents.matches(agent))
    }

    /// A scope by name.
    pub fn scope(&self, name: &str) -> Option<&Arc<Scope>> {
        self.scopes.get(name)
    }

    /// Every scope, by name.
    pub fn scopes(&self) -> impl Iterator<Item = &Arc<Scope>> {
        self.scopes.values()
    }

    /// The scopes whose leases outlive the silence of the agent they came through.
    pub fn held_on_agent_loss(&self) -> Vec<String> {
        let held = |scope: &&Arc<Scope>| scope.on_agent_loss == OnAgentLoss::HoldUntilDeadline;
        self.scopes.values().filter(held).map(|scope| scope.name.clone()).collect()
    }

    /// Every binding on a scope, by name.
    pub fn bindings_of(&self, scope: &str) -> &[Arc<Binding>] {
        self.bindings.get(scope).map_or(&[], BindingIndex::all)
    }

    /// The bindings on a scope that are for this identity, by name.
    pub fn bindings_on(&self, scope: &str, id: &SpiffeId) -> Vec<&Arc<Binding>> {
        self.bindings.get(scope).map(|index| index.of(id)).unwrap_or_default()
    }

    /// The bindings on a scope that are for this identity and may allow these values, by name.
    pub fn bindings_fitting(
        &self,
        scope: &str,
        id: &SpiffeId,
        parameters: &Parameters,
    ) -> Vec<&Arc<Binding>> {
        self.bindings.get(scope).map(|index| index.fitting(id, parameters)).unwrap_or_default()
    }

    /// Ids of approvals, by scope.
    fn approvals_by_scope(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut by_scope: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for approval in self.approvals.values().flatten() {
            by_scope.entry(&approval.ask.scope).or_default().insert(&approval.id);
        }
        by_scope
    }

    /// Whether a scope or its provider is cut off.
    fn strikes(&self, name: &str) -> bool {
        self.scopes.get(name).is_some_and(|scope| self.kills.strike_scope(name, &scope.provider))
    }

    /// Names of the scopes that are not what they are in the other rules: their own document, a binding on them, a policy
    /// for them, an approval of them, whether they are cut off, or who fills which stage.
    pub fn scopes_unlike(&self, other: &Rules) -> Vec<String> {
        let stages =
            |rules: &Rules| rules.stages.iter().map(|rule| rule.digest.clone()).collect::<BTreeSet<_>>();
        let other_stages = stages(self) != stages(other);
        let of = |rules: &Rules, name: &str| {
            let bindings = rules.bindings_of(name).iter().map(|binding| binding.digest.clone());
            let policies = rules.judge().map(|judge| judge.of_scope(name)).unwrap_or_default();
            (
                rules.scopes.get(name).map(|scope| scope.digest.clone()),
                bindings.collect::<BTreeSet<_>>(),
                policies,
            )
        };
        let (approved, others) = (self.approvals_by_scope(), other.approvals_by_scope());
        let differs = |name: &String| {
            other_stages
                || self.strikes(name) != other.strikes(name)
                || of(self, name) != of(other, name)
                || approved.get(name.as_str()) != others.get(name.as_str())
        };
        let names: BTreeSet<&String> = self.scopes.keys().chain(other.scopes.keys()).collect();
        names.into_iter().filter(|name| differs(name)).cloned().collect()
    }
}
