//! The YAML documents of the platform team: `kind: Stage | Scope | Binding | Policy | Node`, checked whole, all faults at once.

mod binding;
mod compile;
mod delegation;
mod fields;
mod node;
mod policy;
mod scope;
mod stage;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub use self::binding::rewritten;
pub use self::compile::{compile, read_policy};
use self::fields::{Fields, Sink};

/// Largest input of one apply.
pub const MAX_INPUT: usize = 1 << 20;
/// Most documents of one apply.
pub const MAX_DOCUMENTS: usize = 2_000;

/// Kinds of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Which identities do what kind of work.
    Stage,
    /// A permission on one target.
    Scope,
    /// Who may use or delegate a scope.
    Binding,
    /// Rego that may deny or narrow what bindings grant.
    Policy,
    /// Which agents may speak for whom.
    Node,
}

impl Kind {
    /// Every kind, in the order they depend on each other.
    pub const ALL: [Kind; 5] = [Kind::Stage, Kind::Scope, Kind::Binding, Kind::Policy, Kind::Node];

    /// The kind's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Stage => "Stage",
            Kind::Scope => "Scope",
            Kind::Binding => "Binding",
            Kind::Policy => "Policy",
            Kind::Node => "Node",
        }
    }

    /// The kind of that name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentKey {
    /// Its kind.
    pub kind: Kind,
    /// `metadata.name`.
    pub name: String,
}

impl fmt::Display for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// A document with a kind, a name and labels; its spec is not yet checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// What names it.
    pub key: DocumentKey,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec`, as written.
    pub spec: Value,
}

/// One fault, with where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which document, counted from 1; 0 if it concerns what is stored or the input as a whole.
    pub document: u32,
    /// `Scope/s3-train-read`, where it is known.
    pub subject: String,
    /// `spec.parameters.dataset.pattern`.
    pub path: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { document, subject, path, problem } = self;
        write!(f, "document {document} ({subject}) {path}: {problem}")
    }
}

impl Document {
    /// The document as RFC 8785 JSON: what is stored, hashed and compared.
    pub fn canonical(&self) -> String {
        serde_json_canonicalizer::to_string(&self.to_value()).expect("a document is plain data")
    }

    /// SHA-256 of the canonical form, hexadecimal.
    pub fn digest(&self) -> String {
        hex(&Sha256::digest(self.canonical()))
    }

    /// The document as YAML, for people.
    pub fn to_yaml(&self) -> String {
        serde_yaml_ng::to_string(&self.to_value()).expect("a document is plain data")
    }

    /// Reads a document back from its canonical form.
    pub fn from_canonical(json: &str) -> Result<Self, Fault> {
        let value = serde_json::from_str(json).map_err(|error| whole_fault(0, error.to_string()))?;
        let mut faults = Vec::new();
        read_envelope(0, value, &mut faults).ok_or_else(|| faults.remove(0))
    }

    fn to_value(&self) -> Value {
        let mut metadata = serde_json::json!({"name": self.key.name});
        if !self.labels.is_empty() {
            metadata["labels"] = serde_json::to_value(&self.labels).expect("labels are text");
        }
        serde_json::json!({"kind": self.key.kind.as_str(), "metadata": metadata, "spec": self.spec})
    }
}

/// Splits YAML into documents. Faults of one document do not hide those of the next.
pub fn parse(yaml: &str) -> (Vec<(u32, Document)>, Vec<Fault>) {
    if yaml.len() > MAX_INPUT {
        let problem = format!("the input has {} bytes; at most {MAX_INPUT} are taken", yaml.len());
        return (Vec::new(), vec![whole_fault(0, problem)]);
    }
    let mut documents = Vec::new();
    let mut faults = Vec::new();
    for (index, source) in serde_yaml_ng::Deserializer::from_str(yaml).enumerate() {
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        if index >= MAX_DOCUMENTS {
            faults.push(whole_fault(number, format!("at most {MAX_DOCUMENTS} documents are taken at once")));
            break;
        }
        match Value::deserialize(source) {
            Ok(Value::Null) => {}
            Ok(value) => {
                documents.extend(read_envelope(number, value, &mut faults).map(|document| (number, document)))
            }
            Err(error) => {
                faults.push(whole_fault(number, format!("malformed YAML: {error}")));
                // After a syntax error the parser cannot tell where the next document begins.
                break;
            }
        }
    }
    let mut seen = BTreeMap::new();
    for (number, document) in &documents {
        if let Some(first) = seen.insert(document.key.clone(), *number) {
            let problem = format!("document {first} has the same kind and name");
            faults.push(Fault {
                document: *number,
                subject: document.key.to_string(),
                path: "metadata.name".to_owned(),
                problem,
            });
        }
    }
    (documents, faults)
}

fn read_envelope(number: u32, value: Value, faults: &mut Vec<Fault>) -> Option<Document> {
    let before = faults.len();
    let mut sink = Sink::new(number, "?".to_owned(), faults);
    let mut whole = Fields::of(value, "", &mut sink)?;
    let kind = whole.text("kind", &mut sink);
    let metadata = whole.required("metadata", &mut sink);
    let spec = whole.required("spec", &mut sink).unwrap_or(Value::Null);
    whole.finish(&mut sink);
    let mut metadata = Fields::of(metadata?, "metadata", &mut sink)?;
    let name = metadata.text("name", &mut sink);
    let labels = metadata.text_map("labels", &mut sink);
    metadata.finish(&mut sink);
    let kind = match kind.as_deref().map(|name| (name, Kind::from_name(name))) {
        Some((_, Some(kind))) => Some(kind),
        Some((other, None)) => {
            let known = Kind::ALL.map(Kind::as_str).join(", ");
            sink.fault("kind", format!("unknown kind {other:?}; the kinds are {known}"));
            None
        }
        None => None,
    };
    let name = name.filter(|name| {
        let legal = is_name(name);
        if !legal {
            sink.fault("metadata.name", "a name holds a-z, 0-9, dot and dash, at most 63".to_owned());
        }
        legal
    });
    let document = Document { key: DocumentKey { kind: kind?, name: name? }, labels, spec };
    for fault in &mut faults[before..] {
        fault.subject = document.key.to_string();
    }
    Some(document)
}

/// Whether a text may name a document: lower-case letters, digits, dot and dash, at most 63.
pub fn is_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    !name.is_empty() && name.len() <= 63 && name.bytes().all(legal) && !name.starts_with(['.', '-'])
}

fn whole_fault(document: u32, problem: String) -> Fault {
    Fault { document, subject: "?".to_owned(), path: String::new(), problem }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
