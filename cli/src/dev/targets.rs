//! Which targets a development Dayfly may speak to: those on this machine, and those that are named one by one.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use tonic::transport::Uri;

use crate::failure::Failure;

/// Targets beside our own tokens.
#[derive(Args, Debug)]
pub struct TargetArgs {
    /// A Vault or OpenBao, for example http://127.0.0.1:8200; it must trust this trust domain (deploy/vault)
    #[arg(long, value_name = "URL")]
    vault: Option<String>,
    /// PEM file with the authorities that vouch for the Vault; needed with https
    #[arg(long, value_name = "FILE", requires = "vault")]
    vault_ca: Option<PathBuf>,
    /// A service that speaks AWS STS, for example moto at http://127.0.0.1:5000
    #[arg(long, value_name = "URL")]
    aws_endpoint: Option<String>,
    /// The region of that service
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    aws_region: String,
    /// Allows one target that is not on this machine, by its host name; may be given more than once
    #[arg(long, value_name = "HOST")]
    i_know_this_is_real: Vec<String>,
}

/// Targets that were checked.
#[derive(Debug, Default)]
pub struct Targets {
    /// Vault, if there is one.
    pub vault: Option<Vault>,
    /// AWS, if there is something that speaks like it.
    pub aws: Option<Aws>,
}

/// A Vault.
#[derive(Debug)]
pub struct Vault {
    /// Scheme, host and port.
    pub address: String,
    /// Who vouches for it.
    pub ca_file: Option<PathBuf>,
}

/// A service that speaks STS.
#[derive(Debug)]
pub struct Aws {
    /// Scheme, host and port.
    pub endpoint: String,
    /// Its region.
    pub region: String,
}

impl TargetArgs {
    /// Refuses what is not on this machine and was not named.
    pub fn check(self) -> Result<Targets, Failure> {
        let real = &self.i_know_this_is_real;
        let vault = match self.vault {
            None => None,
            Some(address) => {
                check("--vault", &address, real)?;
                let ca_file = self.vault_ca.as_deref().map(std::path::absolute).transpose();
                let ca_file =
                    ca_file.map_err(|error| Failure::usage("--vault-ca names no file").because(&error))?;
                Some(Vault { address: bare(address), ca_file })
            }
        };
        let aws = match self.aws_endpoint {
            None => None,
            Some(endpoint) => {
                check("--aws-endpoint", &endpoint, real)?;
                Some(Aws { endpoint: bare(endpoint), region: self.aws_region })
            }
        };
        Ok(Targets { vault, aws })
    }
}

/// Broker and agent want neither path nor slash.
fn bare(mut url: String) -> String {
    url.truncate(url.trim_end_matches('/').len());
    url
}

fn check(flag: &str, url: &str, real: &[String]) -> Result<(), Failure> {
    let parsed: Option<Uri> = url.parse().ok();
    let parsed = parsed.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
    let Some(host) = parsed.as_ref().and_then(Uri::host) else {
        return Err(
            Failure::usage(format!("{flag} {url:?} is no address")).next("write http://127.0.0.1:PORT")
        );
    };
    let host = host.trim_matches(['[', ']']);
    // A name is what the resolver makes of it; an address is what it says.
    let is_loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if is_loopback || real.iter().any(|named| named == host) {
        return Ok(());
    }
    let told = format!("{flag} {url} is not on this machine, and credentials of it may open something real");
    Err(Failure::usage(told).next(format!(
        "name a loopback address such as http://127.0.0.1:PORT, or add --i-know-this-is-real {host}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_on_this_machine_must_be_named() {
        let real = ["vault.example.org".to_owned()];
        for (url, named, fits) in [
            ("http://127.0.0.1:8200", &[][..], true),
            ("http://[::1]:8200/", &[], true),
            ("http://localhost:8200", &[], false),
            ("https://vault.example.org:8200", &[], false),
            ("https://vault.example.org:8200", &real, true),
            ("https://vault.example.org.evil.example", &real, false),
            ("https://127.0.0.1@vault.example.com", &[], false),
            ("http://10.0.0.1:8200", &real, false),
            ("127.0.0.1:8200", &[], false),
            ("ftp://127.0.0.1", &[], false),
            ("", &[], false),
        ] {
            assert_eq!(check("--vault", url, named).is_ok(), fits, "{url}");
        }
    }
}
