//! Proposals as files that `dayfly apply` takes. What should go is named in comments: nothing removes a document but who
//! keeps it.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use super::view::{BindingView, Review, Verdict};
use crate::failure::Failure;

/// What to remove, beside the proposals of a folder. No document has such a name.
const REMOVALS: &str = "_remove.yaml";

/// Everything in one text.
pub fn whole(review: &Review) -> String {
    let documents = review.bindings.iter().filter_map(document);
    let parts: Vec<String> = removals(review).into_iter().chain(documents).collect();
    parts.join("---\n")
}

/// Writes new files, and says what was written. What is there already is somebody's, and stays as it is.
pub fn write(path: &Path, review: &Review) -> Result<String, Failure> {
    let narrower = review.bindings.iter().filter(|one| one.proposal.is_some());
    let (narrower, removed) = (narrower.count(), unneeded(review).count());
    if narrower + removed == 0 {
        return Ok("nothing is proposed, so nothing was written".to_owned());
    }
    if path.is_dir() {
        let removals = removals(review).map(|text| (REMOVALS.to_owned(), text));
        let documents = review
            .bindings
            .iter()
            .filter_map(|one| Some((format!("{}.yaml", one.bound.binding), document(one)?)));
        for (name, text) in documents.chain(removals) {
            // Names come from the broker. Those of documents are plain.
            if name.contains('/') {
                return Err(Failure::new(format!("{name:?} is no name of a document")));
            }
            create(&path.join(name), &text)?;
        }
    } else {
        create(path, &whole(review))?;
    }
    Ok(format!("{}: {narrower} narrower, {removed} to remove (named in comments)", path.display()))
}

/// The document, below what it takes away.
fn document(one: &BindingView) -> Option<String> {
    let yaml = one.proposal.as_ref()?;
    let taken: String = one.taken.iter().map(|taken| format!("# {}\n", one_line(taken))).collect();
    Some(format!("{taken}{}", yaml.trim_start_matches("---\n")))
}

fn removals(review: &Review) -> Option<String> {
    let lines: String = unneeded(review)
        .map(|(one, why)| format!("# remove Binding/{}: {why}\n", one_line(&one.bound.binding)))
        .collect();
    (!lines.is_empty()).then_some(lines)
}

fn unneeded(review: &Review) -> impl Iterator<Item = (&BindingView, String)> {
    review.bindings.iter().filter_map(|one| {
        let why = match one.verdict {
            Verdict::RemoveUnused => match review.since {
                Some(since) => format!("not used since {since}"),
                None => "not used".to_owned(),
            },
            Verdict::RemoveEnded => "its end is past".to_owned(),
            Verdict::Keep | Verdict::Narrow | Verdict::Undeclare | Verdict::Withheld => return None,
        };
        Some((one, why))
    })
}

/// What comes from elsewhere must not end a comment.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn create(path: &Path, text: &str) -> Result<(), Failure> {
    let written = OpenOptions::new().write(true).create_new(true).open(path);
    written.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
        let failure = Failure::new(format!("cannot write {}", path.display()));
        match error.kind() {
            ErrorKind::AlreadyExists => {
                failure.because(&error).next("name a new file, or a folder without it")
            }
            _ => failure.because(&error).next("name a folder that is there, or a new file in one"),
        }
    })
}
