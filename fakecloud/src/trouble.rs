//! What goes wrong, when a test says so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::timeline::Propagation;

/// How the cloud behaves until told otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How long changes of role policies take.
    pub propagation: Propagation,
    /// How far the cloud's clock is ahead, in milliseconds.
    pub clock_offset_ms: i64,
    /// Most requests of each second, by action, as `iam:PutRolePolicy`, `iam:*` or `*`; what is more is throttled.
    pub rates: BTreeMap<String, u32>,
    /// Whether STS says `RegionDisabledException`.
    pub is_region_disabled: bool,
    /// Bytes of session policy and tags that fit into a session. AWS publishes no number.
    pub packed_limit: usize,
    /// Whether requests are kept in the log.
    pub keeps_log: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            propagation: Propagation::default(),
            clock_offset_ms: 0,
            rates: BTreeMap::new(),
            is_region_disabled: false,
            packed_limit: 4_096,
            keeps_log: true,
        }
    }
}

/// One kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// "Rate exceeded"; nothing is done.
    Throttle,
    /// This status, as from a machine in between; nothing is done.
    Fail(u16),
    /// The connection is cut; nothing is done.
    LoseRequest,
    /// It is done, and the connection is cut before the answer.
    LoseAnswer,
    /// It is done after so many milliseconds.
    Hold(u64),
    /// It is done, and the answer comes after so many milliseconds.
    Slow(u64),
}

/// Trouble for some requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// For which action: as `iam:PutRolePolicy`, `iam:*` or `*`.
    pub action: String,
    /// What happens.
    pub trouble: Trouble,
    /// To how many requests; without a number, until faults are cleared.
    #[serde(default)]
    pub times: Option<u32>,
}

/// Settings and faults, and how much of the rates is used up.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    pub(crate) settings: Settings,
    pub(crate) faults: Vec<Fault>,
    used: BTreeMap<String, (i64, u32)>,
}

impl Troubles {
    /// What shall happen to this request: the first fault that fits, once.
    pub(crate) fn meet(&mut self, action: &str, now_ms: i64) -> Option<Trouble> {
        let mut is_over = false;
        for (pattern, most) in self.settings.rates.iter().filter(|(pattern, _)| takes(pattern, action)) {
            let second = now_ms.div_euclid(1_000);
            let used = self.used.entry(pattern.clone()).or_default();
            *used = if used.0 == second { (second, used.1.saturating_add(1)) } else { (second, 1) };
            is_over |= used.1 > *most;
        }
        if is_over {
            return Some(Trouble::Throttle);
        }
        let fits = |fault: &Fault| fault.times != Some(0) && takes(&fault.action, action);
        let fault = self.faults.iter_mut().find(|fault| fits(fault))?;
        fault.times = fault.times.map(|times| times - 1);
        Some(fault.trouble)
    }
}

fn takes(pattern: &str, action: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => action.starts_with(start),
        None => pattern == action,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_as_often_as_it_says_and_where_it_says() {
        let fault = |action: &str, trouble, times| Fault { action: action.to_owned(), trouble, times };
        let mut troubles = Troubles {
            faults: vec![
                fault("iam:PutRolePolicy", Trouble::LoseAnswer, Some(1)),
                fault("iam:*", Trouble::Slow(5), None),
            ],
            ..Troubles::default()
        };
        assert_eq!(troubles.meet("sts:GetCallerIdentity", 0), None);
        assert_eq!(troubles.meet("iam:PutRolePolicy", 0), Some(Trouble::LoseAnswer));
        assert_eq!(troubles.meet("iam:PutRolePolicy", 0), Some(Trouble::Slow(5)));
        assert_eq!(troubles.meet("iam:GetRole", 0), Some(Trouble::Slow(5)));
    }

    #[test]
    fn a_rate_counts_each_second_anew() {
        let rates = [("iam:*".to_owned(), 2)].into();
        let mut troubles =
            Troubles { settings: Settings { rates, ..Settings::default() }, ..Troubles::default() };
        let mut at = |ms| troubles.meet("iam:GetRole", ms);
        assert_eq!([at(0), at(1), at(999)], [None, None, Some(Trouble::Throttle)]);
        assert_eq!([at(1_000), at(1_001), at(1_002)], [None, None, Some(Trouble::Throttle)]);
    }
}
