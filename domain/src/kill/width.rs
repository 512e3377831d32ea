//! How much a kill would end: what an admin is shown before, and what makes a kill wide.

use std::collections::BTreeMap;

use super::Target;
use crate::spiffe::SpiffeId;
use crate::stage::Stage;

/// What is live of one identity, on one node, of one scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Who holds it.
    pub spiffe_id: SpiffeId,
    /// The node it came through.
    pub node: Option<SpiffeId>,
    /// The scope; none for open tasks.
    pub scope: Option<String>,
    /// The scope's provider; none for open tasks.
    pub provider: Option<String>,
    /// How many leases, or open tasks.
    pub count: u64,
}

/// From where on a kill is wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WideAbove {
    /// Open tasks that end.
    pub tasks: u32,
    /// Of all open tasks, in percent.
    pub percent: u32,
    /// Below this many tasks the share does not count: two of three are not many.
    pub few: u32,
}

/// How much a kill ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Width {
    /// Open tasks that end, and all open tasks.
    pub tasks: (u64, u64),
    /// Leases taken back, and all live leases.
    pub leases: (u64, u64),
    /// Tasks and leases of each identity that is touched.
    pub identities: BTreeMap<SpiffeId, (u64, u64)>,
    /// Leases of each scope that is touched.
    pub scopes: BTreeMap<String, u64>,
}

impl Width {
    /// Whether a second admin must look at it. A kill that ends no task is measured by the leases it takes back.
    pub fn is_wide(&self, above: WideAbove) -> bool {
        let wide = |(struck, all): (u64, u64)| {
            struck > u64::from(above.tasks)
                || (struck > u64::from(above.few) && struck * 100 > all * u64::from(above.percent))
        };
        wide(self.tasks) || wide(self.leases)
    }
}

/// What a kill of the target would end, of what is live.
pub fn width(target: &Target, live: &[Live], stage_of: impl Fn(&SpiffeId) -> Option<Stage>) -> Width {
    let mut width = Width::default();
    for one in live {
        let struck = strikes(target, one, &stage_of);
        let (of, identity) = match &one.scope {
            None => (&mut width.tasks, 0),
            Some(_) => (&mut width.leases, 1),
        };
        of.1 += one.count;
        if !struck {
            continue;
        }
        of.0 += one.count;
        let held = width.identities.entry(one.spiffe_id.clone()).or_default();
        *(if identity == 0 { &mut held.0 } else { &mut held.1 }) += one.count;
        if let Some(scope) = &one.scope {
            *width.scopes.entry(scope.clone()).or_default() += one.count;
        }
    }
    width
}

fn strikes(target: &Target, one: &Live, stage_of: &impl Fn(&SpiffeId) -> Option<Stage>) -> bool {
    let is_workload = || !matches!(stage_of(&one.spiffe_id), Some(Stage::Admin | Stage::Node));
    match target {
        Target::Identity(id) => one.spiffe_id == *id || one.node.as_ref() == Some(id),
        Target::Pattern(pattern) => pattern.matches(&one.spiffe_id) && is_workload(),
        Target::TrustDomain(name) => one.spiffe_id.trust_domain() == name && is_workload(),
        Target::Node(node) => one.node.as_ref() == Some(node),
        Target::Scope(name) => one.scope.as_ref() == Some(name),
        Target::Provider(name) => one.provider.as_ref() == Some(name),
        Target::Everything => is_workload(),
    }
}
