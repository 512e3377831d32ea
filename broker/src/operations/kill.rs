//! The kill switch: cuts off what an admin names for every request from now on, then ends what is live of it.
//!
//! What is cut off is on record before anything ends, and whoever starts after a crash goes on from there
//! ([`finish`]). Leases, tasks and sessions are ended by [`super::revoke`]: they are states, and never come back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dayfly_domain::approval::Host;
use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::id::{KillId, LeaseId, RequestId};
use dayfly_domain::kill::{
    Kill, Kills, Live, MAX_REASON, MOST_KILLS, State, Target, WideAbove, Width, Word, width,
};
use dayfly_domain::rules::Rules;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::task::EndCause;
use dayfly_domain::time::Timestamp;
use tokio::time::Instant;

use super::admin::Admin;
use super::{Broker, OperationError};
use crate::fault_point;
use crate::store::StoreError;
use crate::store::kills::{CutOff, LeaseTally};

/// How an admin asks.
#[derive(Clone, Debug)]
pub struct By {
    /// Who.
    pub admin: Admin,
    /// Where the connection came from.
    pub host: Host,
    /// The request.
    pub request: RequestId,
}

impl By {
    fn word(&self, at: Timestamp) -> Word {
        Word { by: self.admin.name(), on: self.host, at }
    }
}

/// What a kill would end, with who answers for it.
#[derive(Debug, Default)]
pub struct Preview {
    /// How much.
    pub width: Width,
    /// Who owns the bindings that give each scope, as they say.
    pub owners: BTreeMap<String, BTreeSet<String>>,
    /// Whether a second admin must say yes.
    pub wide: bool,
}

/// What a kill did.
#[derive(Debug)]
pub struct Done {
    /// The kill, standing; or proposed, and then nothing ended.
    pub kill: Kill,
    /// What it was about to end.
    pub preview: Preview,
    /// Tasks that were open and are over now.
    pub tasks_ended: u64,
    /// Where the leases concerned stood when the wait was over.
    pub leases: LeaseTally,
    /// Agents that were told.
    pub nodes_told: u32,
    /// Agents that said they have dropped what is cut off.
    pub nodes_acknowledged: u32,
}

/// What it would end. Changes nothing.
pub async fn preview(broker: &Broker, target: &Target) -> Result<Preview, OperationError> {
    let live = broker.store.live().await?;
    Ok(preview_of(broker, target, &live))
}

fn preview_of(broker: &Broker, target: &Target, live: &[Live]) -> Preview {
    let rules = broker.rules.load();
    let width = width(target, live, |id| rules.stage_of(id));
    let mut owners: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for scope in width.scopes.keys() {
        let named = rules.bindings_of(scope).iter().filter(|one| {
            !one.owner.is_empty()
                && width.identities.keys().any(|id| one.identities.iter().any(|p| p.matches(id)))
        });
        owners.entry(scope.clone()).or_default().extend(named.map(|one| one.owner.clone()));
    }
    let above = WideAbove {
        tasks: broker.limits.wide_kill_tasks,
        percent: broker.limits.wide_kill_percent,
        few: broker.limits.wide_kill_few,
    };
    Preview { wide: width.is_wide(above), width, owners }
}

/// Cuts off and ends, or proposes where it is wide. Break-glass does not wait for a second admin: it pages everybody.
pub async fn kill(
    broker: &Arc<Broker>,
    by: &By,
    target: Target,
    reason: &str,
    wait: Duration,
) -> Result<Done, OperationError> {
    check(broker, &target, reason)?;
    let preview = preview(broker, &target).await?;
    let now = broker.clock.now();
    let waits = preview.wide && !matches!(by.admin, Admin::BreakGlass);
    let kill = Kill {
        id: KillId::new(now, rand::random()),
        target,
        reason: reason.to_owned(),
        asked: by.word(now),
        approved: None,
        lifted: None,
        state: if waits { State::Proposed } else { State::Standing },
    };
    let event = if waits { "kill.proposed" } else { "kill.standing" };
    let record = record(event, &kill, by, now)
        .with("tasks", preview.width.tasks.0)
        .with("leases", preview.width.leases.0);
    broker.store.write_kill(kill.clone(), MOST_KILLS, record).await?;
    if waits {
        tracing::warn!(alarm = "kill_waits", kill_id = %kill.id, target = %kill.target, "a wide kill waits for a second admin");
        let nothing = LeaseTally::default();
        return Ok(Done {
            kill,
            preview,
            tasks_ended: 0,
            leases: nothing,
            nodes_told: 0,
            nodes_acknowledged: 0,
        });
    }
    carry_out(broker, by, kill, preview, wait).await
}

/// A second admin says yes to a wide kill.
pub async fn approve(
    broker: &Arc<Broker>,
    by: &By,
    id: KillId,
    looked_at: &str,
    wait: Duration,
) -> Result<Done, OperationError> {
    let waiting = read(broker, id).await?;
    waiting.check_approve(&by.admin.name(), by.host, looked_at, broker.approvals_from_one_host)?;
    let now = broker.clock.now();
    let kill = Kill { state: State::Standing, approved: Some(by.word(now)), ..waiting };
    let preview = preview(broker, &kill.target).await?;
    broker.store.move_kill(kill.clone(), State::Proposed, record("kill.standing", &kill, by, now)).await?;
    carry_out(broker, by, kill, preview, wait).await
}

/// What was cut off may ask again; what was ended stays over. A kill that only waits is taken back by the same word.
pub async fn lift(broker: &Broker, by: &By, id: KillId) -> Result<Kill, OperationError> {
    let kill = read(broker, id).await?;
    let from = kill.state;
    if from == State::Lifted {
        return Err(dayfly_domain::kill::NotConfirmable::Over(from).into());
    }
    let now = broker.clock.now();
    let kill = Kill { state: State::Lifted, lifted: Some(by.word(now)), ..kill };
    broker.store.move_kill(kill.clone(), from, record("kill.lifted", &kill, by, now)).await?;
    reload_kills(broker).await?;
    tracing::warn!(kill_id = %kill.id, target = %kill.target, "a kill was lifted");
    Ok(kill)
}

async fn read(broker: &Broker, id: KillId) -> Result<Kill, OperationError> {
    let kill = broker.store.kill(id).await?;
    kill.ok_or_else(|| OperationError::Unknown { kind: "kill", name: id.to_string() })
}

fn check(broker: &Broker, target: &Target, reason: &str) -> Result<(), OperationError> {
    let is_line = reason.len() <= MAX_REASON && !reason.chars().any(char::is_control);
    if reason.trim().is_empty() || !is_line {
        return Err(OperationError::Invalid {
            reason: "KILL_REASON_INVALID",
            message: format!("a reason in one line of at most {MAX_REASON} bytes is wanted"),
            next: "say why; it is recorded, and read by whoever lifts it",
        });
    }
    let unknown = |kind, name: &str| Err(OperationError::Unknown { kind, name: name.to_owned() });
    let rules = broker.rules.load();
    match target {
        // A misspelt name would cut off nothing and say that it did.
        Target::Scope(name) if rules.scope(name).is_none() => unknown("scope", name),
        Target::Provider(name) if broker.catalogue().get(name).is_none() => unknown("provider", name),
        Target::TrustDomain(name) if !broker.trust_domains.iter().any(|known| known.name == *name) => {
            unknown("trust domain", name)
        }
        _ => Ok(()),
    }
}

fn record(event: &'static str, kill: &Kill, by: &By, now: Timestamp) -> Record {
    Record::new(Stream::Admin, event, now)
        .request(by.request)
        .with("kill_id", kill.id)
        .with("target", &kill.target)
        .with("reason", &kill.reason)
        .with("by", by.admin.name())
        .with("on", by.host)
}

/// From here on it cuts off: first every decision, then what is live; then agents and targets are waited for.
async fn carry_out(
    broker: &Arc<Broker>,
    by: &By,
    kill: Kill,
    preview: Preview,
    wait: Duration,
) -> Result<Done, OperationError> {
    fault_point!("kill.after_write");
    let until = Instant::now() + wait;
    reload_kills(broker).await?;
    tracing::error!(
        alarm = "kill",
        kill_id = %kill.id,
        target = %kill.target,
        by = by.admin.name(),
        tasks = preview.width.tasks.0,
        leases = preview.width.leases.0,
        "cut off"
    );
    // Whoever hung up has still cut off.
    let (running, request) = (Arc::clone(broker), Some(by.request));
    let target = kill.target.clone();
    let ending = broker.tracker.spawn(async move { end(&running, &target, request).await });
    let ended = ending.await.map_err(|_| OperationError::Bug("the ends of a kill were dropped"))??;
    if let Target::Node(node) | Target::Identity(node) = &kill.target {
        broker.notices.close(node);
    }
    let told = broker.notices.cut_off(kill.id);
    let (leases, acknowledged) = wait_for(broker, kill.id, &ended.leases, told, until).await?;
    Ok(Done {
        kill,
        preview,
        tasks_ended: ended.tasks,
        leases,
        nodes_told: told,
        nodes_acknowledged: acknowledged,
    })
}

#[derive(Default)]
struct EndedAll {
    tasks: u64,
    leases: Vec<LeaseId>,
}

/// Ends what is live of a target, some at a time, so that others' requests commit in between.
async fn end(broker: &Broker, target: &Target, request: Option<RequestId>) -> Result<EndedAll, StoreError> {
    let mut all = EndedAll::default();
    let which = cut_off(broker, target).await?;
    let Some(which) = which else { return Ok(all) };
    loop {
        fault_point!("kill.before_chunk");
        let ended = broker.store.end_cut_off(which.clone(), broker.clock.now(), request).await?;
        if ended.tasks.is_empty() && ended.leases.is_empty() {
            return Ok(all);
        }
        broker.wake.all();
        for (task, node) in &ended.tasks {
            broker.stream_anchors.forget(*task);
            broker.notices.task_over(*task, node.as_ref(), EndCause::Admin);
        }
        broker.metrics.tasks_ended(ended.tasks.len());
        if let CutOff::Identities(_) = which {
            // Leases it held in the tasks of others: their agents are not told of an end.
            ended.elsewhere.iter().for_each(|lease| broker.notices.lease_revoked(*lease));
        }
        all.tasks += ended.tasks.len() as u64;
        all.leases.extend(ended.leases);
    }
}

/// Which rows that is. Patterns are matched here, against who holds something now.
async fn cut_off(broker: &Broker, target: &Target) -> Result<Option<CutOff>, StoreError> {
    Ok(Some(match target {
        Target::Node(node) => CutOff::Node(node.clone()),
        Target::Scope(name) => CutOff::Scope(name.clone()),
        Target::Provider(name) => CutOff::Provider(name.clone()),
        Target::Everything => CutOff::Everything,
        Target::Identity(id) => CutOff::Identities(vec![id.clone()]),
        Target::Pattern(_) | Target::TrustDomain(_) => {
            let live = broker.store.live().await?;
            let rules = broker.rules.load();
            let struck = width(target, &live, |id| rules.stage_of(id)).identities;
            if struck.is_empty() {
                return Ok(None);
            }
            CutOff::Identities(struck.into_keys().collect::<Vec<SpiffeId>>())
        }
    }))
}

/// Ends whatever is live under a kill that stands: what a crash left, and what was decided just before it stood, here or
/// at another broker.
pub async fn finish(broker: &Broker) -> Result<(), StoreError> {
    let kills = Arc::clone(broker.rules.load().kills());
    for kill in kills.all() {
        let ended = end(broker, &kill.target, None).await?;
        if ended.tasks > 0 || !ended.leases.is_empty() {
            tracing::warn!(
                kill_id = %kill.id,
                tasks = ended.tasks,
                leases = ended.leases.len(),
                "ended what was still live under a kill"
            );
        }
    }
    Ok(())
}

/// Reads the kills and swaps them into the rules in force.
pub async fn reload_kills(broker: &Broker) -> Result<(), OperationError> {
    let _alone = broker.reloading.lock().await;
    let kills = Arc::new(Kills::new(broker.store.kills(false).await?));
    let before = broker.rules.load_full();
    let after = Rules::clone(&before).with_kills(kills);
    let (digest, scopes) = (after.digest.clone(), after.scopes_unlike(&before));
    broker.rules.store(Arc::new(after));
    broker.kills_settle.begin(broker.clock.now() + broker.limits.kill_settles);
    if digest != before.digest {
        broker.notices.rules_changed(&digest, &scopes);
    }
    Ok(())
}

/// Waits until the targets have said what they can and the agents that were told have answered, or the time is over.
async fn wait_for(
    broker: &Broker,
    kill: KillId,
    leases: &[LeaseId],
    told: u32,
    until: Instant,
) -> Result<(LeaseTally, u32), OperationError> {
    const FIRST_LOOK: Duration = Duration::from_millis(10);
    const LAST_LOOK: Duration = Duration::from_millis(500);
    let mut pause = FIRST_LOOK;
    loop {
        let tally = broker.store.tally(leases).await?;
        let acknowledged = broker.notices.acknowledged(kill);
        let settled = tally.live == 0 && tally.revoking == 0 && acknowledged >= told;
        if settled || Instant::now() >= until {
            broker.notices.forget_cut_off(kill);
            return Ok((tally, acknowledged));
        }
        tokio::time::sleep_until((Instant::now() + pause).min(until)).await;
        pause = (pause * 2).min(LAST_LOOK);
    }
}
