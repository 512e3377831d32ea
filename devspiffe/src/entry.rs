//! Which process gets which SPIFFE ID.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use spiffe::{SpiffeId, TrustDomain};

use crate::attest::{Facts, PinnedProcess};
use crate::error::EntryError;

/// Gives a SPIFFE ID to every process that matches all of its selectors.
///
/// As in SPIRE, several entries may match one process; it then gets several SVIDs, in the order of the entries.
/// An entry without a selector would match everything and is refused.
///
/// ```
/// # fn main() -> Result<(), dayfly_devspiffe::EntryError> {
/// use dayfly_devspiffe::Entry;
/// let trainer = Entry::new("spiffe://dev.dayfly/training/trainer")?.uid(1000).path("/usr/bin/python3");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// The identity that matching processes get.
    pub spiffe_id: SpiffeId,
    /// Matches the process's effective user id.
    pub uid: Option<u32>,
    /// Matches the process's effective group id.
    pub gid: Option<u32>,
    /// Matches the file that the process executes. Symbolic links are followed; a file that was replaced since the
    /// process started no longer matches. The executable of a script is its interpreter: two scripts look alike.
    ///
    /// Without root, the kernel shows it only for one's own processes, and not for one that is not dumpable.
    pub path: Option<PathBuf>,
    /// Matches one process, as long as it lives.
    pub process: Option<Process>,
    /// Tells a workload with several SVIDs what this one is for; empty for no hint.
    pub hint: String,
    /// DNS names that its X.509-SVIDs carry beside the SPIFFE ID, for clients that know a server by its host name.
    pub dns_names: Vec<String>,
    /// The life of X.509-SVIDs, where it differs from the server's.
    pub x509_ttl: Option<Duration>,
    /// The life of JWT-SVIDs, where it differs from the server's.
    pub jwt_ttl: Option<Duration>,
}

impl Entry {
    /// Begins an entry; it needs at least one selector.
    ///
    /// # Errors
    /// When the text is not a SPIFFE ID with a path.
    pub fn new(spiffe_id: &str) -> Result<Self, EntryError> {
        let spiffe_id = SpiffeId::new(spiffe_id)
            .map_err(|source| EntryError::SpiffeId { text: spiffe_id.to_owned(), source })?;
        if spiffe_id.path().is_empty() {
            return Err(EntryError::NoPath { spiffe_id });
        }
        Ok(Self {
            spiffe_id,
            uid: None,
            gid: None,
            path: None,
            process: None,
            hint: String::new(),
            dns_names: Vec::new(),
            x509_ttl: None,
            jwt_ttl: None,
        })
    }

    /// Matches only processes with this effective user id.
    #[must_use]
    pub fn uid(self, uid: u32) -> Self {
        Self { uid: Some(uid), ..self }
    }

    /// Matches only processes with this effective group id.
    #[must_use]
    pub fn gid(self, gid: u32) -> Self {
        Self { gid: Some(gid), ..self }
    }

    /// Matches only processes that execute this file.
    #[must_use]
    pub fn path(self, path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()), ..self }
    }

    /// Matches only this one process. The pid is turned into a handle now, so a later process that is given the
    /// same number does not match.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn process(self, pid: u32) -> Result<Self, EntryError> {
        Ok(Self { process: Some(Process::pin(pid)?), ..self })
    }

    /// Gives its SVIDs a hint.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// Adds a DNS name to its X.509-SVIDs.
    #[must_use]
    pub fn dns(mut self, name: impl Into<String>) -> Self {
        self.dns_names.push(name.into());
        self
    }

    /// Gives its X.509- and JWT-SVIDs a life of their own; at least a second.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { x509_ttl: Some(ttl), jwt_ttl: Some(ttl), ..self }
    }

    pub(crate) fn check(&self, trust_domain: &TrustDomain) -> Result<(), EntryError> {
        if !self.spiffe_id.is_member_of(trust_domain) {
            let trust_domain = trust_domain.clone();
            return Err(EntryError::Foreign { spiffe_id: self.spiffe_id.clone(), trust_domain });
        }
        let has_selector =
            self.uid.is_some() || self.gid.is_some() || self.path.is_some() || self.process.is_some();
        if !has_selector {
            return Err(EntryError::NoSelector { spiffe_id: self.spiffe_id.clone() });
        }
        Ok(())
    }

    pub(crate) fn matches(&self, facts: &Facts) -> bool {
        self.uid.is_none_or(|uid| facts.uid == Some(uid))
            && self.gid.is_none_or(|gid| facts.gid == Some(gid))
            && self.path.as_deref().is_none_or(|path| is_same_file(path, facts.path.as_deref()))
            && self.process.as_ref().is_none_or(|process| process.is(facts))
    }
}

/// One process, told apart from any later one with the same pid.
#[derive(Clone, Debug)]
pub struct Process(Arc<PinnedProcess>);

impl Process {
    /// Takes hold of a running process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn pin(pid: u32) -> Result<Self, EntryError> {
        let pid = i32::try_from(pid).unwrap_or(-1);
        let process = PinnedProcess::open(pid).map_err(|source| EntryError::NoSuchProcess { pid, source })?;
        Ok(Self(Arc::new(process)))
    }

    /// While the pinned process lives, its pid is nobody else's.
    fn is(&self, facts: &Facts) -> bool {
        facts.pid == Some(self.0.pid()) && self.0.is_alive()
    }
}

fn is_same_file(wanted: &Path, seen: Option<&Path>) -> bool {
    // The kernel shows the executable without symbolic links.
    let resolved = std::fs::canonicalize(wanted);
    seen.is_some_and(|seen| resolved.is_ok_and(|resolved| resolved == seen))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use std::process::{Command, Stdio};

    use super::*;

    fn facts() -> Facts {
        Facts { pid: Some(7), uid: Some(1000), gid: Some(100), path: Some("/bin/sh".into()) }
    }

    #[test]
    fn every_selector_must_match() {
        let shell = std::fs::canonicalize("/bin/sh").unwrap();
        let facts = Facts { path: Some(shell), ..facts() };
        let entry = || Entry::new("spiffe://dev.dayfly/a").unwrap();
        assert!(entry().uid(1000).gid(100).path("/bin/sh").matches(&facts));
        assert!(!entry().uid(1001).gid(100).path("/bin/sh").matches(&facts));
        assert!(!entry().uid(1000).gid(101).path("/bin/sh").matches(&facts));
        assert!(!entry().uid(1000).gid(100).path("/bin/true").matches(&facts));
        assert!(!entry().path("/no/such/file").matches(&facts));
    }

    #[test]
    fn what_is_not_known_does_not_match() {
        let nothing = Facts { pid: None, uid: None, gid: None, path: None };
        let entry = || Entry::new("spiffe://dev.dayfly/a").unwrap();
        assert!(!entry().uid(0).matches(&nothing));
        assert!(!entry().gid(0).matches(&nothing));
        assert!(!entry().path("/bin/sh").matches(&nothing));
        assert!(!entry().process(std::process::id()).unwrap().matches(&nothing));
    }

    #[test]
    fn a_pinned_process_matches_until_it_ends() {
        let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let entry = Entry::new("spiffe://dev.dayfly/a").unwrap().process(child.id()).unwrap();
        let facts = Facts { pid: Some(pid), ..facts() };
        assert!(entry.matches(&facts));
        assert!(!entry.matches(&Facts { pid: Some(pid + 1), ..facts.clone() }));

        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!entry.matches(&facts), "the number may be somebody else's by now");
    }

    #[test]
    fn entries_that_would_match_everything_or_belong_elsewhere_are_refused() {
        let here = TrustDomain::new("dev.dayfly").unwrap();
        let entry = Entry::new("spiffe://dev.dayfly/a").unwrap();
        assert!(matches!(entry.check(&here), Err(EntryError::NoSelector { .. })));
        let entry = Entry::new("spiffe://elsewhere/a").unwrap().uid(0);
        assert!(matches!(entry.check(&here), Err(EntryError::Foreign { .. })));
        assert!(matches!(Entry::new("spiffe://dev.dayfly"), Err(EntryError::NoPath { .. })));
        assert!(matches!(Entry::new("dev.dayfly/a"), Err(EntryError::SpiffeId { .. })));
    }
}
