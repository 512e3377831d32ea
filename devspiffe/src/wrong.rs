//! SVIDs that are wrong on purpose, so that tests can show they are refused.
//!
//! Each is right in every way but the one its name says, and (except where the name says otherwise) is signed by
//! the authority's real keys: a verifier that checks only the signature accepts it.

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose};
use serde_json::{Value, json};
use spiffe::SpiffeId;

use crate::authority::{Authority, Generation};
use crate::error::AuthorityError;
use crate::jwt::{encode, unix_seconds};
use crate::x509::{IssuedX509, leaf_params, set_validity, uri_san};

const LIFE: Duration = Duration::from_secs(300);

/// One way in which an X.509-SVID can be wrong. The section is that of X509-SVID, unless another is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WrongX509 {
    /// Ran out a minute ago (RFC 5280 §4.1.2.5).
    Expired,
    /// Valid only in an hour (RFC 5280 §4.1.2.5).
    NotYetValid,
    /// Two URI SANs, the right one first (§2).
    TwoUriSans,
    /// No URI SAN at all (§2).
    NoUriSan,
    /// No BasicConstraints extension (§4.1).
    NoBasicConstraints,
    /// A leaf with `cA: true` (§4.1).
    CaLeaf,
    /// The URI SAN is `https://example.org/workload` (SPIFFE-ID §2).
    NotASpiffeUri,
    /// The SPIFFE ID has no path (§2).
    NoPath,
    /// Key usage without digitalSignature (§4.3).
    NoDigitalSignature,
    /// Key usage with keyCertSign on a leaf (§4.3).
    CertSignLeaf,
    /// Signed by a root of the same name that is in no bundle (§5.1).
    StrangeRoot,
}

impl WrongX509 {
    /// Every way.
    pub const ALL: [Self; 11] = [
        Self::Expired,
        Self::NotYetValid,
        Self::TwoUriSans,
        Self::NoUriSan,
        Self::NoBasicConstraints,
        Self::CaLeaf,
        Self::NotASpiffeUri,
        Self::NoPath,
        Self::NoDigitalSignature,
        Self::CertSignLeaf,
        Self::StrangeRoot,
    ];
}

/// Makes an X.509-SVID for `id` that is wrong in one way.
///
/// # Errors
/// When the certificate cannot be made.
pub fn x509(authority: &Authority, id: &SpiffeId, how: WrongX509) -> Result<IssuedX509, AuthorityError> {
    let now = SystemTime::now();
    let (mut not_before, mut not_after) = (now - Duration::from_secs(10), now + LIFE);
    let mut params = leaf_params(&id.to_string(), now, not_after)?;
    match how {
        WrongX509::Expired => {
            (not_before, not_after) = (now - Duration::from_secs(3600), now - Duration::from_secs(60));
        }
        WrongX509::NotYetValid => {
            (not_before, not_after) = (now + Duration::from_secs(3600), now + Duration::from_secs(7200));
        }
        WrongX509::TwoUriSans => params.subject_alt_names.push(uri_san(&format!("{id}-too"))?),
        WrongX509::NoUriSan => params.subject_alt_names.clear(),
        WrongX509::NoBasicConstraints => params.is_ca = IsCa::NoCa,
        WrongX509::CaLeaf => params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        WrongX509::NotASpiffeUri => params.subject_alt_names = vec![uri_san("https://example.org/workload")?],
        WrongX509::NoPath => {
            params.subject_alt_names = vec![uri_san(&authority.trust_domain().id_string())?];
        }
        WrongX509::NoDigitalSignature => params.key_usages = vec![KeyUsagePurpose::KeyAgreement],
        WrongX509::CertSignLeaf => params.key_usages.push(KeyUsagePurpose::KeyCertSign),
        WrongX509::StrangeRoot => return strange(authority)?.ca.issue_as(params, not_after),
    }
    set_validity(&mut params, not_before, not_after);
    x509_with(authority, params, not_after)
}

fn x509_with(
    authority: &Authority,
    params: CertificateParams,
    not_after: SystemTime,
) -> Result<IssuedX509, AuthorityError> {
    authority.signing().ca.issue_as(params, not_after)
}

/// One way in which a JWT-SVID can be wrong. The section is that of JWT-SVID, unless another is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WrongJwt {
    /// Ran out a minute ago (§3.3).
    Expired,
    /// No `exp` (§3.3).
    NoExpiry,
    /// Two audiences, the asked one first. Lawful by §3.2, refused by Dayfly, which wants to be the sole one.
    TwoAudiences,
    /// For another audience than the asked one (§3.2).
    OtherAudience,
    /// Issued an hour from now (RFC 7519 §4.1.6). Few verifiers look.
    FutureIssuedAt,
    /// `nbf` is an hour from now (RFC 7519 §4.1.5).
    NotYetValid,
    /// The right `kid`, signed with a key that is in no bundle.
    WrongKey,
    /// A `kid` that is in no bundle.
    UnknownKey,
    /// No `kid` (§2.2 makes it optional; SPIFFE libraries want it).
    NoKeyId,
    /// `alg: none` and an empty signature (§2.1).
    NoSignature,
    /// The subject is `https://example.org/workload` (§3.1).
    NotASpiffeSubject,
    /// Signed here, but the subject is in another trust domain (§4).
    ForeignSubject,
    /// A header member beyond `alg`, `kid`, `typ` (§2): `jku`, which points a naive verifier at foreign keys.
    ExtraHeader,
    /// `typ` is `at+jwt`, that of an access token (§2.3, RFC 9068 §2.1).
    AccessTokenType,
}

impl WrongJwt {
    /// Every way.
    pub const ALL: [Self; 14] = [
        Self::Expired,
        Self::NoExpiry,
        Self::TwoAudiences,
        Self::OtherAudience,
        Self::FutureIssuedAt,
        Self::NotYetValid,
        Self::WrongKey,
        Self::UnknownKey,
        Self::NoKeyId,
        Self::NoSignature,
        Self::NotASpiffeSubject,
        Self::ForeignSubject,
        Self::ExtraHeader,
        Self::AccessTokenType,
    ];
}

/// Makes a JWT-SVID of `id` for `audience` that is wrong in one way.
///
/// # Errors
/// When the token cannot be signed.
pub fn jwt(
    authority: &Authority,
    id: &SpiffeId,
    audience: &str,
    how: WrongJwt,
) -> Result<String, AuthorityError> {
    let signing = authority.signing();
    let now = unix_seconds(SystemTime::now());
    let mut header = signing.jwt.header();
    let mut claims =
        json!({ "sub": id.to_string(), "aud": [audience], "iat": now, "exp": now + LIFE.as_secs() });
    match how {
        WrongJwt::Expired => {
            claims["iat"] = Value::from(now - 3600);
            claims["exp"] = Value::from(now - 60);
        }
        WrongJwt::NoExpiry => remove(&mut claims, "exp"),
        WrongJwt::TwoAudiences => claims["aud"] = json!([audience, "someone-else"]),
        WrongJwt::OtherAudience => claims["aud"] = json!(["someone-else"]),
        WrongJwt::FutureIssuedAt => {
            claims["iat"] = Value::from(now + 3600);
            claims["exp"] = Value::from(now + 7200);
        }
        WrongJwt::NotYetValid => {
            claims["nbf"] = Value::from(now + 3600);
            claims["exp"] = Value::from(now + 7200);
        }
        WrongJwt::WrongKey => return strange(authority)?.jwt.sign(&header, &claims),
        WrongJwt::UnknownKey => {
            let strange = strange(authority)?;
            return strange.jwt.sign(&strange.jwt.header(), &claims);
        }
        WrongJwt::NoKeyId => remove(&mut header, "kid"),
        WrongJwt::NoSignature => {
            header["alg"] = Value::from("none");
            return Ok(format!("{}.{}.", encode(&header), encode(&claims)));
        }
        WrongJwt::NotASpiffeSubject => claims["sub"] = Value::from("https://example.org/workload"),
        WrongJwt::ForeignSubject => {
            claims["sub"] = Value::from(format!("spiffe://elsewhere.example{}", id.path()));
        }
        WrongJwt::ExtraHeader => header["jku"] = Value::from("https://example.org/keys"),
        WrongJwt::AccessTokenType => header["typ"] = Value::from("at+jwt"),
    }
    signing.jwt.sign(&header, &claims)
}

/// Signs a JWT-SVID with these claims, whatever they are: an old `iat`, a life of a day.
///
/// # Errors
/// When the token cannot be signed.
pub fn jwt_of(authority: &Authority, claims: &Value) -> Result<String, AuthorityError> {
    let signing = authority.signing();
    signing.jwt.sign(&signing.jwt.header(), claims)
}

fn remove(object: &mut Value, member: &str) {
    object.as_object_mut().expect("header and claims are objects").remove(member);
}

/// Keys of nobody's bundle, under the authority's name.
fn strange(authority: &Authority) -> Result<Generation, AuthorityError> {
    Generation::new(authority.trust_domain(), SystemTime::now())
}
