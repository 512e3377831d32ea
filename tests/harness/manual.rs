//! Reads the tables of `docs/` and what the code says in their place, so that tests can hold the two together.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use dayfly_domain::time::Ttl;

/// Crates whose fixed times and limits the table of defaults tells.
const CRATES: [&str; 4] = ["domain", "broker", "agent", "client"];

/// A default as a number and what it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// A span of time.
    Time(Ttl),
    /// Bytes, or a plain count.
    Count(u64),
}

impl From<Ttl> for Amount {
    fn from(span: Ttl) -> Self {
        Amount::Time(span)
    }
}

impl From<Duration> for Amount {
    fn from(span: Duration) -> Self {
        Amount::Time(span.into())
    }
}

impl From<u32> for Amount {
    fn from(count: u32) -> Self {
        Amount::Count(count.into())
    }
}

impl From<u64> for Amount {
    fn from(count: u64) -> Self {
        Amount::Count(count)
    }
}

impl From<usize> for Amount {
    fn from(count: usize) -> Self {
        Amount::Count(u64::try_from(count).expect("a limit fits 64 bits"))
    }
}

impl Amount {
    /// `1h`, `30s`, `64 KiB`, `1000`.
    fn read(text: &str) -> Option<Self> {
        let (count, bits) = match text.split_once(' ') {
            Some((count, "KiB")) => (count, 10),
            Some((count, "MiB")) => (count, 20),
            Some(_) => return None,
            None => (text, 0),
        };
        match count.parse::<u64>() {
            Ok(count) => Some(Amount::Count(count << bits)),
            Err(_) => text.parse().ok().map(Amount::Time),
        }
    }
}

impl fmt::Display for Amount {
    /// As the table writes it: `1h`, `30s`, `64 KiB`, `1000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Amount::Time(span) => span.fmt(f),
            Amount::Count(count) if count >= 1 << 20 && count.is_multiple_of(1 << 20) => {
                write!(f, "{} MiB", count >> 20)
            }
            Amount::Count(count) if count >= 1 << 10 && count.is_multiple_of(1 << 10) => {
                write!(f, "{} KiB", count >> 10)
            }
            Amount::Count(count) => count.fmt(f),
        }
    }
}

/// A row of the table of default times and limits in `docs/operating.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultRow {
    /// The key, or the constant.
    pub name: String,
    /// Its value.
    pub default: Amount,
    /// `broker.toml`, `agent.toml`, a kind of document, or the file of a constant.
    pub place: String,
}

impl DefaultRow {
    /// A row as the code would have it.
    pub fn new(name: impl Into<String>, default: impl Into<Amount>, place: impl Into<String>) -> Self {
        Self { name: name.into(), default: default.into(), place: place.into() }
    }
}

impl fmt::Display for DefaultRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| `{}` | {} | {} |", self.name, self.default, self.place)
    }
}

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file of the repository.
///
/// # Errors
/// When it cannot be read.
pub fn file(path: impl AsRef<Path>) -> anyhow::Result<String> {
    let path = root().join(path);
    std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))
}

/// The cells of the table below a heading, without its head. Backticks around a whole cell are taken off.
///
/// # Errors
/// When there is no such file, heading or table.
pub fn table(page: &str, heading: &str) -> anyhow::Result<Vec<Vec<String>>> {
    let text = file(page)?;
    let mut lines = text.lines().skip_while(|line| line.trim_start_matches('#').trim() != heading);
    ensure!(lines.next().is_some(), "{page} has no heading {heading:?}");
    let below = lines.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let rows = below.skip(2).map(|line| {
        let line = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')).unwrap_or(line);
        line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    ensure!(!rows.is_empty(), "{page} has no table below {heading:?}");
    Ok(rows)
}

/// The table of default times and limits.
///
/// # Errors
/// When it is not there, or a row has too few cells.
pub fn defaults() -> anyhow::Result<Vec<DefaultRow>> {
    let rows = table("docs/operating.md", "Default times and limits")?;
    let read = |cells: Vec<String>| {
        let [name, default, place, _what] = &cells[..] else {
            bail!("a row with {} cells: {cells:?}", cells.len())
        };
        let default =
            Amount::read(default).with_context(|| format!("{name}: {default:?} is no time or number"))?;
        Ok(DefaultRow::new(name, default, place))
    };
    rows.into_iter().map(read).collect()
}

/// Panics unless the rows of these places are exactly the expected ones, in any order.
///
/// # Panics
/// With every row to add and every row to take out.
pub fn assert_defaults(places: &[&str], expected: &[DefaultRow]) {
    let rows = defaults().unwrap_or_else(|error| panic!("{error:#}"));
    let told: BTreeSet<String> =
        rows.iter().filter(|row| places.contains(&row.place.as_str())).map(ToString::to_string).collect();
    let expected: BTreeSet<String> = expected.iter().map(ToString::to_string).collect();
    let missing: Vec<&String> = expected.difference(&told).collect();
    let stray: Vec<&String> = told.difference(&expected).collect();
    assert!(
        missing.is_empty() && stray.is_empty(),
        "docs/operating.md, default times and limits: the code also says {missing:#?}, and does not say {stray:#?}"
    );
}

/// A constant of the code that is a time or a number.
#[derive(Clone, Debug)]
pub struct Constant {
    /// Its name, its value and its file, as a row.
    pub row: DefaultRow,
    /// Whether it is a span of time.
    pub is_time: bool,
}

/// Every constant with a time or a plain number outside tests.
///
/// # Errors
/// When a file cannot be read.
pub fn constants() -> anyhow::Result<Vec<Constant>> {
    let mut found = Vec::new();
    for path in sources(&CRATES)? {
        let text = shipped(&file(&path)?);
        found.extend(text.split("const ").skip(1).filter_map(|rest| constant(rest, &path)));
    }
    Ok(found)
}

/// Rust files of these crates, tests left out, relative to the root.
///
/// # Errors
/// When a folder cannot be read.
pub fn sources(crates: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    for name in crates {
        walk(&root(), &format!("{name}/src"), &mut files)?;
    }
    files.retain(|path| {
        let of_tests = ["tests.rs", "testkit.rs", "contract.rs"].iter().any(|name| path.ends_with(name));
        path.ends_with(".rs") && !of_tests && !path.contains("/tests/") && !path.contains("/contract/")
    });
    files.sort();
    Ok(files)
}

fn walk(root: &Path, folder: &str, files: &mut Vec<String>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(root.join(folder)).with_context(|| folder.to_owned())? {
        let entry = entry?;
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            walk(root, &path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// A source without its tests, which stand last.
#[must_use]
pub fn shipped(source: &str) -> String {
    source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
}

/// `NAME: Type = expression;`
fn constant(rest: &str, path: &str) -> Option<Constant> {
    let (name, rest) = rest.split_once(':')?;
    let (kind, rest) = rest.split_once('=')?;
    let (expression, _) = rest.split_once(';')?;
    if !name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_') {
        return None;
    }
    let is_time = match kind.trim().rsplit("::").next()? {
        "Duration" | "Ttl" => true,
        "usize" | "u64" | "u32" => false,
        _ => return None,
    };
    Some(Constant { row: DefaultRow::new(name, amount(expression.trim())?, path), is_time })
}

/// The few forms in which constants are written.
fn amount(expression: &str) -> Option<Amount> {
    let within = |head: &str| expression.strip_prefix(head)?.strip_suffix(')').and_then(number);
    for (head, unit) in [
        ("from_millis(", 1),
        ("from_secs(", 1000),
        ("millis(", 1),
        ("seconds(", 1000),
        ("minutes(", 60_000),
        ("hours(", 3_600_000),
    ] {
        for kind in ["Duration::", "std::time::Duration::", "Ttl::"] {
            if let Some(count) = within(&format!("{kind}{head}")) {
                return Some(Amount::Time(Ttl::millis(count * unit)));
            }
        }
    }
    number(expression).map(Amount::Count)
}

/// `16 * 1024`, `1 << 20`, `5_000`.
fn number(text: &str) -> Option<u64> {
    let plain = |text: &str| text.trim().replace('_', "").parse::<u64>().ok();
    if let Some((number, bits)) = text.split_once("<<") {
        return plain(number)?.checked_shl(u32::try_from(plain(bits)?).ok()?);
    }
    text.split('*')
        .map(plain)
        .try_fold(1, |product, factor| factor.and_then(|factor| factor.checked_mul(product)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_read_as_they_are_written() {
        let read = |text: &str| constant(text, "x.rs").map(|found| found.row.to_string());
        assert_eq!(read("A: Ttl = Ttl::hours(14 * 24);").as_deref(), Some("| `A` | 14d | x.rs |"));
        assert_eq!(
            read("B: Duration = Duration::from_millis(1800);").as_deref(),
            Some("| `B` | 1s800ms | x.rs |")
        );
        assert_eq!(read("C: usize = 64 * 1024;").as_deref(), Some("| `C` | 64 KiB | x.rs |"));
        assert_eq!(read("D: usize = 1 << 20;").as_deref(), Some("| `D` | 1 MiB | x.rs |"));
        assert_eq!(read("E: u32 = 5_000;").as_deref(), Some("| `E` | 5000 | x.rs |"));
        assert_eq!(read("F: &str = \"6\";"), None);
        assert_eq!(read("fn f(x: u32) -> u32 { x = 3; }"), None);
    }
}
