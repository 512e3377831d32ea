//! `dayfly node`: the agents the broker has seen, and the documents that admit them.

use clap::Subcommand;
use dayfly_client::v1;
use dayfly_domain::document::Kind;
use serde::Serialize;

use crate::connect::{ConnectArgs, answer};
use crate::documents::{self, DocumentView};
use crate::failure::Failure;
use crate::output::{self, BOLD, Format, paint};
use crate::wire::{self, At};

/// See node agents
#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// List the agents the broker has seen with their live state, and the Node documents; -o yaml prints the documents
    List,
    /// Show one Node document, or one agent by its SPIFFE ID
    Show {
        /// metadata.name of the document, or the agent's SPIFFE ID
        name: String,
    },
}

/// Lists or shows.
pub async fn node(command: NodeCommand, connect: ConnectArgs, format: Format) -> Result<(), Failure> {
    let admin = connect.admin().await?;
    let seen = async || -> Result<Vec<NodeView>, Failure> {
        let nodes = answer(admin.client().list_nodes(v1::ListNodesRequest {})).await?.nodes;
        Ok(nodes.into_iter().map(NodeView::from).collect())
    };
    match command {
        NodeCommand::List => {
            let nodes = seen().await?;
            let listed = documents::all(&admin, Kind::Node).await?;
            let all = Listed { nodes, revision: listed.revision, documents: listed.documents };
            match format {
                Format::Json => output::json(&all)?,
                Format::Yaml => output::raw(documents::yaml(&all.documents).as_bytes()).map(drop)?,
                Format::Table => output::text(&list(&all))?,
            }
        }
        NodeCommand::Show { name } if name.starts_with("spiffe://") => {
            let format = format.not_yaml()?;
            let found = seen().await?.into_iter().find(|node| node.spiffe_id == name);
            let found = found.ok_or_else(|| {
                Failure::new(format!("the broker has never seen an agent {name}"))
                    .next("see dayfly node list")
            })?;
            match format {
                Format::Json => output::json(&found)?,
                Format::Table | Format::Yaml => output::text(&facts(&found))?,
            }
        }
        NodeCommand::Show { name } => documents::show(&admin, Kind::Node, name, format).await?,
    }
    Ok(())
}

#[derive(Serialize)]
struct Listed {
    nodes: Vec<NodeView>,
    revision: u64,
    documents: Vec<DocumentView>,
}

/// An agent as programs read it; the field names are stable.
#[derive(Debug, Serialize)]
struct NodeView {
    spiffe_id: String,
    state: String,
    last_seen_at: Option<At>,
    open_tasks: u32,
    epoch: u64,
    boot_id: String,
}

impl From<v1::NodeStatus> for NodeView {
    fn from(wire: v1::NodeStatus) -> Self {
        NodeView {
            spiffe_id: wire.spiffe_id,
            state: wire.state,
            last_seen_at: wire::at(wire.last_seen_at),
            open_tasks: wire.open_tasks,
            epoch: wire.epoch,
            boot_id: wire.boot_id,
        }
    }
}

fn list(all: &Listed) -> String {
    let row = |node: &NodeView| {
        [
            node.spiffe_id.clone(),
            node.state.clone(),
            wire::or_dash(node.last_seen_at),
            node.open_tasks.to_string(),
            node.epoch.to_string(),
        ]
    };
    let seen =
        output::table(["AGENT", "STATE", "LAST SEEN", "OPEN TASKS", "EPOCH"], all.nodes.iter().map(row));
    format!("{seen}\n{}\n{}", paint(BOLD, "documents"), documents::list(&all.documents))
}

fn facts(node: &NodeView) -> String {
    output::facts([
        ("agent", node.spiffe_id.clone()),
        ("state", node.state.clone()),
        ("last seen", wire::or_dash(node.last_seen_at)),
        ("open tasks", node.open_tasks.to_string()),
        ("epoch", node.epoch.to_string()),
        ("boot", node.boot_id.clone()),
    ])
}
