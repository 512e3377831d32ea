//! What a bench tells: a table for people, a line of JSON per case for programs.

use std::io::Write as _;
use std::time::Duration;

use serde::Serialize;

/// Latencies of one kind.
#[derive(Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Adds those of another.
    pub fn merge(&mut self, other: Times) {
        self.0.extend(other.0);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest of them that at least this share does not exceed (nearest rank), in milliseconds; 0 of none.
    pub fn percentile_ms(&self, percent: usize) -> f64 {
        rounded(self.percentile(percent).as_secs_f64() * 1e3)
    }

    /// The same, as it was measured.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }

    /// The longest, in milliseconds.
    pub fn max_ms(&self) -> f64 {
        self.percentile_ms(100)
    }
}

/// One case: ours, and the peer's beside it if there is one.
#[derive(Debug, Serialize)]
pub struct Case {
    /// `exchange`, `revoke`, `memory` or `decide`.
    pub bench: &'static str,
    /// Which case of it.
    pub case: String,
    /// Unit of `ours` and `theirs`.
    pub unit: &'static str,
    /// Our figure.
    pub ours: f64,
    /// The peer with its version, and its figures.
    #[serde(flatten)]
    pub peer: Option<Peer>,
    /// Our latencies.
    #[serde(flatten)]
    pub latency: Option<Latency>,
}

/// The peer's figures of a case.
#[derive(Debug, Serialize)]
pub struct Peer {
    /// `vault 1.19.5`.
    pub peer: String,
    /// Its figure.
    pub theirs: f64,
    /// Ours to theirs.
    pub ratio: f64,
}

/// Latencies of a case, ours and the peer's.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Ours, half of them.
    pub p50_ms: f64,
    /// Ours, all but one of a hundred.
    pub p99_ms: f64,
    /// The peer's, half of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_p50_ms: Option<f64>,
    /// The peer's, all but one of a hundred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_p99_ms: Option<f64>,
}

impl Case {
    /// A figure without a peer.
    pub fn alone(bench: &'static str, case: impl Into<String>, unit: &'static str, ours: f64) -> Self {
        Self { bench, case: case.into(), unit, ours: rounded(ours), peer: None, latency: None }
    }

    /// A figure without a peer, with the latencies it comes from.
    pub fn timed(
        bench: &'static str,
        case: impl Into<String>,
        unit: &'static str,
        ours: f64,
        times: &Times,
    ) -> Self {
        let latency = Latency {
            p50_ms: times.percentile_ms(50),
            p99_ms: times.percentile_ms(99),
            peer_p50_ms: None,
            peer_p99_ms: None,
        };
        Self { latency: Some(latency), ..Self::alone(bench, case, unit, ours) }
    }

    /// A figure beside a peer's.
    pub fn beside(
        bench: &'static str,
        case: impl Into<String>,
        unit: &'static str,
        (ours, times): (f64, &Times),
        peer: &str,
        (theirs, their_times): (f64, &Times),
    ) -> Self {
        let ratio = rounded(ours / theirs);
        let latency = Latency {
            p50_ms: times.percentile_ms(50),
            p99_ms: times.percentile_ms(99),
            peer_p50_ms: Some(their_times.percentile_ms(50)),
            peer_p99_ms: Some(their_times.percentile_ms(99)),
        };
        Self {
            peer: Some(Peer { peer: peer.to_owned(), theirs: rounded(theirs), ratio }),
            latency: Some(latency),
            ..Self::alone(bench, case, unit, ours)
        }
    }

    fn cells(&self) -> [String; 10] {
        let dash = || "-".to_owned();
        let figure = |figure: f64| format!("{figure:.3}");
        let peer = self.peer.as_ref();
        let latency = self.latency.as_ref();
        [
            self.case.clone(),
            self.unit.to_owned(),
            figure(self.ours),
            peer.map_or_else(dash, |peer| peer.peer.clone()),
            peer.map_or_else(dash, |peer| figure(peer.theirs)),
            peer.map_or_else(dash, |peer| figure(peer.ratio)),
            latency.map_or_else(dash, |latency| figure(latency.p50_ms)),
            latency.map_or_else(dash, |latency| figure(latency.p99_ms)),
            latency.and_then(|latency| latency.peer_p50_ms).map_or_else(dash, figure),
            latency.and_then(|latency| latency.peer_p99_ms).map_or_else(dash, figure),
        ]
    }
}

const HEAD: [&str; 10] =
    ["case", "unit", "ours", "peer", "theirs", "ratio", "p50 ms", "p99 ms", "peer p50 ms", "peer p99 ms"];

/// All cases of a run, and what else there is to know.
#[derive(Debug, Default)]
pub struct Report {
    /// The cases, in order.
    pub cases: Vec<Case>,
    /// Sentences under the table.
    pub notes: Vec<String>,
}

impl Report {
    /// The table on standard output, or JSON there and the table on standard error.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            say(&format!("{}\n", self.table()));
            let mut out = std::io::stdout().lock();
            for case in &self.cases {
                writeln!(out, "{}", serde_json::to_string(case)?)?;
            }
        } else {
            writeln!(std::io::stdout().lock(), "{}", self.table())?;
        }
        Ok(())
    }

    fn table(&self) -> String {
        let head = HEAD.map(str::to_owned);
        let rows: Vec<[String; 10]> =
            std::iter::once(head).chain(self.cases.iter().map(Case::cells)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
        let mut lines = vec![String::new()];
        for row in &rows {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
                0 | 1 | 3 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            lines.push(cells.collect::<Vec<_>>().join("  "));
        }
        lines.push(String::new());
        lines.extend(self.notes.iter().cloned());
        lines.join("\n")
    }
}

/// Tells a person how far the run is.
pub fn say(line: &str) {
    // Who closed standard error does not want to know.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

fn rounded(figure: f64) -> f64 {
    (figure * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(millis: impl IntoIterator<Item = u64>) -> Times {
        Times(millis.into_iter().map(Duration::from_millis).collect())
    }

    #[test]
    fn percentiles_are_the_nearest_rank() {
        let hundred = times((1..=100).rev());
        assert_eq!([50, 99, 100].map(|percent| hundred.percentile_ms(percent)), [50.0, 99.0, 100.0]);
        assert_eq!(times([7]).percentile_ms(50), 7.0);
        assert_eq!(times([]).percentile_ms(99), 0.0);
    }

    #[test]
    fn a_case_is_one_flat_line() {
        let (ours, theirs) = (times([1, 2]), times([4, 8]));
        let case = Case::beside("exchange", "token/1", "1/s", (10.0, &ours), "vault 1", (4.0, &theirs));
        assert_eq!(
            serde_json::to_string(&case).expect("plain data"),
            r#"{"bench":"exchange","case":"token/1","unit":"1/s","ours":10.0,"peer":"vault 1","theirs":4.0,"ratio":2.5,"p50_ms":1.0,"p99_ms":2.0,"peer_p50_ms":4.0,"peer_p99_ms":8.0}"#
        );
        let alone = serde_json::to_string(&Case::alone("memory", "agent", "MB", 1.5)).expect("plain data");
        assert_eq!(alone, r#"{"bench":"memory","case":"agent","unit":"MB","ours":1.5}"#);
    }
}
