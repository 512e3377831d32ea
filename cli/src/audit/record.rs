//! One audit record: as the broker sends it, as it is exported, as it is shown.

use dayfly_client::v1;
use dayfly_domain::audit::Hash;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::output::printable;
use crate::wire::{self, At};

/// A record as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub writer: String,
    pub stream: String,
    pub seq: u64,
    pub prev_hash: Vec<u8>,
    pub hash: Vec<u8>,
    pub at: Option<At>,
    pub bytes: Vec<u8>,
}

impl From<v1::ReadAuditResponse> for Stored {
    fn from(wire: v1::ReadAuditResponse) -> Self {
        Stored {
            writer: wire.writer,
            stream: wire.stream,
            seq: wire.seq,
            prev_hash: wire.prev_hash,
            hash: wire.hash,
            at: wire::at(wire.at),
            bytes: wire.bytes,
        }
    }
}

/// One line of an export. Bytes that are no UTF-8 were never written by a broker, but must not get lost on the way to
/// whoever looks into it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exported {
    writer: String,
    stream: String,
    seq: u64,
    prev_hash: String,
    hash: String,
    /// The record exactly as hashed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes_hex: Option<String>,
}

impl From<Stored> for Exported {
    fn from(stored: Stored) -> Self {
        let (bytes, bytes_hex) = match String::from_utf8(stored.bytes) {
            Ok(text) => (Some(text), None),
            Err(other) => (None, Some(hex(other.as_bytes()))),
        };
        Exported {
            writer: stored.writer,
            stream: stored.stream,
            seq: stored.seq,
            prev_hash: hex(&stored.prev_hash),
            hash: hex(&stored.hash),
            bytes,
            bytes_hex,
        }
    }
}

impl Exported {
    /// Reads one line back, or says what is wrong with it.
    pub fn read(line: &str) -> Result<Stored, String> {
        let Exported { writer, stream, seq, prev_hash, hash, bytes, bytes_hex } =
            serde_json::from_str(line).map_err(|error| error.to_string())?;
        let bytes = match (bytes, bytes_hex) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(digits)) => unhex(&digits).ok_or("bytes_hex is not hexadecimal")?,
            _ => return Err("it has not exactly one of bytes and bytes_hex".to_owned()),
        };
        let prev_hash = unhex(&prev_hash).ok_or("prev_hash is not hexadecimal")?;
        let hash = unhex(&hash).ok_or("hash is not hexadecimal")?;
        Ok(Stored { writer, stream, seq, prev_hash, hash, at: None, bytes })
    }
}

/// A record as programs read it; the field names are stable.
#[derive(Serialize)]
pub struct Shown<'a> {
    writer: &'a str,
    stream: &'a str,
    seq: u64,
    at: Option<At>,
    hash: String,
    /// The record itself; a string if it is no JSON.
    record: Value,
}

impl<'a> Shown<'a> {
    /// Opens the record.
    pub fn of(stored: &'a Stored) -> Self {
        let as_text = |_| Value::String(String::from_utf8_lossy(&stored.bytes).into_owned());
        Shown {
            writer: &stored.writer,
            stream: &stored.stream,
            seq: stored.seq,
            at: stored.at,
            hash: hex(&stored.hash),
            record: serde_json::from_slice(&stored.bytes).unwrap_or_else(as_text),
        }
    }

    /// One line: number, time, event, then the fields.
    pub fn told(&self) -> String {
        let field = |name: &str| self.record.get(name).and_then(Value::as_str).unwrap_or("-");
        let mut line = format!("{:>6}  {}  {}", self.seq, field("at"), field("event"));
        let plain = |name: &str| !matches!(name, "at" | "event" | "stream" | "v");
        for (name, value) in self.record.as_object().into_iter().flatten().filter(|(name, _)| plain(name)) {
            match value {
                Value::String(text) => line.push_str(&format!("  {name}={text}")),
                other => line.push_str(&format!("  {name}={other}")),
            }
        }
        printable(&line).replace(['\n', '\t'], " ")
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hash from hexadecimal.
pub fn hash(digits: &str) -> Option<Hash> {
    unhex(digits)?.try_into().ok()
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| if let [high, low] = pair { Some(digit(high)? << 4 | digit(low)?) } else { None })
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    #[test]
    fn an_exported_record_reads_back_byte_for_byte() {
        for bytes in ["{\"a\":\"ä\\n\"}".as_bytes(), &[0xff, 0x00, 0x7b]] {
            let stored = Stored {
                writer: "b1".into(),
                stream: "lease".into(),
                seq: 7,
                prev_hash: vec![0; 32],
                hash: (0..32).collect(),
                at: None,
                bytes: bytes.to_vec(),
            };
            let line = serde_json::to_string(&Exported::from(stored.clone())).unwrap();
            assert_eq!(Exported::read(&line).unwrap(), stored, "{line}");
        }
    }

    #[test]
    fn a_line_of_another_shape_is_refused() {
        let whole = r#"{"writer":"b","stream":"lease","seq":1,"prev_hash":"00","hash":"00","bytes":"{}"}"#;
        assert!(Exported::read(whole).is_ok());
        for line in [
            "",
            "{}",
            &whole.replace(r#","bytes":"{}""#, ""),
            &whole.replace(r#""prev_hash":"00""#, r#""prev_hash":"0""#),
            &whole.replace(r#""hash":"00""#, r#""hash":"zz""#),
            &whole.replace(r#""seq":1"#, r#""seq":1,"more":2"#),
        ] {
            assert!(Exported::read(line).is_err(), "{line}");
        }
    }
}
