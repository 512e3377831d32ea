//! Patterns that take in those who came, and no more than the patterns they replace.

use std::collections::BTreeSet;

use crate::pattern::SpiffePattern;
use crate::spiffe::SpiffeId;

/// Most identities that are listed for one pattern; beyond that, segments in which they differ become `*`.
const MOST_LISTED: usize = 16;

/// For each pattern, what of it those took who came. A `*` stands only where the pattern leaves the segment open.
pub(super) fn narrowed<'a>(
    patterns: &[SpiffePattern],
    came: impl Iterator<Item = &'a SpiffeId>,
) -> Vec<SpiffePattern> {
    let mut left: Vec<&SpiffeId> = came.collect();
    let mut narrower = BTreeSet::new();
    for pattern in patterns {
        let (own, others) = left.into_iter().partition(|id| pattern.matches(id));
        left = others;
        narrower.extend(below(pattern, own));
    }
    narrower.into_iter().collect()
}

fn below(pattern: &SpiffePattern, ids: Vec<&SpiffeId>) -> Vec<SpiffePattern> {
    let (fixed, _) = pattern.segments();
    let fixed: Vec<bool> = fixed.map(|segment| segment.is_some()).collect();
    let paths: Vec<Vec<&str>> = ids.iter().map(|id| id.segments().collect()).collect();
    let longest = paths.iter().map(Vec::len).max().unwrap_or_default();
    let mut open: BTreeSet<usize> = BTreeSet::new();
    loop {
        let texts: BTreeSet<String> =
            paths.iter().map(|path| text(pattern.trust_domain(), path, &open)).collect();
        if texts.len() <= MOST_LISTED {
            return texts.iter().filter_map(|text| text.parse().ok()).collect();
        }
        let may_open = |at: &usize| !fixed.get(*at).copied().unwrap_or(false) && !open.contains(at);
        let values = |at: usize| paths.iter().filter_map(|path| path.get(at)).collect::<BTreeSet<_>>().len();
        // Of equals the last: names of jobs and ranks stand behind those of teams.
        match (0..longest).filter(may_open).max_by_key(|at| values(*at)) {
            Some(widest) => open.insert(widest),
            None => return vec![pattern.clone()],
        };
    }
}

fn text(trust_domain: &str, path: &[&str], open: &BTreeSet<usize>) -> String {
    let segment = |(at, segment): (usize, &&str)| match open.contains(&at) {
        true => "/*".to_owned(),
        false => format!("/{segment}"),
    };
    let path: String = path.iter().enumerate().map(segment).collect();
    format!("spiffe://{trust_domain}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(patterns: &[&str], ids: &[String]) -> Vec<String> {
        let patterns: Vec<SpiffePattern> =
            patterns.iter().map(|text| text.parse().expect("a pattern")).collect();
        let ids: Vec<SpiffeId> = ids.iter().map(|text| text.parse().expect("an id")).collect();
        let narrower = narrowed(&patterns, ids.iter());
        for id in &ids {
            assert!(narrower.iter().any(|pattern| pattern.matches(id)), "{id} is left out of {narrower:?}");
        }
        narrower.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn few_are_listed_and_many_share_the_segments_they_have_in_common() {
        let id = |path: &str| format!("spiffe://d/{path}");
        assert_eq!(
            shown(&["spiffe://d/train/**"], &[id("train/a"), id("train/b/c")]),
            ["spiffe://d/train/a", "spiffe://d/train/b/c"]
        );
        let ranks: Vec<String> = (0..64).map(|rank| id(&format!("train/llm/rank-{rank}"))).collect();
        assert_eq!(shown(&["spiffe://d/train/**"], &ranks), ["spiffe://d/train/llm/*"]);
        let both: Vec<String> = (0..64)
            .map(|n| id(&format!("train/{}/rank-{n}", if n % 2 == 0 { "llm" } else { "ads" })))
            .collect();
        assert_eq!(shown(&["spiffe://d/**"], &both), ["spiffe://d/train/ads/*", "spiffe://d/train/llm/*"]);
        assert_eq!(shown(&["spiffe://d/*/llm/*"], &ranks), ["spiffe://d/train/llm/*"]);
    }

    #[test]
    fn a_pattern_that_nobody_came_by_is_gone_and_one_that_all_of_came_stays() {
        let id = |path: &str| format!("spiffe://d/{path}");
        assert_eq!(shown(&["spiffe://d/a", "spiffe://d/b/*"], &[id("a")]), ["spiffe://d/a"]);
        let jobs: Vec<String> = (0..40).map(|n| id(&format!("b/job-{n}"))).collect();
        assert_eq!(shown(&["spiffe://d/b/*"], &jobs), ["spiffe://d/b/*"]);
        let depths: Vec<String> = (1..40).map(|n| id(&vec!["x"; n].join("/"))).collect();
        assert_eq!(shown(&["spiffe://d/**"], &depths), ["spiffe://d/**"], "depths that are too many to list");
    }
}
