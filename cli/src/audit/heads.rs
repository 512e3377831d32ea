//! Heads of chains: what a verification leaves behind for the next one.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use dayfly_domain::audit::Verifier;
use serde::{Deserialize, Serialize};

use super::PerChain;
use super::record::{Stored, hash, hex};
use crate::failure::Failure;

/// The last record of one chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// `decision`, `lease` or `admin`.
    pub stream: String,
    /// Which broker wrote the chain.
    pub writer: String,
    /// Number of the last record.
    pub seq: u64,
    /// Its hash, hexadecimal.
    pub hash: String,
}

/// The heads of all chains: what is kept in a file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heads {
    /// In the order of stream and writer.
    pub heads: Vec<Head>,
}

/// Why a chain does not hold.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// `decision`, `lease` or `admin`.
    pub stream: String,
    /// Which broker wrote the chain.
    pub writer: String,
    /// What is wrong.
    pub fault: String,
}

impl Broken {
    /// In one line.
    pub fn told(&self) -> String {
        format!("{} of {}: {}", self.stream, self.writer, self.fault)
    }
}

/// Walks all chains at once and holds them against the heads that were kept.
#[derive(Debug, Default)]
pub struct Chains {
    walked: PerChain<Verifier>,
    /// The first fault of each chain; what follows it says nothing.
    faults: PerChain<String>,
    expected: PerChain<(u64, String)>,
    met: BTreeSet<(String, String)>,
    /// The beginning of the hash of each record walked, for what other chains say of it.
    hashes: PerChain<Vec<[u8; 8]>>,
    witnessed: Vec<Witnessed>,
}

/// A head that another broker saw.
#[derive(Debug)]
struct Witnessed {
    head: Head,
    by: String,
    /// Whether it was told before the chains were read: then it must be among them.
    before: bool,
}

/// The event of a record that tells where chains of other brokers stand.
const WITNESS: &str = "audit.witness";

/// What such a record tells.
#[derive(Deserialize)]
struct Witness {
    event: String,
    #[serde(default)]
    heads: Vec<Head>,
}

impl Chains {
    /// Every one of these heads must stand in its chain.
    pub fn expecting(kept: impl Iterator<Item = Head>) -> Self {
        let expected = kept.map(|head| ((head.stream, head.writer), (head.seq, head.hash))).collect();
        Chains { expected, ..Chains::default() }
    }

    /// Takes the next record of its chain.
    pub fn take(&mut self, stored: &Stored) {
        let chain = (stored.stream.clone(), stored.writer.clone());
        if self.faults.contains_key(&chain) {
            return;
        }
        let verifier = self.walked.entry(chain.clone()).or_default();
        if let Err(fault) = verifier.take(stored.seq, &stored.prev_hash, &stored.hash, &stored.bytes) {
            self.faults.insert(chain, fault.to_string());
            return;
        }
        let begins = verifier.head.first_chunk().copied().unwrap_or_default();
        self.hashes.entry(chain.clone()).or_default().push(begins);
        match self.expected.get(&chain) {
            Some((seq, kept)) if *seq == verifier.seq => {
                if hash(kept) == Some(verifier.head) {
                    self.met.insert(chain);
                } else {
                    let fault =
                        format!("record {seq} is not the one whose hash was kept: the chain was rewritten");
                    self.faults.insert(chain, fault);
                }
            }
            _ => {}
        }
        self.hear(stored, false);
    }

    /// Takes what a record says of other chains, before those are read.
    pub fn hear_before(&mut self, stored: &Stored) {
        self.hear(stored, true);
    }

    fn hear(&mut self, stored: &Stored, before: bool) {
        // Few records are of this kind, and reading one as JSON takes long.
        if !stored.bytes.windows(WITNESS.len()).any(|part| part == WITNESS.as_bytes()) {
            return;
        }
        if let Ok(witness) = serde_json::from_slice::<Witness>(&stored.bytes)
            && witness.event == WITNESS
        {
            let seen = |head| Witnessed { head, by: stored.writer.clone(), before };
            self.witnessed.extend(witness.heads.into_iter().map(seen));
        }
    }

    /// Holds every chain of the streams that were read against what other brokers saw of it.
    fn ask_witnesses(&mut self) {
        let read: BTreeSet<String> = self.walked.keys().map(|(stream, _)| stream.clone()).collect();
        for Witnessed { head, by, before } in std::mem::take(&mut self.witnessed) {
            let chain = (head.stream.clone(), head.writer.clone());
            if !read.contains(&head.stream) || self.faults.contains_key(&chain) || head.seq == 0 {
                continue;
            }
            let place = usize::try_from(head.seq - 1).unwrap_or(usize::MAX);
            let found = self.hashes.get(&chain).and_then(|hashes| hashes.get(place));
            let seq = head.seq;
            let fault = match found {
                Some(found) if hash(&head.hash).is_some_and(|seen| seen.starts_with(found)) => continue,
                Some(_) => format!("record {seq} is not the one that {by} saw: the chain was rewritten"),
                None if before => {
                    format!("record {seq}, which {by} saw, is gone: the chain's end was cut off")
                }
                // It may have been written after that chain was read.
                None => continue,
            };
            self.faults.insert(chain, fault);
        }
    }

    /// The heads found, and every chain that does not hold.
    pub fn finish(mut self) -> (Heads, Vec<Broken>) {
        self.ask_witnesses();
        for (chain, (seq, _)) in &self.expected {
            if !self.met.contains(chain) && !self.faults.contains_key(chain) && *seq > 0 {
                let last = self.walked.get(chain).map_or(0, |verifier| verifier.seq);
                let fault = format!(
                    "it ends at record {last}, but record {seq} was there before: its end was cut off"
                );
                self.faults.insert(chain.clone(), fault);
            }
        }
        let head = |((stream, writer), verifier): ((String, String), Verifier)| {
            let Verifier { seq, head } = verifier;
            Head { stream, writer, seq, hash: hex(&head) }
        };
        let broken = self
            .faults
            .into_iter()
            .map(|((stream, writer), fault)| Broken { stream, writer, fault })
            .collect();
        (Heads { heads: self.walked.into_iter().map(head).collect() }, broken)
    }
}

/// Reads heads that were kept.
pub fn read(path: &Path) -> Result<Heads, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(format!("cannot read the heads in {}", path.display())).because(&error)
    })?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::new(format!("{} holds no heads", path.display()))
            .because(&error)
            .next("give a file that `dayfly audit verify --write-heads` wrote")
    })
}

/// Keeps heads. The file is replaced whole, so that a crash leaves the old one.
pub fn write(path: &Path, heads: &Heads) -> Result<(), Failure> {
    let cannot = |error: std::io::Error| {
        Failure::new(format!("cannot write the heads to {}", path.display())).because(&error)
    };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut bytes = serde_json::to_vec_pretty(heads).expect("texts and numbers are plain data");
    bytes.push(b'\n');
    let mut file = std::fs::File::create(&beside).map_err(cannot)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(cannot)?;
    std::fs::rename(&beside, path).map_err(cannot)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use dayfly_domain::audit::{GENESIS, chain};

    use super::*;

    fn records(texts: &[&str]) -> Vec<Stored> {
        let mut previous = GENESIS;
        let record = |(seq, text): (u64, &&str)| {
            let hash = chain(&previous, text.as_bytes());
            let stored = Stored {
                writer: "b1".into(),
                stream: "lease".into(),
                seq,
                prev_hash: previous.to_vec(),
                hash: hash.to_vec(),
                at: None,
                bytes: text.as_bytes().to_vec(),
            };
            previous = hash;
            stored
        };
        (1..).zip(texts).map(record).collect()
    }

    fn verify(kept: &Heads, records: &[Stored]) -> (Heads, Vec<Broken>) {
        let mut chains = Chains::expecting(kept.heads.iter().cloned());
        records.iter().for_each(|stored| chains.take(stored));
        chains.finish()
    }

    #[test]
    fn a_later_chain_must_extend_the_head_that_was_kept() {
        let (kept, broken) = verify(&Heads::default(), &records(&["a", "b"]));
        assert_eq!((kept.heads[0].seq, broken.len()), (2, 0));

        let (later, broken) = verify(&kept, &records(&["a", "b", "c"]));
        assert_eq!((later.heads[0].seq, broken.len()), (3, 0));

        let (_, broken) = verify(&kept, &records(&["a", "x", "c"]));
        assert!(broken[0].fault.contains("rewritten"), "{broken:?}");

        let (_, broken) = verify(&kept, &records(&["a"]));
        assert!(broken[0].fault.contains("cut off"), "{broken:?}");

        let (_, broken) = verify(&kept, &[]);
        assert!(broken[0].fault.contains("ends at record 0"), "{broken:?}");
    }

    #[test]
    fn each_writers_chain_stands_for_itself() {
        let mut both = records(&["a", "b"]);
        both.extend(records(&["c"]).into_iter().map(|stored| Stored { writer: "b2".into(), ..stored }));
        both[1].bytes = b"changed".to_vec();
        let (heads, broken) = verify(&Heads::default(), &both);
        assert_eq!(heads.heads.len(), 2);
        assert_eq!(broken.len(), 1);
        assert_eq!(broken[0].told(), "lease of b1: record 2 was changed after it was written");
    }

    #[test]
    fn a_chain_must_hold_what_another_broker_saw_of_it() {
        let chain = records(&["a", "b", "c"]);
        let seen = |seq: usize| {
            let head = serde_json::json!({
                "writer": "b1", "stream": "lease", "seq": seq, "hash": hex(&chain[seq - 1].hash),
            });
            let text = serde_json::json!({"event": WITNESS, "heads": [head]}).to_string();
            let of_another = |stored| Stored { writer: "b2".into(), stream: "admin".into(), ..stored };
            records(&[text.as_str()]).into_iter().map(of_another).next().unwrap()
        };
        let verify = |witness: &Stored, before: bool, texts: &[&str]| {
            let mut chains = Chains::default();
            if before {
                chains.hear_before(witness);
            }
            records(texts).iter().for_each(|stored| chains.take(stored));
            chains.take(witness);
            chains.finish().1
        };
        assert!(verify(&seen(2), true, &["a", "b", "c"]).is_empty());
        // Rewritten from end to end, so that the chain holds by itself.
        let broken = verify(&seen(2), false, &["a", "x", "c"]);
        assert_eq!(
            broken[0].told(),
            "lease of b1: record 2 is not the one that b2 saw: the chain was rewritten"
        );
        let broken = verify(&seen(3), true, &["a", "b"]);
        assert!(broken[0].fault.contains("cut off"), "{broken:?}");
        assert!(verify(&seen(3), false, &["a", "b"]).is_empty(), "written after the chain was read, perhaps");
    }

    #[test]
    fn heads_read_back_as_written() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("heads.json");
        let (heads, _) = verify(&Heads::default(), &records(&["a"]));
        write(&path, &heads).unwrap();
        assert_eq!(read(&path).unwrap(), heads);
        std::fs::write(&path, "{}").unwrap();
        assert!(read(&path).is_err());
    }
}
