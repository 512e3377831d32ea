//! Who may do what (AWS, "Policy evaluation logic"): a Deny that fits wins; else each layer there is must allow.
//!
//! There are no resource policies and no policies of an organisation here.

use std::fmt;

use super::PolicyError;
use super::context::Context;
use super::document::{Document, Effect, Listed, Statement};
use super::pattern::Pattern;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// As `s3:GetObject`.
    pub action: &'a str,
    /// An ARN, or `*` for an action without a resource.
    pub resource: &'a str,
    /// The facts.
    pub context: &'a Context,
}

/// The policies that bear on a session of a role.
#[derive(Clone, Debug, Default)]
pub struct Layers<'a> {
    /// The role's own, inline and attached: together they are one layer.
    pub identity: Vec<&'a Document>,
    /// The role's permissions boundary.
    pub boundary: Option<&'a Document>,
    /// What the session was cut to when it was made.
    pub session: Option<&'a Document>,
}

/// The layer that decided. Its text is AWS's own word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The role's own policies.
    Identity,
    /// The permissions boundary.
    Boundary,
    /// The session policy.
    Session,
}

impl fmt::Display for Layer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Layer::Identity => "identity-based policy",
            Layer::Boundary => "permissions boundary",
            Layer::Session => "session policy",
        })
    }
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Every layer allows, none denies.
    Allowed,
    /// A statement of this layer denies.
    Denied(Layer),
    /// No statement of this layer allows.
    NotAllowed(Layer),
}

/// Decides for a session.
///
/// # Errors
/// A comparison whose outcome AWS does not document.
pub fn evaluate(layers: &Layers<'_>, request: &Request<'_>) -> Result<Decision, PolicyError> {
    let all = [
        (Layer::Identity, Some(layers.identity.clone())),
        (Layer::Boundary, layers.boundary.map(|document| vec![document])),
        (Layer::Session, layers.session.map(|document| vec![document])),
    ];
    let mut decision = Decision::Allowed;
    for (layer, documents) in all {
        let Some(documents) = documents else { continue };
        let mut allows = false;
        for statement in documents.iter().flat_map(|document| &document.statements) {
            match statement.fits(request)? {
                Some(Effect::Deny) => return Ok(Decision::Denied(layer)),
                Some(Effect::Allow) => allows = true,
                None => {}
            }
        }
        if !allows && decision == Decision::Allowed {
            decision = Decision::NotAllowed(layer);
        }
    }
    Ok(decision)
}

/// Whether a role's trust policy lets this identity provider's token do `action`.
///
/// # Errors
/// As [`evaluate`].
pub fn trusts(
    trust: &Document,
    provider_arn: &str,
    action: &str,
    context: &Context,
) -> Result<bool, PolicyError> {
    let request = Request { action, resource: "*", context };
    let mut allows = false;
    for statement in &trust.statements {
        if !statement.federated.iter().any(|arn| arn == provider_arn) {
            continue;
        }
        match statement.fits(&request)? {
            Some(Effect::Deny) => return Ok(false),
            Some(Effect::Allow) => allows = true,
            None => {}
        }
    }
    Ok(allows)
}

impl Statement {
    /// Its effect, if it bears on the request.
    fn fits(&self, request: &Request<'_>) -> Result<Option<Effect>, PolicyError> {
        // AWS tells actions apart without their case.
        let action =
            self.actions.takes(request, |pattern| pattern.fits_any_case(request.action, request.context))?;
        let resource = match &self.resources {
            None => true,
            Some(listed) => listed.takes(request, |pattern| match request.resource {
                "*" => pattern.fits("*", request.context),
                arn => pattern.fits_arn(arn, request.context),
            })?,
        };
        if !action || !resource {
            return Ok(None);
        }
        // All are asked, so that one that cannot be told is not hidden by another that does not hold.
        let mut holds = true;
        for condition in &self.conditions {
            holds &= condition.holds(request.context)?;
        }
        Ok(holds.then_some(self.effect))
    }
}

impl Listed {
    fn takes(&self, request: &Request<'_>, fits: impl Fn(&Pattern) -> bool) -> Result<bool, PolicyError> {
        match self {
            Listed::In(patterns) => Ok(patterns.iter().any(fits)),
            Listed::NotIn(patterns) if patterns.iter().any(|pattern| pattern.is_void(request.context)) => {
                PolicyError::unknown("a NotResource with a variable that has no value")
            }
            Listed::NotIn(patterns) => Ok(!patterns.iter().any(fits)),
        }
    }
}
