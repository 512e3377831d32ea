//! One role at AWS, and a broker that opens, revokes and forgets its sessions.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::super::*;
use super::evaluator::Policy;
use crate::time::{Timestamp, Ttl};

/// How far AWS's clock may be from ours.
pub(super) const SKEW: Ttl = Ttl::seconds(10);
/// How late STS may act on a request.
const LIFE: Ttl = Ttl::minutes(2);
/// How long an old document may still be asked somewhere.
const PROPAGATION: Ttl = Ttl::minutes(5);
const TREES: u32 = 4;

/// A generator that a failing seed can be tried with again (splitmix64).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.next() % u64::from(bound)).expect("below it")
    }

    fn span(&mut self, bound: Ttl) -> Ttl {
        Ttl::millis(self.next() % (bound.as_millis() + 1))
    }
}

/// One session, as the allocator sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) session: Session,
    /// The task tree that owns its block.
    pub(super) tree: u32,
}

/// What is taken of a role's slots, for a session of `tree`.
pub(super) fn blocks(known: &[Known], tree: u32, now: Timestamp) -> Blocks {
    let mut taken = BTreeMap::<Block, BTreeSet<Slot>>::new();
    let mut open = BTreeSet::new();
    for one in known {
        let block = one.session.slot.block();
        taken.entry(block).or_default().insert(one.session.slot);
        let lives = !one.session.revoked && one.session.gone_at > now + LAST_CALL;
        if lives && one.tree == tree {
            open.insert(block);
        }
    }
    let own = open.iter().map(|block| (*block, taken[block].clone())).collect();
    Blocks { taken: taken.into_keys().collect(), own }
}

/// What came about, so that the test can tell that it tested something.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) opened: u32,
    pub(super) refused: u32,
    pub(super) revoked: u32,
    pub(super) collected: u32,
    pub(super) reused: u32,
    pub(super) by_watermark: u32,
    pub(super) by_block: u32,
    pub(super) spared: u32,
}

impl Seen {
    pub(super) fn add(&mut self, other: &Seen) {
        self.opened += other.opened;
        self.refused += other.refused;
        self.revoked += other.revoked;
        self.collected += other.collected;
        self.reused += other.reused;
        self.by_watermark += other.by_watermark;
        self.by_block += other.by_block;
        self.spared += other.spared;
    }
}

/// A session, as the broker knows it and as it is.
#[derive(Debug)]
struct Real {
    known: Known,
    asked: Timestamp,
    /// When STS acts on the request.
    acts: Timestamp,
    ttl: Ttl,
    /// Whether its answer arrives.
    answers: bool,
    /// `aws:TokenIssueTime`, once it is issued.
    issued: Option<i64>,
}

#[derive(Debug)]
struct Placed {
    policy: Policy,
    written: Written,
}

pub(super) struct Role {
    now: Timestamp,
    /// AWS's clock minus ours, in milliseconds.
    offset: i64,
    capacity: Capacity,
    sessions: Vec<Real>,
    /// Documents that may still be asked somewhere; the newest last.
    placed: Vec<Placed>,
    used: HashSet<Slot>,
    pub(super) seen: Seen,
}

impl Role {
    pub(super) fn new(now: Timestamp, capacity: Capacity) -> Self {
        Self {
            now,
            offset: 0,
            capacity,
            sessions: Vec::new(),
            placed: Vec::new(),
            used: HashSet::new(),
            seen: Seen::default(),
        }
    }

    pub(super) fn step(&mut self, random: &mut Random) {
        match random.below(12) {
            0..=4 => (0..=random.below(3)).for_each(|_| self.open(random)),
            5 => self.revoke_some(random),
            6 => self.revoke_tree(random.below(TREES)),
            7 | 8 => self.write(random),
            9 => self.forget(),
            10 => self.pass(random.span(Ttl::seconds(5)), random),
            _ => self.pass(random.span(Ttl::minutes(12)), random),
        }
    }

    fn open(&mut self, random: &mut Random) {
        let state = self.state();
        let count = u32::try_from(state.sessions().len()).expect("few");
        if !self.capacity.admits(count, state.young(), 0) {
            self.seen.refused += 1;
            return;
        }
        let tree = random.below(TREES);
        let known: Vec<Known> = self.sessions.iter().map(|real| real.known).collect();
        let blocks = blocks(&known, tree, self.now);
        let Some(slot) = blocks.allocate(random.below(3)) else { return };
        assert!(known.iter().all(|known| known.session.slot != slot), "{slot} is taken");
        let others = known.iter().filter(|known| known.tree != tree);
        assert!(others.into_iter().all(|known| known.session.slot.block() != slot.block()), "{slot}");
        self.seen.opened += 1;
        self.seen.reused += u32::from(!self.used.insert(slot));
        let ttl = Ttl::millis(900_000 + random.span(Ttl::minutes(30)).as_millis());
        let gone_at = self.now + LIFE + ttl + SKEW + SKEW;
        let session = Session::between(slot, self.now, self.now + LIFE, gone_at, SKEW);
        self.sessions.push(Real {
            known: Known { session, tree },
            asked: self.now,
            acts: self.now + if random.below(3) == 0 { random.span(LIFE) } else { Ttl::ZERO },
            ttl,
            answers: random.below(4) > 0,
            issued: None,
        });
        self.issue();
    }

    /// What STS has acted on by now.
    fn issue(&mut self) {
        let (now, offset) = (self.now, self.offset);
        for real in self.sessions.iter_mut().filter(|real| real.issued.is_none() && real.acts <= now) {
            // By AWS's clock as it is when STS acts, within whole seconds.
            let issued = (real.acts.unix_millis() + offset).div_euclid(1000);
            real.issued = Some(issued);
            if real.answers {
                let session = &mut real.known.session;
                let expires = Timestamp::from_unix_seconds(issued) + real.ttl;
                let told = Session::between(session.slot, real.asked, real.acts, expires + SKEW, SKEW);
                *session = Session { revoked: session.revoked, ..told };
            }
        }
        self.nobody_living_is_denied();
    }

    fn revoke_some(&mut self, random: &mut Random) {
        for real in &mut self.sessions {
            if !real.known.session.revoked && random.below(3) == 0 {
                real.known.session.revoked = true;
                self.seen.revoked += 1;
            }
        }
        self.write(random);
    }

    fn revoke_tree(&mut self, tree: u32) {
        for real in self.sessions.iter_mut().filter(|real| real.known.tree == tree) {
            self.seen.revoked += u32::from(!real.known.session.revoked);
            real.known.session.revoked = true;
        }
    }

    fn write(&mut self, random: &mut Random) {
        self.every_subset_fits(random);
        let document = self.state().document();
        assert!(document.entries() <= usize::try_from(self.capacity.get()).expect("small"));
        let text = document.text();
        let policy = Policy::parse(&text);
        self.seen.by_watermark += u32::from(policy.uses("DateLessThan"));
        self.seen.spared += u32::from(policy.uses("StringNotLike"));
        self.seen.by_block += u32::from(text.contains("*\"]") || text.contains("*\",\""));
        let written = Written { of: self.now, at: self.now + random.span(Ttl::seconds(2)) };
        self.now = written.at;
        self.placed.push(Placed { policy, written });
        let policy = &self.placed.last().expect("just pushed").policy;
        for real in &self.sessions {
            let Some(issued) = real.issued else { continue };
            if self.is_usable(real, issued) && self.knew(real, written.of) {
                let slot = real.known.session.slot.to_string();
                assert_eq!(
                    policy.denies(Some(&slot), issued),
                    real.known.session.revoked,
                    "{slot} at {issued}: {text}"
                );
            }
        }
        assert!(policy.denies(None, self.now.unix_seconds()));
        self.issue();
    }

    fn knew(&self, real: &Real, at: Timestamp) -> bool {
        real.asked <= at
    }

    /// Whether AWS itself would still take it.
    fn is_usable(&self, real: &Real, issued: i64) -> bool {
        let expires = Timestamp::from_unix_seconds(issued) + real.ttl;
        self.now.unix_millis() + self.offset < expires.unix_millis()
    }

    /// Whatever is revoked next, its document fits: tried with subsets that are random, and with those that are worst.
    fn every_subset_fits(&self, random: &mut Random) {
        let sessions = self.state().sessions().to_vec();
        let mut by_age = sessions.clone();
        by_age.sort_by_key(|session| session.earliest);
        let half = by_age.len() / 2;
        let choices: [&mut dyn FnMut(usize) -> bool; 4] = [
            &mut |_| random.below(2) == 0,
            &mut |index| index % 2 == 0,
            &mut |index| index >= half,
            &mut |index| index < half,
        ];
        for choice in choices {
            let revoked = |(index, session): (usize, &Session)| {
                let revoked = session.revoked || choice(index);
                Session { revoked, ..*session }
            };
            let state = State::at(self.now, SKEW, by_age.iter().enumerate().map(revoked));
            let entries = state.document().entries();
            assert!(entries <= usize::try_from(self.capacity.get()).expect("small"), "{entries}: {state:?}");
        }
    }

    fn forget(&mut self) {
        let written = self.placed.last().map(|placed| placed.written);
        let before = self.sessions.len();
        let now = self.now;
        self.sessions.retain(|real| {
            let forgotten = real.known.session.is_forgettable(written, now, PROPAGATION);
            let usable = real.issued.is_some_and(|issued| {
                let expires = Timestamp::from_unix_seconds(issued) + real.ttl;
                now.unix_millis() + self.offset < expires.unix_millis()
            });
            assert!(!(forgotten && usable), "{:?} is forgotten and works", real.known);
            !forgotten
        });
        self.seen.collected += u32::try_from(before - self.sessions.len()).expect("few");
    }

    fn pass(&mut self, span: Ttl, random: &mut Random) {
        // Requests in flight are acted on at their own time, by the clock of that time.
        let until = self.now + span;
        while let Some(next) =
            self.sessions.iter().filter(|real| real.issued.is_none()).map(|real| real.acts).min()
        {
            if next > until {
                break;
            }
            self.now = self.now.max(next);
            self.issue();
        }
        self.now = until;
        let skew = i64::try_from(SKEW.as_millis()).expect("small");
        // Both directions, and a little less than it may be: the broker's moments are rounded to milliseconds.
        self.offset = i64::from(random.below(u32::try_from(2 * skew - 1).expect("small"))) - (skew - 1);
        let newest = self.placed.len().saturating_sub(1);
        let old =
            self.placed.iter().skip(1).take_while(|next| next.written.at + PROPAGATION <= until).count();
        self.placed.drain(..old.min(newest));
        self.nobody_living_is_denied();
    }

    /// By no document that may still be asked somewhere.
    fn nobody_living_is_denied(&self) {
        for real in self.sessions.iter().filter(|real| !real.known.session.revoked) {
            let Some(issued) = real.issued.filter(|issued| self.is_usable(real, *issued)) else { continue };
            let slot = real.known.session.slot.to_string();
            for placed in &self.placed {
                assert!(
                    !placed.policy.denies(Some(&slot), issued),
                    "{slot} of {issued} lives and is denied at {}: {real:?} {:?}",
                    self.now,
                    placed
                );
            }
        }
    }

    fn state(&self) -> State {
        State::at(self.now, SKEW, self.sessions.iter().map(|real| real.known.session))
    }
}
