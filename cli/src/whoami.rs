//! `dayfly whoami`: which identity the Workload API gives this process.

use dayfly_client::{Identity, Peer};
use dayfly_domain::time::Timestamp;
use serde::Serialize;

use crate::connect::ConnectArgs;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::wire::At;

#[derive(Serialize)]
struct View {
    spiffe_id: String,
    serial: String,
    not_after: Option<At>,
}

/// Asks and prints.
pub async fn whoami(connect: ConnectArgs, format: Format) -> Result<(), Failure> {
    let format = format.not_yaml()?;
    let identity = connect.identity().await?;
    let view = View::of(&identity.leaf()?, &identity);
    match format {
        Format::Json => output::json(&view)?,
        Format::Table | Format::Yaml => {
            let facts = [
                ("spiffe id", view.spiffe_id),
                ("serial", view.serial),
                ("until", view.not_after.map(|at| at.to_string()).unwrap_or_default()),
            ];
            output::text(&output::facts(facts))?;
        }
    }
    Ok(())
}

impl View {
    fn of(leaf: &Peer, identity: &Identity) -> Self {
        let since_epoch = leaf.not_after.duration_since(std::time::UNIX_EPOCH).ok();
        let ms = since_epoch.and_then(|span| i64::try_from(span.as_millis()).ok());
        View {
            spiffe_id: identity.spiffe_id().to_string(),
            serial: leaf.serial.to_string(),
            not_after: ms.map(|ms| At(Timestamp::from_unix_millis(ms))),
        }
    }
}
