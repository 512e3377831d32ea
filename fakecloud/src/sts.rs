//! STS (AWS, "AWS Security Token Service API Reference").

use std::sync::Arc;

use axum::response::Response;

use crate::account::{ACCOUNT, Account, Place, Role, Session, identifier, iso, moment, random};
use crate::answer::{Refusal, Service};
use crate::cloud::Cloud;
use crate::oidc::{self, Provider};
use crate::params::Params;
use crate::policy::{Context, Document, Kind, trusts};
use crate::token::{Claims, Token, is_name};
use crate::wire::escape;

const ASSUME: &str = "sts:AssumeRoleWithWebIdentity";

/// A call that needs no signature: the token says who asks.
pub(crate) async fn assume_role_with_web_identity(
    cloud: &Cloud,
    params: &Params,
    place: Place<'_>,
) -> Result<Response, Refusal> {
    let settings = cloud.settings();
    if settings.is_region_disabled {
        return Err(Refusal::new(
            403,
            "RegionDisabledException",
            "STS is not activated in this region for account",
        ));
    }
    params.only(&["RoleArn", "RoleSessionName", "WebIdentityToken", "Policy", "DurationSeconds"])?;
    let (role_arn, name) = (params.text("RoleArn", 20, 2048)?, params.text("RoleSessionName", 2, 64)?);
    if !is_name(name, 2, 64) {
        return Err(Refusal::validation("Value at 'roleSessionName' failed to satisfy constraint"));
    }
    let seconds = params.number("DurationSeconds", 3_600, 900, 43_200)?;
    let token = Token::split(params.text("WebIdentityToken", 4, 20_000)?)?;
    let (provider, claims) = verify(cloud, &token, place).await?;
    let policy = match params.get("Policy") {
        // botocore, `sessionPolicyDocumentType`, with the 2,048 characters of the call's own documentation.
        Some(_) => Some(params.text("Policy", 1, 2_048)?),
        None => None,
    };

    let mut account = cloud.account();
    let provider_arn = format!("arn:aws:iam::{ACCOUNT}:oidc-provider/{}", provider.name());
    let role = account.roles.values().find(|role| role.arn() == role_arn);
    // AWS does not say whether there is such a role.
    let role = role.ok_or_else(not_authorized)?.clone();
    admit(&role, &provider, &provider_arn, &claims, name, place)?;
    if seconds > role.max_session_duration {
        return Err(Refusal::validation(
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
        ));
    }
    let packed = packed(policy, &claims) * 100 / settings.packed_limit.max(1);
    if packed > 100 {
        let what = format!("Packed policy consumes {packed}% of allotted space, please use smaller policy.");
        return Err(Refusal::new(400, "PackedPolicyTooLarge", what));
    }
    let document = policy.map(|text| Document::parse(text, Kind::Permissions)).transpose();
    let now = place.now_ms.div_euclid(1_000);
    let session = Session {
        policy: document.map_err(Refusal::policy)?.map(Arc::new),
        tags: claims.tags,
        source_identity: claims.source_identity,
        provider_arn: Some(provider_arn.clone()),
        ..session(&role, name, now, now + seconds)
    };
    let key = identifier("ASIA", 16);
    let source = session.source_identity.as_ref();
    let source =
        source.map_or(String::new(), |text| format!("<SourceIdentity>{}</SourceIdentity>", escape(text)));
    let result = format!(
        "<SubjectFromWebIdentityToken>{}</SubjectFromWebIdentityToken><Audience>{}</Audience><AssumedRoleUser><Arn>{}</Arn><AssumedRoleId>{}</AssumedRoleId></AssumedRoleUser><Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey><SessionToken>{}</SessionToken><Expiration>{}</Expiration></Credentials><Provider>{provider_arn}</Provider><PackedPolicySize>{packed}</PackedPolicySize>{source}",
        escape(&claims.subject),
        escape(&claims.audience),
        session.arn(),
        session.user_id,
        session.secret,
        session.token,
        iso(session.expires_at),
    );
    account.sessions.insert(key, session);
    Ok(Service::Sts.answer("AssumeRoleWithWebIdentity", &result))
}

/// A session of nobody's in particular.
pub(crate) fn session(role: &Role, name: &str, issued_at: i64, expires_at: i64) -> Session {
    Session {
        secret: random(40),
        token: random(160),
        role: role.name.clone(),
        name: name.to_owned(),
        user_id: format!("{}:{name}", role.id),
        tags: Default::default(),
        source_identity: None,
        provider_arn: None,
        policy: None,
        issued_at,
        expires_at,
    }
}

/// Checks the token with its issuer's keys; they are fetched if the one it names is not known yet.
async fn verify(cloud: &Cloud, token: &Token<'_>, place: Place<'_>) -> Result<(Provider, Claims), Refusal> {
    let find = || cloud.account().providers.iter().find(|provider| provider.url == token.issuer()).cloned();
    let mut provider = find().ok_or_else(|| {
        let what = format!("No OpenIDConnect provider found in your account for {}", token.issuer());
        Refusal::new(400, "InvalidIdentityToken", what)
    })?;
    if provider.key(token.key_id.as_deref()).is_none() && !provider.is_given {
        provider.keys = oidc::fetch(&provider.url).await?;
        for known in cloud.account().providers.iter_mut().filter(|known| known.url == provider.url) {
            known.keys.clone_from(&provider.keys);
        }
    }
    let key = provider.key(token.key_id.as_deref()).ok_or_else(|| {
        Refusal::new(
            400,
            "InvalidIdentityToken",
            "Couldn't retrieve verification key from your identity provider",
        )
    })?;
    let claims = token.verify(key, &provider.client_ids, place.now_ms.div_euclid(1_000))?;
    Ok((provider, claims))
}

/// Asks the role's trust policy for each thing that is done: to assume, to tag, to set a source identity.
fn admit(
    role: &Role,
    provider: &Provider,
    provider_arn: &str,
    claims: &Claims,
    name: &str,
    place: Place<'_>,
) -> Result<(), Refusal> {
    let authorized = match &claims.roles {
        Some(roles) if !roles.contains(&role.arn()) => return Err(not_authorized()),
        named => named.is_some(),
    };
    let (keys, going_on) = (claims.tags.keys().cloned(), claims.transitive.clone());
    let mut context = moment(Context::default(), place.now_ms)
        .with(&format!("{}:aud", provider.name()), &claims.audience)
        .with(&format!("{}:sub", provider.name()), &claims.subject)
        .with("aws:FederatedProvider", provider_arn)
        .with("aws:RequestedRegion", place.region)
        .with("sts:RoleSessionName", name)
        .with("sts:RoleAuthorizedByIdp", authorized.to_string())
        .with_some("sts:SourceIdentity", claims.source_identity.as_ref());
    if !claims.tags.is_empty() {
        context = context.with_all("aws:TagKeys", keys).with_all("sts:TransitiveTagKeys", going_on);
    }
    for (key, value) in &claims.tags {
        context = context.with(&format!("aws:RequestTag/{key}"), value);
    }
    let needed = [
        (ASSUME, true),
        ("sts:TagSession", !claims.tags.is_empty()),
        ("sts:SetSourceIdentity", claims.source_identity.is_some()),
    ];
    for (action, _) in needed.into_iter().filter(|(_, is_needed)| *is_needed) {
        if !trusts(&role.trust, provider_arn, action, &context).map_err(Refusal::policy)? {
            return Err(not_authorized());
        }
    }
    Ok(())
}

fn not_authorized() -> Refusal {
    Refusal::new(403, "AccessDenied", format!("Not authorized to perform {ASSUME}"))
}

/// Bytes of a session that policy and tags take. AWS packs them in a way it does not publish; here nothing is packed.
fn packed(policy: Option<&str>, claims: &Claims) -> usize {
    let text = policy.map_or(0, |text| text.bytes().filter(|byte| !byte.is_ascii_whitespace()).count());
    text + claims.tags.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
}

/// A signed call.
pub(crate) fn signed(
    account: &Account,
    session: &Session,
    place: Place<'_>,
    action: &str,
    params: &Params,
) -> Result<Response, Refusal> {
    // "No permissions are required … even if an explicit deny" (GetCallerIdentity): it proves no revocation.
    if action == "GetCallerIdentity" {
        let result = format!(
            "<Arn>{}</Arn><UserId>{}</UserId><Account>{ACCOUNT}</Account>",
            session.arn(),
            session.user_id
        );
        return Ok(Service::Sts.answer(action, &result));
    }
    account.authorize(session, place, &format!("sts:{action}"), "*", Context::default())?;
    match action {
        "GetAccessKeyInfo" => {
            params.text("AccessKeyId", 16, 128)?;
            Ok(Service::Sts.answer(action, &format!("<Account>{ACCOUNT}</Account>")))
        }
        _ => Err(Refusal::not_known(format!("how to do sts:{action}"))),
    }
}
