//! X.509: the trust domain's own certificate authority and the X.509-SVIDs it signs.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use spiffe::{SpiffeId, TrustDomain};
use zeroize::{Zeroize, Zeroizing};

use crate::error::AuthorityError;

/// How far before its making an SVID is already valid, so that a clock slightly behind accepts it.
pub(crate) const BACKDATE: Duration = Duration::from_secs(10);

/// How long a root certificate lives. Restarting after most of it renews the root.
pub(crate) const ROOT_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// An X.509-SVID with its private key, as an authority made it.
#[derive(Clone)]
pub struct IssuedX509 {
    leaf: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    not_after: SystemTime,
}

impl IssuedX509 {
    /// The leaf certificate, DER. The root that signed it is in the bundle; there are no intermediates.
    #[must_use]
    pub fn certificate_der(&self) -> &[u8] {
        &self.leaf
    }

    /// The private key, PKCS#8 DER, unencrypted.
    #[must_use]
    pub fn key_der(&self) -> &[u8] {
        &self.key
    }

    /// When the certificate expires; whole seconds.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

impl fmt::Debug for IssuedX509 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedX509").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// A root certificate and the key it signs with.
pub(crate) struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
    not_after: SystemTime,
}

impl CertificateAuthority {
    /// Makes a new key and a root certificate for it.
    pub(crate) fn generate(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let not_after = now + ROOT_LIFE;
        let mut params = root_params(trust_domain, &key)?;
        set_validity(&mut params, now - BACKDATE, not_after);
        let certificate = params.self_signed(&key)?.der().to_vec();
        Ok(Self { issuer: Issuer::new(params, key), certificate, not_after })
    }

    /// Puts together again what [`Self::generate`] made in an earlier run.
    pub(crate) fn restore(
        trust_domain: &TrustDomain,
        key_der: &[u8],
        certificate: Vec<u8>,
        not_after: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::try_from(key_der)?;
        let params = root_params(trust_domain, &key)?;
        Ok(Self { issuer: Issuer::new(params, key), certificate, not_after })
    }

    /// Signs an SVID that is right in every way.
    pub(crate) fn issue(
        &self,
        id: &SpiffeId,
        dns_names: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<IssuedX509, AuthorityError> {
        let not_after = expiry(now, ttl);
        let mut params = leaf_params(&id.to_string(), now, not_after)?;
        for name in dns_names {
            params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(name.as_str())?));
        }
        self.issue_as(params, not_after)
    }

    /// Signs whatever the parameters say, for SVIDs that are wrong on purpose.
    pub(crate) fn issue_as(
        &self,
        params: CertificateParams,
        not_after: SystemTime,
    ) -> Result<IssuedX509, AuthorityError> {
        let mut key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let issued = IssuedX509 {
            leaf: certificate.der().to_vec(),
            key: Zeroizing::new(key.serialize_der()),
            not_after,
        };
        key.zeroize();
        Ok(issued)
    }

    /// The root certificate, DER.
    pub(crate) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    pub(crate) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The root's private key, PKCS#8 DER, to be kept.
    pub(crate) fn key_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.issuer.key().serialize_der())
    }

    /// The root's public key: an uncompressed P-256 point.
    pub(crate) fn public_point(&self) -> &[u8] {
        self.issuer.key().der_bytes()
    }
}

/// What every right leaf says. X509-SVID §4, §5.2: one URI SAN, cA false, digitalSignature, server and client auth.
pub(crate) fn leaf_params(
    uri: &str,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Dayfly development");
    params.subject_alt_names = vec![uri_san(uri)?];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, now - BACKDATE, not_after);
    Ok(params)
}

/// A URI subject alternative name.
pub(crate) fn uri_san(uri: &str) -> Result<SanType, AuthorityError> {
    Ok(SanType::URI(Ia5String::try_from(uri)?))
}

/// The end of a life that begins now: at least `ttl` away, on a whole second.
pub(crate) fn expiry(now: SystemTime, ttl: Duration) -> SystemTime {
    let end = now + ttl.max(Duration::from_secs(1));
    let since_epoch = end.duration_since(UNIX_EPOCH).unwrap_or_default();
    let up = u64::from(since_epoch.subsec_nanos() > 0);
    UNIX_EPOCH + Duration::from_secs(since_epoch.as_secs() + up)
}

/// Writes both ends of a certificate's life; sub-second parts are cut off.
pub(crate) fn set_validity(params: &mut CertificateParams, from: SystemTime, to: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let seconds =
        |at: SystemTime| Duration::from_secs(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    params.not_before = epoch + seconds(from);
    params.not_after = epoch + seconds(to);
}

/// What is the same in a root certificate at every start, so that an issuer can be put together from the key alone.
fn root_params(trust_domain: &TrustDomain, key: &KeyPair) -> Result<CertificateParams, AuthorityError> {
    // Each root has a name of its own: with equal names a verifier has to try the roots one by one.
    let fingerprint = digest::digest(&digest::SHA256, key.der_bytes());
    let short: String = fingerprint.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Dayfly development");
    params.distinguished_name.push(DnType::CommonName, format!("{trust_domain} {short}"));
    // X509-SVID §3.2: a signing certificate's SPIFFE ID is its trust domain's, without a path.
    params.subject_alt_names = vec![uri_san(&trust_domain.id_string())?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}
