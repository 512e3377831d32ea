//! Pages of `docs/` that are run as they stand: what they apply is applied, what they type is typed, and what they show
//! is what comes. Each page has a broker of its own, in this process; `dayfly` is the real binary.
//!
//! A page is added with one line in [`pages!`]. In it count, from top to bottom:
//!
//! - ```` ```yaml ```` — applied as the admin `ann`. A fault fails the page.
//! - ```` ```yaml file=NAME ```` (any language) — written as `NAME` into the folder the commands run in; not applied.
//! - ```` ```console ```` — commands and what they print (both streams). `$ dayfly …` runs as the admin
//!   `spiffe://example.org/admin/ann`, who is a root admin; `bob$ dayfly …` as `spiffe://example.org/admin/bob`, who is
//!   what the page's documents make of him. A line that ends in `\` goes on in the next. A command must succeed, unless
//!   the last line below it is `[exit N]`.
//! - `<!-- run … -->` — what workloads do meanwhile; readers do not see it. See [`pages::workload`] for its verbs. What
//!   a verb names is an environment variable of every command below it: `$ dayfly explain $REQUEST`.
//!
//! Other blocks are for readers only.
//!
//! Lines are compared word by word; how many spaces stand between two words is free. `…` stands for anything: within a
//! word for any characters (`01…` is any id), as a word for any words, as a line for any lines.
//!
//! `UPDATE_GOLDEN=1 cargo test -p dayfly --test pages` writes what came into the pages, with `…` for ids, times and
//! digests. Read the diff.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

#[path = "../../broker/tests/world/mod.rs"]
mod world;

mod pages {
    pub mod compare;
    pub mod page;
    pub mod stage;
    pub mod workload;
}

use std::path::{Path, PathBuf};

macro_rules! pages {
    ($($name:ident: $page:literal,)*) => {
        /// Every page that is run, relative to `docs/`.
        const PAGES: &[&str] = &[$($page),*];
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                pages::stage::run(&docs().join($page)).await;
            }
        )*
    };
}

pages! {
    an_example_is_true: "../cli/tests/pages/example.md",
    what_is_loaded_is_asked_before: "authorize.md",
    a_policy_is_tested_applied_and_judges: "policy.md",
    the_page_on_explain_is_true: "questions/explain.md",
    the_page_on_reach_is_true: "questions/reach.md",
    the_page_on_who_can_is_true: "questions/who-can.md",
    the_page_on_review_is_true: "questions/review.md",
    the_page_on_lint_is_true: "questions/lint.md",
    the_page_on_requests_is_true: "questions/request.md",
    the_page_on_simulate_is_true: "questions/simulate.md",
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

#[test]
fn every_page_that_shows_what_comes_is_run() {
    for folder in ["", "questions"] {
        for file in std::fs::read_dir(docs().join(folder)).unwrap().map(|file| file.unwrap().path()) {
            let shows = file.is_file() && std::fs::read_to_string(&file).unwrap().contains("\n```console\n");
            let page = Path::new(folder).join(file.file_name().unwrap());
            let page = page.to_str().unwrap();
            assert!(!shows || PAGES.contains(&page), "add {page} to pages! in {}", std::file!());
        }
    }
}
