//! IAM (AWS, "IAM API Reference"): roles' inline policies, and what is needed to read a role and its boundary.

use std::sync::Arc;

use axum::response::Response;

use crate::account::{Account, Managed, Place, Role, Session, iso};
use crate::answer::{Refusal, Service};
use crate::params::Params;
use crate::policy::{Context, Document, Kind};
use crate::timeline::{Inline, Policies, Propagation};
use crate::wire::{encode, escape};

/// AWS, "IAM and AWS STS quotas": all inline policies of a role together, white space not counted.
const MOST_INLINE: usize = 10_240;

/// The one version that a managed policy has here.
const VERSION: &str = "v1";

/// Calls that have the key `iam:PermissionsBoundary` (AWS, "Actions, resources, and condition keys for AWS IAM"); it is the
/// boundary of the role that they change.
const TELL_BOUNDARY: [&str; 6] = [
    "AttachRolePolicy",
    "DeleteRolePermissionsBoundary",
    "DeleteRolePolicy",
    "DetachRolePolicy",
    "PutRolePermissionsBoundary",
    "PutRolePolicy",
];

/// The ARN that a call is about.
pub(crate) fn resource(account: &Account, params: &Params) -> String {
    match (params.get("RoleName"), params.get("PolicyArn")) {
        (Some(name), _) => match account.roles.get(name) {
            Some(role) => role.arn(),
            None => format!("arn:aws:iam::{}:role/{name}", crate::ACCOUNT),
        },
        (None, Some(arn)) => arn.to_owned(),
        (None, None) => "*".to_owned(),
    }
}

/// A signed call. Whether the caller may is asked before whether there is such a role, and before whether the fake can.
pub(crate) fn signed(
    account: &mut Account,
    session: &Session,
    place: Place<'_>,
    propagation: &Propagation,
    action: &str,
    params: &Params,
) -> Result<Response, Refusal> {
    let bounded = params.get("RoleName").filter(|_| TELL_BOUNDARY.contains(&action));
    let boundary = bounded.and_then(|name| account.roles.get(name)?.boundary.as_ref());
    let context =
        Context::default().with_some("iam:PermissionsBoundary", boundary.map(|managed| &managed.arn));
    let resource = resource(account, params);
    account.authorize(session, place, &format!("iam:{action}"), &resource, context)?;
    let result = match action {
        "PutRolePolicy" => {
            params.only(&["RoleName", "PolicyName", "PolicyDocument"])?;
            let (name, text) = (policy_name(params)?.to_owned(), params.text("PolicyDocument", 1, 131_072)?);
            put(role_mut(account, params)?, name, Some(text), propagation, place.now_ms)?;
            String::new()
        }
        "DeleteRolePolicy" => {
            params.only(&["RoleName", "PolicyName"])?;
            let name = policy_name(params)?.to_owned();
            put(role_mut(account, params)?, name, None, propagation, place.now_ms)?;
            String::new()
        }
        "GetRolePolicy" => {
            params.only(&["RoleName", "PolicyName"])?;
            let (role, name) = (role(account, params)?, policy_name(params)?);
            let inline = role.inline.latest().get(name).ok_or_else(|| no_policy(name))?;
            format!(
                "<RoleName>{}</RoleName><PolicyName>{}</PolicyName><PolicyDocument>{}</PolicyDocument>",
                role.name,
                escape(name),
                encode(&inline.text)
            )
        }
        "ListRolePolicies" => {
            params.only(&["RoleName", "MaxItems"])?;
            let names = role(account, params)?.inline.latest().keys();
            let names: String = names.map(|name| format!("<member>{}</member>", escape(name))).collect();
            format!("<PolicyNames>{names}</PolicyNames><IsTruncated>false</IsTruncated>")
        }
        "ListAttachedRolePolicies" => {
            params.only(&["RoleName", "MaxItems"])?;
            let attached = role(account, params)?.attached.iter().map(attached);
            format!(
                "<AttachedPolicies>{}</AttachedPolicies><IsTruncated>false</IsTruncated>",
                attached.collect::<String>()
            )
        }
        "GetRole" => {
            params.only(&["RoleName"])?;
            shown(role(account, params)?)
        }
        "GetPolicy" => {
            params.only(&["PolicyArn"])?;
            let managed = managed(account, params)?;
            format!(
                "<Policy><PolicyName>{}</PolicyName><PolicyId>ANPAFAKECLOUDFAKECLOU</PolicyId><Arn>{}</Arn><Path>/</Path><DefaultVersionId>{VERSION}</DefaultVersionId><AttachmentCount>1</AttachmentCount><IsAttachable>true</IsAttachable></Policy>",
                managed.name, managed.arn
            )
        }
        "GetPolicyVersion" => {
            params.only(&["PolicyArn", "VersionId"])?;
            let managed = managed(account, params)?;
            if params.text("VersionId", 1, 20)? != VERSION {
                return Err(no_entity("Policy version does not exist.".to_owned()));
            }
            format!(
                "<PolicyVersion><Document>{}</Document><VersionId>{VERSION}</VersionId><IsDefaultVersion>true</IsDefaultVersion></PolicyVersion>",
                encode(&managed.text)
            )
        }
        _ => return Err(Refusal::not_known(format!("how to do iam:{action}"))),
    };
    Ok(Service::Iam.answer(action, &result))
}

/// Replaces or removes one inline policy, whole.
///
/// # Errors
/// `MalformedPolicyDocument`, `LimitExceeded`, `NoSuchEntity`.
pub(crate) fn put(
    role: &mut Role,
    name: String,
    text: Option<&str>,
    propagation: &Propagation,
    now_ms: i64,
) -> Result<(), Refusal> {
    let mut policies: Policies = role.inline.latest().clone();
    match text {
        None => {
            policies.remove(&name).ok_or_else(|| no_policy(&name))?;
        }
        Some(text) => {
            let document = Document::parse(text, Kind::Permissions).map_err(Refusal::policy)?;
            policies.insert(name, Inline { text: text.to_owned(), document: Arc::new(document) });
            let counted =
                |inline: &Inline| inline.text.chars().filter(|letter| !letter.is_whitespace()).count();
            if policies.values().map(counted).sum::<usize>() > MOST_INLINE {
                let what =
                    format!("Maximum policy size of {MOST_INLINE} bytes exceeded for role {}", role.name);
                return Err(Refusal::new(409, "LimitExceeded", what));
            }
        }
    }
    role.inline.put(policies, propagation, now_ms);
    Ok(())
}

fn attached(managed: &Managed) -> String {
    format!(
        "<member><PolicyName>{}</PolicyName><PolicyArn>{}</PolicyArn></member>",
        managed.name, managed.arn
    )
}

fn shown(role: &Role) -> String {
    let boundary = role.boundary.as_ref().map_or(String::new(), |managed| {
        format!(
            "<PermissionsBoundary><PermissionsBoundaryType>Policy</PermissionsBoundaryType><PermissionsBoundaryArn>{}</PermissionsBoundaryArn></PermissionsBoundary>",
            managed.arn
        )
    });
    format!(
        "<Role><Path>{}</Path><RoleName>{}</RoleName><RoleId>{}</RoleId><Arn>{}</Arn><CreateDate>{}</CreateDate><AssumeRolePolicyDocument>{}</AssumeRolePolicyDocument><MaxSessionDuration>{}</MaxSessionDuration>{boundary}</Role>",
        role.path,
        role.name,
        role.id,
        role.arn(),
        iso(0),
        encode(&role.trust_text),
        role.max_session_duration,
    )
}

fn role<'a>(account: &'a Account, params: &Params) -> Result<&'a Role, Refusal> {
    let name = params.text("RoleName", 1, 64)?;
    account.roles.get(name).ok_or_else(|| no_role(name))
}

fn role_mut<'a>(account: &'a mut Account, params: &Params) -> Result<&'a mut Role, Refusal> {
    let name = params.text("RoleName", 1, 64)?;
    account.roles.get_mut(name).ok_or_else(|| no_role(name))
}

fn managed<'a>(account: &'a Account, params: &Params) -> Result<&'a Managed, Refusal> {
    let arn = params.text("PolicyArn", 20, 2_048)?;
    account.managed(arn).ok_or_else(|| no_entity(format!("Policy {arn} was not found.")))
}

fn policy_name(params: &Params) -> Result<&str, Refusal> {
    let name = params.text("PolicyName", 1, 128)?;
    match crate::token::is_name(name, 1, 128) {
        true => Ok(name),
        false => Err(Refusal::validation("The specified value for policyName is invalid.")),
    }
}

fn no_role(name: &str) -> Refusal {
    no_entity(format!("The role with name {name} cannot be found."))
}

fn no_policy(name: &str) -> Refusal {
    no_entity(format!("The role policy with name {name} cannot be found."))
}

fn no_entity(what: String) -> Refusal {
    Refusal::new(404, "NoSuchEntity", what)
}
