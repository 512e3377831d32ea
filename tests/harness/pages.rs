//! What the pages of `docs/` show a reader, for tests that do what a reader would.

use std::path::Path;

use anyhow::Context;

/// The first block of shell commands under a heading of a page: `token-exchange.md`, `## For itself`.
///
/// # Errors
/// When there is no such page, or no such block on it.
pub fn shell_example(page: &str, heading: &str) -> anyhow::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let below = text.split_once(&format!("\n{heading}\n"));
    let (_, below) = below.with_context(|| format!("{page} has no heading {heading}"))?;
    let (_, rest) = below.split_once("```sh\n").with_context(|| format!("{page} shows no shell commands"))?;
    let (block, _) = rest.split_once("\n```").with_context(|| format!("a block of {page} does not end"))?;
    Ok(block.to_owned())
}
