//! `dayfly dev fetch`: the SVIDs of the user's programs as files and text, for programs that speak to no Workload API.
//! The files are named as SPIRE's own command names them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use dayfly_client::{Identity, IdentityOptions};

use super::place;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;

#[derive(Args, Debug)]
pub struct FetchArgs {
    #[command(flatten)]
    place: super::DirArgs,
    /// Write svid.0.pem, svid.0.key and bundle.0.pem into this folder
    #[arg(long, value_name = "FOLDER")]
    write: Option<PathBuf>,
    /// Print a JWT-SVID for this audience
    #[arg(long, value_name = "AUDIENCE", required_unless_present = "write")]
    audience: Option<String>,
}

/// Fetches what was asked for. The files are the user's alone.
pub async fn fetch(args: FetchArgs) -> Result<Exit, Failure> {
    let told = place::running(&args.place.dir)?;
    let identity = Identity::from_workload_api(Some(&told.workload_api), IdentityOptions::default()).await;
    let identity = identity
        .map_err(|error| Failure::new("the development Workload API gives no identity").because(&error))?;
    if let Some(folder) = &args.write {
        write(&identity, folder)?;
    }
    if let Some(audience) = &args.audience {
        let fetched = identity.jwt_svid(audience).await;
        let jwt = fetched.map_err(|error| Failure::new("a JWT-SVID could not be fetched").because(&error))?;
        output::text(&format!("{}\n", jwt.token.as_str()))?;
    }
    Ok(Exit::Done)
}

fn write(identity: &Identity, folder: &Path) -> Result<(), Failure> {
    let none = |error: &(dyn std::error::Error + 'static)| {
        Failure::new("the development Workload API gives no certificate").because(error)
    };
    let source = identity.x509_source();
    let svid = source.svid().map_err(|error| none(&error))?;
    let bundles = source.bundle_set().map_err(|error| none(&error))?;
    let authorities = bundles.get(identity.trust_domain());
    let authorities = authorities.ok_or_else(|| Failure::new("the trust domain has no certificates"))?;
    let certificate = |der: &[u8]| pem("CERTIFICATE", der);
    for (name, text) in [
        ("svid.0.pem", svid.cert_chain().iter().map(|one| certificate(one.as_bytes())).collect()),
        ("svid.0.key", pem("PRIVATE KEY", svid.private_key().as_bytes())),
        ("bundle.0.pem", authorities.authorities().iter().map(|one| certificate(one.as_bytes())).collect()),
    ] {
        place::write(&folder.join(name), &text)?;
    }
    Ok(())
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        let _infallible = writeln!(pem, "{}", String::from_utf8_lossy(line));
    }
    pem + &format!("-----END {label}-----\n")
}
