//! `dayfly scope`, `binding`, `stage` and the documents of `node`: what the platform team applied.

use clap::Subcommand;
use dayfly_client::v1;
use dayfly_domain::document::Kind;
use serde::Serialize;
use serde_json::Value;

use crate::connect::{Admin, ConnectArgs, answer};
use crate::failure::Failure;
use crate::output::{self, FAINT, Format, paint, printable};
use crate::wire::{self, At};

/// What can be done with a kind of document.
#[derive(Subcommand, Debug)]
pub enum DocumentCommand {
    /// List all of this kind
    List,
    /// Show one; -o yaml prints it as it can be applied again
    Show {
        /// Its metadata.name
        name: String,
    },
}

/// Lists or shows documents of one kind.
pub async fn documents(
    kind: Kind,
    command: DocumentCommand,
    connect: ConnectArgs,
    format: Format,
) -> Result<(), Failure> {
    let admin = connect.admin().await?;
    match command {
        DocumentCommand::List => {
            let listed = all(&admin, kind).await?;
            match format {
                Format::Json => output::json(&listed)?,
                Format::Yaml => output::raw(yaml(&listed.documents).as_bytes()).map(drop)?,
                Format::Table => output::text(&list(&listed.documents))?,
            }
        }
        DocumentCommand::Show { name } => show(&admin, kind, name, format).await?,
    }
    Ok(())
}

/// Every document of a kind, and the revision they stand at.
pub async fn all(admin: &Admin, kind: Kind) -> Result<Listed, Failure> {
    let request = v1::ListDocumentsRequest { kind: kind.as_str().to_owned() };
    let answer = answer(admin.client().list_documents(request)).await?;
    let documents: Result<Vec<_>, Failure> = answer.documents.into_iter().map(DocumentView::read).collect();
    Ok(Listed { revision: answer.revision, documents: documents? })
}

/// One document.
pub async fn one(admin: &Admin, kind: Kind, name: String) -> Result<DocumentView, Failure> {
    let request = v1::GetDocumentRequest { kind: kind.as_str().to_owned(), name };
    let document = answer(admin.client().get_document(request)).await?.document;
    DocumentView::read(document.ok_or_else(|| Failure::new("the broker's answer holds no document"))?)
}

/// Prints one document.
pub async fn show(admin: &Admin, kind: Kind, name: String, format: Format) -> Result<(), Failure> {
    let document = one(admin, kind, name).await?;
    match format {
        Format::Json => output::json(&document)?,
        Format::Yaml => output::raw(document.yaml.as_bytes()).map(drop)?,
        Format::Table => {
            let DocumentView { revision, applied_at, applied_by, .. } = &document;
            let about = format!(
                "# revision {revision}, applied {} by {}",
                wire::or_dash(*applied_at),
                printable(applied_by)
            );
            let about = format!("{}\n{}", paint(FAINT, &about), stays(&document.spec));
            output::text(&format!("{about}{}", printable(&document.yaml)))?;
        }
    }
    Ok(())
}

/// Documents of one kind.
#[derive(Serialize)]
pub struct Listed {
    pub revision: u64,
    pub documents: Vec<DocumentView>,
}

/// A document as programs read it; the field names are stable.
#[derive(Debug, Serialize)]
pub struct DocumentView {
    pub kind: String,
    pub name: String,
    pub revision: u64,
    pub applied_at: Option<At>,
    pub applied_by: String,
    pub metadata: Value,
    pub spec: Value,
    #[serde(skip)]
    pub yaml: String,
}

impl DocumentView {
    fn read(wire: v1::Document) -> Result<Self, Failure> {
        let mut whole: Value = serde_yaml_ng::from_str(&wire.yaml).map_err(|error| {
            Failure::new(format!("the broker's {}/{} is no YAML", wire.kind, wire.name)).because(&error)
        })?;
        let mut part = |name| whole.get_mut(name).map(Value::take).unwrap_or_default();
        Ok(DocumentView {
            metadata: part("metadata"),
            spec: part("spec"),
            kind: wire.kind,
            name: wire.name,
            revision: wire.revision,
            applied_at: wire::at(wire.applied_at),
            applied_by: wire.applied_by,
            yaml: wire.yaml,
        })
    }
}

/// Documents as a table.
pub fn list(documents: &[DocumentView]) -> String {
    let row = |document: &DocumentView| {
        [
            document.name.clone(),
            labels(document),
            document.revision.to_string(),
            wire::or_dash(document.applied_at),
            document.applied_by.clone(),
        ]
    };
    output::table(["NAME", "LABELS", "REVISION", "APPLIED", "BY"], documents.iter().map(row))
}

/// Documents as they can be applied again.
pub fn yaml(documents: &[DocumentView]) -> String {
    let texts: Vec<&str> = documents.iter().map(|document| document.yaml.as_str()).collect();
    texts.join("---\n")
}

/// What a use of a scope leaves behind, and what that does to its promise; one line, or nothing.
fn stays(spec: &Value) -> String {
    let words = spec.get("leaves_behind").and_then(Value::as_array).into_iter().flatten();
    let words: Vec<&str> = words.filter_map(Value::as_str).collect();
    if words.is_empty() {
        return String::new();
    }
    let line = format!(
        "# leaves behind {}: no end of a task takes that back, so its leases promise expiry_only at best",
        printable(&words.join(", "))
    );
    format!("{}\n", paint(FAINT, &line))
}

fn labels(document: &DocumentView) -> String {
    let labels = document.metadata.get("labels").and_then(Value::as_object);
    let pairs = labels.into_iter().flatten().map(|(name, value)| match value {
        Value::String(value) => format!("{name}={value}"),
        other => format!("{name}={other}"),
    });
    pairs.collect::<Vec<_>>().join(",")
}
