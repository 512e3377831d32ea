//! The `vault` provider: an orphan service token from a named token role, at Vault or OpenBao.
//!
//! A token takes no name of ours in advance, so one whose answer is lost can be named by nobody: it is born with a life
//! of 30 s and lengthened only after its accessor is on record. It is lengthened only while its task lives, so that
//! Vault itself lets it lapse if the broker dies.

mod config;
mod endpoints;
mod errors;
mod escapes;
mod hcl;
mod login;
mod role;
mod target;
#[cfg(test)]
mod tests;
mod token;
mod transit;
mod wire;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use dayfly_domain::lease::{Handle, Lease};
use dayfly_domain::policy::Narrowing;
use dayfly_domain::scope::{Promise, Revocability, Scope};
use dayfly_domain::template::TemplateFault;
use dayfly_domain::time::{Timestamp, Ttl};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::Deserialize as _;
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;
use vaultrs::api::token::requests::{
    CreateRoleTokenRequest, LookupTokenAccessorRequest, ReadTokenRoleRequest, RenewTokenAccessorRequest,
    RevokeTokenAccessorRequest,
};

pub use self::config::{DEFAULT_TIMEOUT, VaultConfig, VaultConfigError};
use self::endpoints::{
    Auth, Envelope, ListMounts, LookupLease, MountedEngine, Nothing, PolicyText, ReadPolicy, RevokeLease,
    TokenRole,
};
use self::errors::CallError;
use self::escapes::Mount;
pub use self::login::JwtSource;
use self::login::{Logins, REVOKING_LIFE, chain};
use self::target::Target;
use self::token::{Held, differences};
pub use self::transit::{TransitConfig, TransitKeys};
use self::wire::{Answer, Wire};
use super::{BoxError, Credential, IssueError, Issued, Order, Provider, Renewal, Revocation, RevokeError};

/// The provider's name.
const NAME: &str = "vault";
/// Keys of a token's metadata that are ours; no policy sets them.
const OWN_METADATA: [&str; 5] = ["lease", "task", "session", "scope", "spiffe_id"];
/// The first life of a token: what one lives whose answer was lost. The first renewal falls due after half of it.
pub const FIRST_TTL: Ttl = Ttl::seconds(30);
/// Leases of one token that are ended at once.
const LEASES_AT_ONCE: usize = 8;

/// Tokens of one Vault.
pub struct VaultProvider {
    wire: Arc<Wire>,
    logins: Arc<Logins>,
    timeout: Ttl,
    _keeper: AbortOnDropHandle<()>,
}

impl VaultProvider {
    /// Logs in, and keeps both logins alive until it is dropped. A Vault that is down is no error: what needs it waits.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub async fn start(config: VaultConfig, jwt: impl JwtSource + 'static) -> Result<Self, VaultConfigError> {
        let wire = Arc::new(Wire::new(&config.reach())?);
        let logins = Arc::new(Logins::new(&config, wire.clone(), Arc::new(jwt)));
        let deadline = Instant::now() + config.timeout.as_duration();
        // Before anything is given out, so that an outage from here on stops no revocation. A failure is in the log.
        let _tried = logins.session(&logins.revoke, deadline).await;
        let keeper = tokio::spawn({
            let logins = logins.clone();
            async move { logins.keep().await }
        });
        Ok(Self { wire, logins, timeout: config.timeout, _keeper: AbortOnDropHandle::new(keeper) })
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout.as_duration()
    }

    /// Reads the token role that one rendering of the scope names, and holds it against the scope.
    async fn probe_role(&self, target: &Target) -> Vec<TemplateFault> {
        let request = || {
            let role = target.role.as_str();
            ReadTokenRoleRequest::builder().role_name(role).build().expect("every field has a default")
        };
        let answer = self.logins.call(&self.logins.mint, request, self.deadline()).await;
        let role = answer.and_then(|answer| answer.read::<Envelope<TokenRole>>());
        let problem = match role {
            Ok(Envelope { data: Some(role), .. }) => return role::faults(&role, target),
            Ok(Envelope { data: None, .. }) | Err(CallError::Said { status: 404, .. }) => {
                "there is no such token role; create it first".to_owned()
            }
            Err(error) if error.is_forbidden() => {
                format!(
                    "the login {} may not read it; name it in that login's policy",
                    self.logins.mint.role()
                )
            }
            Err(error) => format!("it could not be read: {}", chain(&error)),
        };
        vec![TemplateFault {
            path: "role".to_owned(),
            problem: format!("token role {:?}: {problem}", target.role),
        }]
    }

    /// Reads the policies that the scope's tokens get, and tells every path in them that hands out what outlives a token.
    async fn probe_policies(&self, policies: &BTreeSet<String>) -> Vec<TemplateFault> {
        let fault = |problem: String| TemplateFault { path: "policies".to_owned(), problem };
        let mounts = match self.ask::<BTreeMap<String, MountedEngine>, _>(|| ListMounts {}).await {
            Ok(mounts) => mounts.into_iter().map(|(path, found)| Mount { path, engine: found.engine }),
            Err(error) => return vec![fault(self.unread("sys/mounts", &error))],
        };
        let mounts: Vec<Mount> = mounts.collect();
        let mut faults = Vec::new();
        for name in policies {
            let read = || ReadPolicy { name: name.clone() };
            let text = match self.ask::<PolicyText, _>(read).await {
                Ok(text) => text.policy,
                Err(CallError::Said { status: 404, .. }) => {
                    // Whoever writes it later would give it whatever he likes.
                    faults.push(fault(format!("there is no policy {name:?}; write it first")));
                    continue;
                }
                Err(error) => {
                    faults.push(fault(self.unread(&format!("sys/policies/acl/{name}"), &error)));
                    continue;
                }
            };
            match hcl::read(&text) {
                Ok(stanzas) => faults.extend(escapes::within(&stanzas, &mounts).into_iter().map(|found| {
                    fault(format!(
                        "policy {name:?} opens {:?}, which takes in {:?}: what it hands out outlives the token; remove the \
                         path, or declare spec.leaves_behind: [{}]",
                        found.path, found.within, found.noun
                    ))
                })),
                Err(problem) => faults.push(fault(format!(
                    "policy {name:?} is not understood ({problem}), so nobody knows what it hands out; write it plainly, or \
                     declare spec.leaves_behind"
                ))),
            }
        }
        faults
    }

    /// Asks with the giving login for data that somebody applies a scope on.
    async fn ask<T: serde::de::DeserializeOwned, E: rustify::Endpoint>(
        &self,
        request: impl Fn() -> E,
    ) -> Result<T, CallError> {
        let answer = self.logins.call(&self.logins.mint, request, self.deadline()).await?;
        answer.read::<Envelope<T>>()?.data.ok_or(CallError::Unreadable("it holds no data"))
    }

    /// Why something that tells of escapes could not be read, and what to add.
    fn unread(&self, path: &str, error: &CallError) -> String {
        match error.is_forbidden() {
            true => format!(
                "the login {} may not read {path}, so nobody knows what the scope's policies hand out; add `path \"{path}\" \
                 {{ capabilities = [\"read\"] }}` to its policy, or declare spec.leaves_behind",
                self.logins.mint.role()
            ),
            false => format!("{path} could not be read: {}", chain(error)),
        }
    }

    /// Holds the revoking login to what an identity outage needs.
    async fn probe_revoking_login(&self) -> Option<TemplateFault> {
        let role = self.logins.revoke.role();
        let problem = match self.logins.session(&self.logins.revoke, self.deadline()).await {
            Ok(session) if session.renewable() && session.life() >= REVOKING_LIFE => return None,
            Ok(_) => format!(
                "the login {role} must outlast an identity outage; give its jwt role token_period=24h"
            ),
            Err(error) => chain(&error),
        };
        Some(TemplateFault { path: String::new(), problem })
    }

    async fn create(
        &self,
        order: &Order<'_>,
        target: &Target,
        ttl: Ttl,
        deadline: Instant,
    ) -> Result<Answer, IssueError> {
        // Everything the scope says is asked for, though the role says it too: a role that was changed since then can
        // make Vault refuse, not give more.
        let mut meta: HashMap<String, String> =
            order.narrowing.tags.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        // Last, so that nothing stands in their place.
        let own = [
            order.lease.to_string(),
            order.task.to_string(),
            order.session.to_string(),
            order.scope.name.clone(),
            order.subject.to_string(),
        ];
        meta.extend(OWN_METADATA.map(str::to_owned).into_iter().zip(own));
        let request = || {
            CreateRoleTokenRequest::builder()
                .role_name(target.role.as_str())
                .policies(target.policies.iter().cloned().collect::<Vec<_>>())
                .no_default_policy(true)
                .token_type("service")
                .renewable(true)
                .ttl(in_seconds(ttl))
                .explicit_max_ttl(in_seconds(target.explicit_max_ttl))
                .display_name(format!("dayfly-{}", order.lease))
                .meta(meta.clone())
                .build()
                .expect("every field has a default")
        };
        let answer = self.logins.call(&self.logins.mint, request, deadline).await;
        answer.map_err(|error| error.of_issue(&format!("auth/token/create/{}", target.role)))
    }

    /// Revokes the token and every token under it. A token that is gone is no error.
    async fn revoke_token(&self, accessor: &str) -> Result<(), CallError> {
        let request = || {
            RevokeTokenAccessorRequest::builder()
                .accessor(accessor)
                .build()
                .expect("every field has a default")
        };
        match self.logins.call(&self.logins.revoke, request, self.deadline()).await {
            // "token not found": it is being revoked at this moment, by us or by its expiry. The look-up tells.
            Err(error) if error.says("invalid accessor") || error.says("token not found") => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Whether Vault no longer knows the accessor. Its index goes last of all that makes a token usable.
    async fn is_token_gone(&self, accessor: &str) -> Result<bool, CallError> {
        let request = || {
            LookupTokenAccessorRequest::builder()
                .accessor(accessor)
                .build()
                .expect("every field has a default")
        };
        match self.logins.call(&self.logins.revoke, request, self.deadline()).await {
            Err(error) if error.says("invalid accessor") => Ok(true),
            // The accessor is known, the token behind it is not honoured: revoked in part.
            Err(error) if error.says("bad token") => Ok(false),
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends one lease of a dynamic secret, and asks Vault whether it is gone.
    async fn end_lease(&self, lease_id: &str) -> Result<bool, RevokeError> {
        let login = &self.logins.revoke;
        let revoke = || RevokeLease { lease_id: lease_id.to_owned(), sync: true };
        let revoked = self.logins.call(login, revoke, self.deadline()).await;
        revoked.map_err(|error| error.of_revoke(&format!("sys/leases/revoke {lease_id}")))?;
        let look_up = || LookupLease { lease_id: lease_id.to_owned() };
        match self.logins.call(login, look_up, self.deadline()).await {
            Err(error) if error.says("invalid lease") => Ok(true),
            Ok(_) => Ok(false),
            Err(error) => Err(error.of_revoke(&format!("sys/leases/lookup {lease_id}"))),
        }
    }
}

#[async_trait]
impl Provider for VaultProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn check_scope(&self, scope: &Scope) -> Vec<TemplateFault> {
        target::check(scope)
    }

    async fn probe_scope(&self, scope: &Scope) -> Vec<TemplateFault> {
        let mut faults: Vec<TemplateFault> = self.probe_revoking_login().await.into_iter().collect();
        let mut policies = BTreeSet::new();
        for tree in target::variants(scope).unwrap_or_default() {
            match Target::read(&tree) {
                Ok(target) => {
                    faults.extend(self.probe_role(&target).await);
                    policies.extend(target.policies);
                }
                Err(found) => faults.extend(found),
            }
        }
        // Who declares what stays needs nobody to find it.
        if scope.leaves_behind.is_empty() {
            faults.extend(self.probe_policies(&policies).await);
        }
        faults
    }

    fn promise(&self, scope: &Scope) -> Promise {
        // One call; a Vault that cannot be reached gives no secrets either, and its token lapses at the TTL.
        Promise::of(scope, Revocability::Exact, self.timeout)
    }

    fn residue(&self, _: &Scope, ttl: Ttl) -> Ttl {
        Ttl::millis(first_life(ttl).as_millis() + self.timeout.as_millis())
    }

    fn can_narrow(&self, _: &Value, narrowing: &Narrowing) -> Result<(), String> {
        if !narrowing.deny_statements.is_empty() {
            return Err("a policy sets deny statements; a Vault token has no session policy".to_owned());
        }
        let ours = |key: &&String| OWN_METADATA.iter().any(|own| key.eq_ignore_ascii_case(own));
        match narrowing.tags.keys().find(ours) {
            Some(key) => Err(format!("a policy sets the tag {key:?}, which is the broker's own in metadata")),
            None => Ok(()),
        }
    }

    async fn issue(&self, order: &Order<'_>) -> Result<Issued, IssueError> {
        self.can_narrow(order.target, order.narrowing).map_err(refuse)?;
        let (asked_at, deadline) = (Instant::now(), self.deadline());
        let target = Target::read(order.target).map_err(refuse_target)?;
        let ttl = first_life(order.ttl);
        if ttl.as_seconds() == 0 {
            return Err(refuse(format!("a life of {} cannot be had: it counts in seconds", order.ttl)));
        }
        // Logging in first leaves no doubt about what became of the creation.
        let session = self.logins.session(&self.logins.mint, deadline).await;
        let cluster = session.map_err(|error| error.of_issue("auth/token/create"))?.cluster.clone();
        let answer = self.create(order, &target, ttl, deadline).await?;
        let auth = auth_of(&answer).map_err(|error| error.of_issue("auth/token/create"))?;
        let expires_at = order.now + Ttl::from(asked_at.elapsed()) + life_of(&auth, &target);
        let held = Held {
            accessor: auth.accessor.clone(),
            cluster,
            lease_ids: Vec::new(),
            kinds: target.kinds.clone(),
        };
        let different = differences(&auth, &target, ttl);
        if !different.is_empty() {
            let what = format!(
                "a token of role {:?} is not what the scope says: {}",
                target.role,
                different.join("; ")
            );
            return Err(IssueError::Misconfigured {
                provider: NAME,
                what,
                handle: held.handle(),
                expires_at,
            });
        }
        let credential =
            Credential::Vault { token: auth.client_token, address: self.wire.address().to_owned() };
        Ok(Issued { credential, expires_at, handle: held.handle() })
    }

    fn renewal(&self, _: &Scope) -> Renewal {
        Renewal::InPlace
    }

    async fn extend(
        &self,
        lease: &Lease,
        scope: &Scope,
        ttl: Ttl,
        now: Timestamp,
    ) -> Result<Timestamp, IssueError> {
        let held = match Held::of(lease) {
            Some(Ok(held)) => held,
            Some(Err(_)) | None => {
                return Err(refuse("the lease has no handle to lengthen it by".to_owned()));
            }
        };
        let tree = scope.target.render(&lease.parameters).map_err(|changed| refuse(changed.to_string()))?;
        let target = Target::read(&tree).map_err(refuse_target)?;
        // Vault counts from when it hears, the record from `now`: the call may take as long as is left out of the asked
        // life, so that a token never outlives its record.
        let slack = self.timeout.min(Ttl::millis(ttl.as_millis() / 2));
        let asked = Ttl::seconds(Ttl::millis(ttl.as_millis() - slack.as_millis()).as_seconds());
        if asked == Ttl::ZERO {
            return Err(refuse(format!("a life of {ttl} cannot be had: it counts in seconds")));
        }
        let (asked_at, deadline) = (Instant::now(), Instant::now() + slack.as_duration());
        let request = || {
            let request = RenewTokenAccessorRequest::builder()
                .accessor(held.accessor.as_str())
                .increment(in_seconds(asked))
                .build();
            request.expect("every field has a default")
        };
        let answer = self.logins.call(&self.logins.mint, request, deadline).await;
        let auth = answer
            .and_then(|answer| auth_of(&answer))
            .map_err(|error| error.of_issue("auth/token/renew-accessor"))?;
        let expires_at = now + Ttl::from(asked_at.elapsed()) + life_of(&auth, &target);
        let different = differences(&auth, &target, asked);
        if !different.is_empty() {
            let what = format!("the lengthened token is not what the scope says: {}", different.join("; "));
            return Err(IssueError::Misconfigured {
                provider: NAME,
                what,
                handle: held.handle(),
                expires_at,
            });
        }
        Ok(expires_at)
    }

    fn note_target_lease(&self, handle: &Handle, target_lease: &str) -> Option<Handle> {
        let mut held = Held::deserialize(&handle.0).ok()?;
        held.note(target_lease).then(|| held.handle())
    }

    async fn revoke(&self, lease: &Lease, now: Timestamp) -> Result<Revocation, RevokeError> {
        let asked_at = Instant::now();
        let held = match Held::of(lease) {
            None => return Ok(Revocation::RunsOut),
            Some(Err(source)) => {
                return Err(unfit("the lease's handle is not one of ours", Some(source.into())));
            }
            Some(Ok(held)) if held.accessor.is_empty() => return Ok(Revocation::RunsOut),
            Some(Ok(held)) => held,
        };
        let session = self.logins.session(&self.logins.revoke, self.deadline()).await;
        let session = session.map_err(|error| error.of_revoke("auth/token/revoke-accessor"))?;
        if held.cluster.is_some() && session.cluster.is_some() && held.cluster != session.cluster {
            let what = "this is another cluster than the one that gave the token; configure that one until it is gone";
            return Err(unfit(what, None));
        }
        self.revoke_token(&held.accessor)
            .await
            .map_err(|error| error.of_revoke("auth/token/revoke-accessor"))?;
        let mut gone = self.is_token_gone(&held.accessor).await;
        if !held.lease_ids.is_empty() {
            // Vault has queued them with the token; asked one by one it answers only when each engine has ended its own.
            let ends: Vec<_> = held.lease_ids.iter().map(|lease_id| self.end_lease(lease_id)).collect();
            let ended: Vec<bool> = stream::iter(ends).buffer_unordered(LEASES_AT_ONCE).try_collect().await?;
            gone = gone.map(|gone| gone && ended.into_iter().all(|ended| ended));
        }
        if !gone.map_err(|error| error.of_revoke("auth/token/lookup-accessor"))? {
            return Ok(Revocation::Applied);
        }
        Ok(Revocation::Verified { evidence: self.evidence(&held, now + Ttl::from(asked_at.elapsed())) })
    }
}

impl VaultProvider {
    fn evidence(&self, held: &Held, at: Timestamp) -> String {
        let leases = match held.lease_ids.len() {
            0 => String::new(),
            count => format!(", sys/leases/lookup of {count}: invalid lease"),
        };
        let address = self.wire.address();
        format!("auth/token/lookup-accessor at {address}: invalid accessor{leases}, at {at}{}", held.stays())
    }
}

/// The first life of a token that may live for `ttl`.
fn first_life(ttl: Ttl) -> Ttl {
    ttl.min(FIRST_TTL)
}

/// Vault's way to write a span. A bare `0` would mean Vault's own default of days; no caller passes it.
fn in_seconds(span: Ttl) -> String {
    debug_assert!(span.as_seconds() > 0);
    format!("{}s", span.as_seconds())
}

/// How long the token lives from the answer on. One without an end of its own ends at the wall.
fn life_of(auth: &Auth, target: &Target) -> Ttl {
    if auth.lease_duration == 0 { target.explicit_max_ttl } else { Ttl::seconds(auth.lease_duration) }
}

fn auth_of(answer: &Answer) -> Result<Auth, CallError> {
    answer.read::<Envelope<Nothing>>()?.auth.ok_or(CallError::Unreadable("it holds no token"))
}

fn refuse(what: String) -> IssueError {
    IssueError::Refuse { provider: NAME, what, source: None }
}

fn refuse_target(faults: Vec<TemplateFault>) -> IssueError {
    let faults: Vec<String> =
        faults.into_iter().map(|fault| format!("{}: {}", fault.path, fault.problem)).collect();
    refuse(format!("the scope's target cannot be used: {}", faults.join("; ")))
}

fn unfit(what: &str, source: Option<BoxError>) -> RevokeError {
    RevokeError { provider: NAME, what: what.to_owned(), source }
}
