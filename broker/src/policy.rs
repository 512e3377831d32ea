//! From stored policies to the judge that the rules carry. Policies are loaded whole, each time the rules are.

use std::any::Any;
use std::sync::Arc;

use dayfly_domain::document::{Document, Fault, Kind, read_policy};
use dayfly_domain::policy::PolicySource;
use dayfly_domain::rules::Rules;
use dayfly_policy::{PolicyFault, PolicySet};

/// Loads the policies among the documents, their own tests included, or tells every fault. What the rules in force have
/// loaded from the very same document is not loaded again. Documents that are no policies by their form are passed over:
/// compiling tells of them.
///
/// On a thread of its own, since tests may run for a while.
pub async fn load(documents: &[(u32, Document)], in_force: Arc<Rules>) -> Result<Arc<PolicySet>, Vec<Fault>> {
    let policies = documents.iter().filter(|(_, document)| document.key.kind == Kind::Policy);
    let (numbers, sources): (Vec<u32>, Vec<PolicySource>) = policies
        .filter_map(|(number, document)| Some((*number, read_policy(*number, document).ok()?)))
        .unzip();
    let names: Vec<String> = sources.iter().map(|source| source.name.clone()).collect();
    let loading = tokio::task::spawn_blocking(move || {
        let earlier = in_force.judge().and_then(|judge| (&**judge as &dyn Any).downcast_ref::<PolicySet>());
        PolicySet::reload(&sources, earlier.unwrap_or(&PolicySet::default()))
    });
    let number =
        |policy: &str| names.iter().position(|name| name == policy).map_or(0, |index| numbers[index]);
    match loading.await {
        Ok(Ok(set)) => Ok(Arc::new(set)),
        Ok(Err(faults)) => Err(faults.iter().map(|fault| told(number(&fault.policy), fault)).collect()),
        // Nothing of what was not loaded may be left out of a decision.
        Err(error) => Err(vec![Fault {
            document: 0,
            subject: Kind::Policy.to_string(),
            path: String::new(),
            problem: format!("loading the policies did not end: {error}"),
        }]),
    }
}

/// The rules with these policies loaded.
pub fn judged_by(rules: Rules, policies: Arc<PolicySet>) -> Rules {
    if rules.policies().is_empty() { rules } else { rules.with_judge(policies) }
}

fn told(document: u32, fault: &PolicyFault) -> Fault {
    Fault {
        document,
        subject: format!("{}/{}", Kind::Policy, fault.policy),
        path: fault.path(),
        problem: fault.to_string(),
    }
}
