//! Finds what is filed under the patterns that match a SPIFFE ID, without looking at every pattern.

use std::collections::HashMap;

use crate::pattern::SpiffePattern;
use crate::spiffe::SpiffeId;

/// A tree over the segments of patterns. What a look-up visits grows with the segments of the identity and the
/// wildcards on its way, not with the number of patterns.
#[derive(Clone, Debug, Default)]
pub struct PatternIndex<T> {
    trust_domains: HashMap<String, Node<T>>,
}

#[derive(Clone, Debug, Default)]
struct Node<T> {
    exact: HashMap<String, Node<T>>,
    any: Option<Box<Node<T>>>,
    /// Of the pattern that ends here.
    ends: Option<T>,
    /// Of the pattern that goes on with `**` from here.
    open: Option<T>,
}

impl<T: Default> PatternIndex<T> {
    /// What is filed under this very pattern; made if there is nothing yet.
    pub fn entry(&mut self, pattern: &SpiffePattern) -> &mut T {
        let mut node = self.trust_domains.entry(pattern.trust_domain().to_owned()).or_default();
        let (segments, open_ended) = pattern.segments();
        for segment in segments {
            node = match segment {
                Some(text) => node.exact.entry(text.to_owned()).or_default(),
                None => node.any.get_or_insert_default(),
            };
        }
        let place = if open_ended { &mut node.open } else { &mut node.ends };
        place.get_or_insert_default()
    }

    /// Shows what is filed under each pattern that matches.
    pub fn each<'a>(&'a self, id: &SpiffeId, show: &mut impl FnMut(&'a T)) {
        if let Some(root) = self.trust_domains.get(id.trust_domain()) {
            let path = id.as_str().strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
            visit(root, path.map_or("", |(_, path)| path), show);
        }
    }
}

/// `rest` is never empty here: a SPIFFE ID has at least one segment, and the last one returns.
fn visit<'a, T>(node: &'a Node<T>, rest: &str, show: &mut impl FnMut(&'a T)) {
    node.open.iter().for_each(&mut *show);
    let (segment, rest) = match rest.split_once('/') {
        Some((segment, rest)) => (segment, Some(rest)),
        None => (rest, None),
    };
    for next in node.exact.get(segment).into_iter().chain(node.any.as_deref()) {
        match rest {
            Some(rest) => visit(next, rest, show),
            None => next.ends.iter().for_each(&mut *show),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_up_finds_exactly_the_patterns_that_match() {
        let patterns: Vec<SpiffePattern> = [
            "spiffe://d/**",
            "spiffe://d/a",
            "spiffe://d/*",
            "spiffe://d/a/**",
            "spiffe://d/a/b",
            "spiffe://d/*/b",
            "spiffe://d/a/*",
            "spiffe://d/*/*/**",
            "spiffe://d/a/b/c",
            "spiffe://e/a",
            "spiffe://e/**",
        ]
        .map(|text| text.parse().expect("a pattern"))
        .into();
        let mut index = PatternIndex::<Vec<usize>>::default();
        for (number, pattern) in patterns.iter().enumerate() {
            index.entry(pattern).push(number);
        }
        let ids = ["d/a", "d/b", "d/a/b", "d/b/b", "d/a/c", "d/a/b/c", "d/x/y/z/w", "e/a", "e/a/b", "f/a"];
        for id in ids {
            let id: SpiffeId = format!("spiffe://{id}").parse().expect("an id");
            let mut found = Vec::new();
            index.each(&id, &mut |numbers| found.extend(numbers.iter().copied()));
            found.sort_unstable();
            let matching: Vec<usize> = (0..patterns.len()).filter(|n| patterns[*n].matches(&id)).collect();
            assert_eq!(found, matching, "{id}");
        }
    }
}
