use proptest::prelude::*;

use super::*;

const SILENCE: Silence = Silence { quiet_after: Ttl::seconds(10), lapse_after: Ttl::seconds(30) };
const LIMITS: BrakeLimits =
    BrakeLimits { nodes: 50, percent: 20, window: Ttl::minutes(1), longest: Ttl::hours(1) };
const LONG_AGO: Timestamp = Timestamp::from_unix_seconds(0);
const START: Timestamp = Timestamp::from_unix_seconds(100_000);

fn id(number: usize) -> SpiffeId {
    format!("spiffe://example.org/node/n{number}").parse().expect("an id")
}

/// A fleet whose brake is judged twice a second, as the broker does.
struct Fleet {
    nodes: Vec<NodeHeard>,
    cut_off: Vec<bool>,
    phase: Vec<u64>,
    hearing: Hearing,
    brake: Brake,
    now: Timestamp,
    engaged: u32,
}

impl Fleet {
    fn new(phases: &[u64]) -> Self {
        let node = |number| NodeHeard {
            node: id(number),
            epoch: 1,
            last_seen_at: START,
            state: NodeState::Attached,
        };
        Self {
            nodes: (0..phases.len()).map(node).collect(),
            cut_off: vec![false; phases.len()],
            phase: phases.to_vec(),
            hearing: Hearing::since(LONG_AGO),
            brake: Brake::default(),
            now: START,
            engaged: 0,
        }
    }

    fn run(&mut self, span: Ttl) {
        let until = self.now + span;
        while self.now < until {
            self.now = self.now + Ttl::millis(500);
            for number in 0..self.nodes.len() {
                let node = &mut self.nodes[number];
                // A heartbeat every five seconds, each node at its own moment. One that lapsed attaches anew.
                let beats = self.now.unix_millis().unsigned_abs() % 5_000 == self.phase[number] % 10 * 500;
                if beats && !self.cut_off[number] {
                    node.last_seen_at = self.now;
                    node.state = NodeState::Attached;
                }
            }
            self.sweep();
        }
    }

    fn sweep(&mut self) {
        let verdict = judge(&self.nodes, SILENCE, LIMITS, self.hearing, &self.brake, self.now);
        let lapse: Vec<SpiffeId> = verdict.lapse.into_iter().cloned().collect();
        match verdict.change {
            Some(Change::Engage) => {
                self.engaged += 1;
                self.brake.engaged_at = Some(self.now);
            }
            Some(Change::Lift) => self.brake.engaged_at = None,
            Some(Change::Expire) => self.release(),
            None => {}
        }
        for node in self.nodes.iter_mut().filter(|node| lapse.contains(&node.node)) {
            node.state = NodeState::Lapsed;
        }
    }

    fn release(&mut self) {
        self.brake.engaged_at = None;
        self.brake.released_at = Some(self.now);
    }

    fn cut(&mut self, how_many: usize) {
        self.cut_off.iter_mut().take(how_many).for_each(|cut| *cut = true);
    }

    fn lapsed(&self) -> usize {
        self.nodes.iter().filter(|node| node.state == NodeState::Lapsed).count()
    }
}

fn too_many(silent: usize, of: usize) -> bool {
    silent >= 3 && (silent > 50 || silent * 100 > 20 * of)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// At whatever moments their heartbeats come: a cut through many ends nothing until it is released, and then all; a cut
    /// through few ends all of them in time.
    #[test]
    fn a_cut_through_many_ends_nobody_and_one_through_few_ends_all(
        phases in prop::collection::vec(0_u64..10, 1..120),
        share in 0.0_f64..1.0,
    ) {
        let of = phases.len();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a share of a small number")]
        let cut = (of as f64 * share) as usize;
        let mut fleet = Fleet::new(&phases);
        fleet.run(Ttl::seconds(20));
        fleet.cut(cut);
        fleet.run(Ttl::seconds(36));
        if !too_many(cut, of) {
            prop_assert_eq!((fleet.lapsed(), fleet.engaged), (cut, 0));
            return Ok(());
        }
        prop_assert_eq!((fleet.lapsed(), fleet.engaged), (0, 1));
        fleet.run(Ttl::minutes(4));
        prop_assert_eq!((fleet.lapsed(), fleet.engaged), (0, 1), "it does not tire");
        fleet.release();
        fleet.run(Ttl::seconds(1));
        prop_assert_eq!(fleet.lapsed(), cut);
        fleet.run(Ttl::minutes(3));
        prop_assert_eq!(fleet.engaged, 1, "those that lapsed do not brake again");
    }

    /// Whatever the figures: what is judged is silent and attached, each once; a brake that holds lets nobody through.
    #[test]
    fn only_the_silent_are_judged_and_each_once(
        nodes in prop::collection::vec((0_u64..200, any::<bool>()), 0..60),
        from in 0_u64..200,
        engaged in prop::option::of(0_u64..200),
        released in prop::option::of(0_u64..200),
    ) {
        let now = START;
        let ago = |seconds| now - Ttl::seconds(seconds);
        let node = |(number, &(silent, lapsed)): (usize, &(u64, bool))| NodeHeard {
            node: id(number),
            epoch: 1,
            last_seen_at: ago(silent),
            state: if lapsed { NodeState::Lapsed } else { NodeState::Attached },
        };
        let heard: Vec<NodeHeard> = nodes.iter().enumerate().map(node).collect();
        let brake = Brake { engaged_at: engaged.map(ago), released_at: released.map(ago), released_by: String::new() };
        let hearing = Hearing::since(ago(from));
        let verdict = judge(&heard, SILENCE, LIMITS, hearing, &brake, now);
        let mut judged: Vec<&SpiffeId> = verdict.lapse.iter().chain(&verdict.held).copied().collect();
        let mut due: Vec<&SpiffeId> = heard
            .iter()
            .filter(|node| node.state == NodeState::Attached && now > node.last_seen_at + SILENCE.lapse_after)
            .map(|node| &node.node)
            .collect();
        judged.sort();
        due.sort();
        prop_assert_eq!(judged, due);
        if engaged.is_some() && released.is_none() {
            prop_assert!(verdict.lapse.is_empty(), "it holds");
        }
        prop_assert_eq!(verdict.why.is_some(), !verdict.held.is_empty());
        if heard.len() <= 2 && engaged.is_none() {
            prop_assert!(verdict.why != Some(HoldReason::ManySilent), "a fleet of two lapses as it should");
        }
    }
}

#[test]
fn nodes_that_come_back_lift_the_brake() {
    let mut fleet = Fleet::new(&[0; 10]);
    fleet.cut(5);
    fleet.run(Ttl::seconds(60));
    assert!(fleet.brake.engaged_at.is_some());
    fleet.cut_off = vec![false; 10];
    fleet.run(Ttl::seconds(10));
    assert_eq!((fleet.brake.engaged_at, fleet.lapsed()), (None, 0));
}

#[test]
fn a_brake_lets_go_after_its_longest_hold() {
    let mut fleet = Fleet::new(&[0; 10]);
    fleet.cut(10);
    fleet.run(LIMITS.longest);
    assert_eq!(fleet.lapsed(), 0);
    fleet.run(Ttl::seconds(40));
    assert_eq!((fleet.lapsed(), fleet.engaged), (10, 1));
}

#[test]
fn after_its_own_outage_the_broker_listens_first_and_then_counts_who_did_not_come_back() {
    for (gone, lapsed) in [(2, 2), (7, 0)] {
        let mut fleet = Fleet::new(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
        fleet.now = fleet.now + Ttl::hours(1);
        fleet.hearing = fleet.hearing.after_outage(fleet.now, SILENCE.lapse_after, LIMITS.longest);
        fleet.sweep();
        assert_eq!(fleet.lapsed(), 0, "nobody was heard, and nobody is blamed");
        fleet.cut(gone);
        fleet.run(Ttl::seconds(40));
        assert_eq!(fleet.lapsed(), lapsed, "{gone} did not come back");
    }
}

#[test]
fn a_broker_that_is_deaf_again_and_again_does_not_listen_for_ever() {
    let mut hearing = Hearing::since(START);
    for outage in 1..1_000 {
        hearing =
            hearing.after_outage(START + Ttl::seconds(outage * 20), SILENCE.lapse_after, LIMITS.longest);
    }
    assert_eq!(hearing.from, START + LIMITS.longest);
    let later = START + Ttl::hours(9);
    assert_eq!(
        hearing.after_outage(later, SILENCE.lapse_after, LIMITS.longest).from,
        later,
        "another episode"
    );
}

#[test]
fn nothing_is_given_through_an_older_epoch_a_silent_node_or_a_lapsed_one() {
    let heard = NodeHeard { node: id(1), epoch: 3, last_seen_at: START, state: NodeState::Attached };
    let lapse_after = SILENCE.lapse_after;
    assert!(heard.speaks(3, START + lapse_after, lapse_after));
    assert!(!heard.speaks(2, START, lapse_after) && !heard.speaks(0, START, lapse_after));
    assert!(!heard.speaks(3, START + lapse_after + Ttl::millis(1), lapse_after));
    let lapsed = NodeHeard { state: NodeState::Lapsed, ..heard };
    assert!(!lapsed.speaks(3, START, lapse_after));
}
