//! Who may have a scope, or touch a target.

use std::collections::BTreeMap;
use std::sync::Arc;

use dayfly_domain::binding::{ADMIN_SCOPES, Binding};
use dayfly_domain::parameter::Parameters;
use dayfly_domain::reach::Horizon;
use dayfly_domain::rules::Rules;
use dayfly_domain::scope::Scope;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::time::Timestamp;
use dayfly_domain::who_can::{self, Holder, Place};

use super::{Broker, OperationError, blocking};
use crate::store::LeaseFilter;

/// Scopes in one answer.
const MOST_SCOPES: usize = 50;
/// Bindings of one scope in one answer.
const MOST_HOLDERS: usize = 500;

/// The answer.
#[derive(Debug)]
pub struct WhoCan {
    /// When.
    pub at: Timestamp,
    /// Under which revision of the documents.
    pub revision: u64,
    /// The scope that was named, or those whose target holds the text.
    pub scopes: Vec<HeldScope>,
    /// For a verb of administration: its bindings.
    pub admins: Vec<Arc<Binding>>,
    /// And the root admins.
    pub root_admins: Vec<SpiffeId>,
}

/// A scope with all who may have it.
#[derive(Debug)]
pub struct HeldScope {
    /// The scope.
    pub scope: Arc<Scope>,
    /// Where its target holds the text that was asked for.
    pub places: Vec<Place>,
    /// Values that were given, or with which alone the target holds the text.
    pub chosen: Parameters,
    /// Its bindings.
    pub holders: Vec<Holder>,
    /// Whether some were left out.
    pub more: bool,
    /// Who has leases of it now: how many, and until when.
    pub live: Vec<(SpiffeId, u32, Horizon)>,
}

/// Finds the scopes → asks for each binding on them → counts what is out.
pub async fn who_can(
    broker: &Arc<Broker>,
    what: String,
    chosen: Parameters,
) -> Result<WhoCan, OperationError> {
    let (rules, now) = (broker.rules.load_full(), broker.clock.now());
    let mut answer = WhoCan {
        at: now,
        revision: rules.revision,
        scopes: Vec::new(),
        admins: Vec::new(),
        root_admins: Vec::new(),
    };
    if ADMIN_SCOPES.contains(&what.as_str()) {
        answer.admins = rules.bindings_of(&what).to_vec();
        answer.root_admins.clone_from(&broker.root_admins);
        return Ok(answer);
    }
    let found = find(&rules, &what, &chosen)?;
    answer.scopes = blocking(move || found.into_iter().map(|one| held(&rules, one, now)).collect()).await?;
    for held in &mut answer.scopes {
        held.live = live(broker, held, now).await?;
    }
    Ok(answer)
}

/// A scope, where its target holds the text, and the values that are chosen by then.
type Found = (Arc<Scope>, Vec<Place>, Parameters);

/// The scope of that name, or every scope whose target may hold the text.
fn find(rules: &Rules, what: &str, chosen: &Parameters) -> Result<Vec<Found>, OperationError> {
    let named: Vec<(Arc<Scope>, Vec<Place>)> = match rules.scope(what) {
        Some(scope) => vec![(Arc::clone(scope), Vec::new())],
        None => {
            let places = |scope: &Arc<Scope>| (Arc::clone(scope), who_can::places(scope, what));
            rules.scopes().map(places).filter(|(_, places)| !places.is_empty()).collect()
        }
    };
    let Some((first, _)) = named.first() else {
        return Err(OperationError::Invalid {
            reason: "NOTHING_HOLDS_IT",
            message: format!("no scope is named {what:?}, and no scope's target holds that text"),
            next: "list the scopes with `dayfly scope list`, or name a shorter piece of the target",
        });
    };
    let first = Arc::clone(first);
    let with_values = named.into_iter().filter_map(|(scope, places)| {
        let chosen = choose(&scope, &places, chosen)?;
        Some((scope, places, chosen))
    });
    let found: Vec<Found> = with_values.take(MOST_SCOPES).collect();
    match found.is_empty() {
        false => Ok(found),
        true => {
            let names: Vec<String> =
                first.parameters.iter().map(|(name, spec)| format!("{name}, {spec}")).collect();
            Err(OperationError::Invalid {
                reason: "PARAMETER_INVALID",
                message: format!("scope {} takes no such values; it has {}", first.name, names.join("; ")),
                next: "correct the parameters; `dayfly scope show` lists them",
            })
        }
    }
}

/// The values that were given, and those with which alone the target holds the text. None where the scope takes no such
/// values, or the two differ.
fn choose(scope: &Scope, places: &[Place], given: &Parameters) -> Option<Parameters> {
    let takes =
        |(name, value): (&String, &String)| scope.parameters.get(name).is_some_and(|spec| spec.takes(value));
    if !given.iter().all(takes) {
        return None;
    }
    let fit = |place: &&Place| {
        place.values.iter().all(|(name, value)| given.get(name).is_none_or(|other| other == value))
    };
    let mut ways: Vec<&Parameters> = places.iter().filter(fit).map(|place| &place.values).collect();
    ways.sort();
    ways.dedup();
    match ways[..] {
        [] if places.is_empty() => Some(given.clone()),
        [] => None,
        [only] => Some(given.iter().chain(only).map(|(name, value)| (name.clone(), value.clone())).collect()),
        // It stands there with several values, and each of them counts.
        [..] => Some(given.clone()),
    }
}

fn held(rules: &Rules, (scope, places, chosen): Found, now: Timestamp) -> HeldScope {
    let mut holders = who_can::of_scope(rules, &scope, &chosen, MOST_HOLDERS + 1, now);
    let more = holders.len() > MOST_HOLDERS;
    holders.truncate(MOST_HOLDERS);
    HeldScope { scope, places, chosen, holders, more, live: Vec::new() }
}

/// Identities with leases of the scope and these values that are not over.
async fn live(
    broker: &Broker,
    held: &HeldScope,
    now: Timestamp,
) -> Result<Vec<(SpiffeId, u32, Horizon)>, OperationError> {
    let filter = LeaseFilter { scope: Some(held.scope.name.clone()), ..LeaseFilter::default() };
    let mut by_identity: BTreeMap<SpiffeId, (u32, Horizon)> = BTreeMap::new();
    for row in broker.store.leases(filter).await? {
        let fits = held.chosen.iter().all(|(name, value)| row.lease.parameters.get(name) == Some(value));
        if fits {
            let (count, horizon) = by_identity.entry(row.lease.spiffe_id.clone()).or_default();
            *count += 1;
            *horizon = horizon.and(Horizon::of_lease(&row.lease, now));
        }
    }
    Ok(by_identity.into_iter().map(|(id, (count, horizon))| (id, count, horizon)).collect())
}
