//! The account: providers, roles, sessions and objects, and who of them may do what.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use rand::Rng;
use rand::distr::Alphanumeric;
use serde_json::Value;

use crate::answer::Refusal;
use crate::oidc::Provider;
use crate::policy::{Context, Decision, Document, Kind, Layers, PolicyError, Request, evaluate};
use crate::seed::{RoleSeed, Seed};
use crate::timeline::{Inline, Timeline};

/// The number of the one account there is.
pub const ACCOUNT: &str = "111122223333";

/// A managed policy.
#[derive(Clone, Debug)]
pub(crate) struct Managed {
    pub(crate) arn: String,
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) document: Arc<Document>,
}

/// A role.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) trust_text: String,
    pub(crate) trust: Arc<Document>,
    pub(crate) inline: Timeline,
    pub(crate) attached: Vec<Managed>,
    pub(crate) boundary: Option<Managed>,
    pub(crate) max_session_duration: i64,
}

impl Role {
    pub(crate) fn arn(&self) -> String {
        format!("arn:aws:iam::{ACCOUNT}:role{}{}", self.path, self.name)
    }
}

/// A session of a role.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) secret: String,
    pub(crate) token: String,
    pub(crate) role: String,
    pub(crate) name: String,
    pub(crate) user_id: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) source_identity: Option<String>,
    pub(crate) provider_arn: Option<String>,
    pub(crate) policy: Option<Arc<Document>>,
    /// Seconds since 1970, which is how fine AWS's `aws:TokenIssueTime` is.
    pub(crate) issued_at: i64,
    pub(crate) expires_at: i64,
}

impl Session {
    pub(crate) fn arn(&self) -> String {
        format!("arn:aws:sts::{ACCOUNT}:assumed-role/{}/{}", self.role, self.name)
    }
}

/// Where and when a request is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) region: &'a str,
    pub(crate) now_ms: i64,
}

/// Everything there is.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) providers: Vec<Provider>,
    pub(crate) roles: BTreeMap<String, Role>,
    pub(crate) sessions: BTreeMap<String, Session>,
    pub(crate) buckets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

impl Account {
    /// Adds what a seed names.
    ///
    /// # Errors
    /// A policy that AWS would refuse, or one that is not understood.
    pub(crate) fn add(&mut self, seed: &Seed) -> Result<(), PolicyError> {
        for provider in &seed.providers {
            let keys = provider.jwks.as_ref().and_then(|set| set["keys"].as_array().cloned());
            self.providers.retain(|other| other.url != provider.url);
            self.providers.push(Provider {
                url: provider.url.clone(),
                client_ids: provider.client_ids.clone(),
                is_given: keys.is_some(),
                keys: keys.unwrap_or_default(),
            });
        }
        for seed in &seed.roles {
            self.roles.insert(seed.name.clone(), role(seed)?);
        }
        for (bucket, objects) in &seed.buckets {
            let bucket = self.buckets.entry(bucket.clone()).or_default();
            bucket.extend(objects.iter().map(|(key, text)| (key.clone(), text.clone().into_bytes())));
        }
        Ok(())
    }

    /// A managed policy by its ARN.
    pub(crate) fn managed(&self, arn: &str) -> Option<&Managed> {
        let all = self.roles.values().flat_map(|role| role.attached.iter().chain(&role.boundary));
        all.into_iter().find(|managed| managed.arn == arn)
    }

    /// Whether a session may do this.
    ///
    /// # Errors
    /// `AccessDenied` in AWS's words, which name the layer.
    pub(crate) fn authorize(
        &self,
        session: &Session,
        place: Place<'_>,
        action: &str,
        resource: &str,
        context: Context,
    ) -> Result<(), Refusal> {
        let decision = self.decide(session, place, action, resource, context).map_err(Refusal::policy)?;
        let why = match decision {
            Decision::Allowed => return Ok(()),
            Decision::Denied(layer) => {
                let article = if layer.to_string().starts_with('i') { "an" } else { "a" };
                format!("with an explicit deny in {article} {layer}")
            }
            Decision::NotAllowed(layer) => format!("because no {layer} allows the {action} action"),
        };
        let on = if resource == "*" { String::new() } else { format!(" on resource: {resource}") };
        let what = format!("User: {} is not authorized to perform: {action}{on} {why}", session.arn());
        Err(Refusal::new(403, "AccessDenied", what))
    }

    /// As [`Account::authorize`], as a decision.
    pub(crate) fn decide(
        &self,
        session: &Session,
        place: Place<'_>,
        action: &str,
        resource: &str,
        context: Context,
    ) -> Result<Decision, PolicyError> {
        let role = &self.roles[&session.role];
        let context = facts(context, session, role, place);
        let inline = role.inline.effective(place.region, place.now_ms);
        let inline = inline.values().map(|inline| &*inline.document);
        let layers = Layers {
            identity: inline.chain(role.attached.iter().map(|managed| &*managed.document)).collect(),
            boundary: role.boundary.as_ref().map(|managed| &*managed.document),
            session: session.policy.as_deref(),
        };
        evaluate(&layers, &Request { action, resource, context: &context })
    }
}

/// What is true of every request of a session.
fn facts(context: Context, session: &Session, role: &Role, place: Place<'_>) -> Context {
    let mut context = moment(context, place.now_ms)
        .with("aws:PrincipalAccount", ACCOUNT)
        .with("aws:PrincipalArn", role.arn())
        .with("aws:PrincipalType", "AssumedRole")
        .with("aws:RequestedRegion", place.region)
        .with("aws:TokenIssueTime", iso(session.issued_at))
        .with("aws:userid", &session.user_id)
        .with_some("aws:FederatedProvider", session.provider_arn.as_ref())
        .with_some("aws:SourceIdentity", session.source_identity.as_ref());
    for (key, value) in &session.tags {
        context = context.with(&format!("aws:PrincipalTag/{key}"), value);
    }
    context
}

/// The keys that tell the time.
pub(crate) fn moment(context: Context, now_ms: i64) -> Context {
    let seconds = now_ms.div_euclid(1_000);
    context.with("aws:CurrentTime", iso(seconds)).with("aws:EpochTime", seconds.to_string())
}

/// A moment as AWS writes it.
pub(crate) fn iso(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

fn role(seed: &RoleSeed) -> Result<Role, PolicyError> {
    let document = |text: &str| Document::parse(text, Kind::Permissions).map(Arc::new);
    let managed = |name: &str, text: String| {
        let arn = format!("arn:aws:iam::{ACCOUNT}:policy/{name}");
        Ok::<_, PolicyError>(Managed { arn, name: name.to_owned(), document: document(&text)?, text })
    };
    let mut inline = BTreeMap::new();
    for (name, policy) in &seed.policies {
        let text = policy.to_string();
        inline.insert(name.clone(), Inline { document: document(&text)?, text });
    }
    let attached = seed.attached.iter().map(|(name, policy)| managed(name, policy.to_string()));
    let attached: Vec<Managed> = attached.collect::<Result<_, _>>()?;
    let boundary = match &seed.boundary {
        None => None,
        Some(Value::String(name)) => match attached.iter().find(|managed| managed.name == *name) {
            Some(same) => Some(same.clone()),
            None => return Err(PolicyError::Malformed(format!("the boundary {name:?} is not attached"))),
        },
        Some(policy) => Some(managed(&format!("{}-boundary", seed.name), policy.to_string())?),
    };
    let trust_text = seed.trust.to_string();
    Ok(Role {
        id: identifier("AROA", 17),
        name: seed.name.clone(),
        path: seed.path.clone(),
        trust: Arc::new(Document::parse(&trust_text, Kind::Trust)?),
        trust_text,
        inline: Timeline::new(inline),
        attached,
        boundary,
        max_session_duration: seed.max_session_duration,
    })
}

/// A new identifier with AWS's prefix for its kind.
pub(crate) fn identifier(prefix: &str, length: usize) -> String {
    format!("{prefix}{}", random(length).to_uppercase())
}

/// Letters and digits that nobody guesses.
pub(crate) fn random(length: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect()
}
