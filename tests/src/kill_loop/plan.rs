//! What each cycle does, drawn from one seed: the same seed gives the same plan, whatever the machine does with it. Pure.
//!
//! Cycles come in decks of 20 that are shuffled as a whole, so that every deck has every crash point that a running agent
//! passes, kills of the server, and kills at any moment. An era is 100 cycles on one cluster and one repository; a host loss
//! stands in its middle, and another, in asynchronous mode, ends it.

use std::time::Duration;

use store::crash::CrashPoint;

use crate::seed::Rng;

/// Cycles on one cluster with one repository.
pub const ERA: u64 = 100;
/// Cycles between two real restores.
pub const RESTORE_EVERY: u64 = 20;
/// Shuffled as a whole.
const DECK: usize = 20;
/// A point that is passed often is armed for one of its first passes: with every commit, or five times a second.
const PASSES_MAX_SYNCHRONOUS: u64 = 20;
const PASSES_MAX_ASYNCHRONOUS: u64 = 5;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    Agent,
    Server,
    Both,
}

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Until its WAL is archived.
    Synchronous,
    /// Until the server has flushed it.
    Asynchronous,
}

/// When it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// This long after the agent was started.
    Starting(Duration),
    /// This long after the agent had archived all that there was.
    Working(Duration),
    /// As before, and this long after a commit was acknowledged.
    AfterCommit(Duration),
    /// When the agent passes this point for the n-th time.
    Point(CrashPoint, u64),
}

/// What is special about a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Kill,
    /// The slot is dropped first, and the agent dies when it has made it again.
    SlotDropped,
    /// Data directory and agent's state are destroyed; the cluster goes on as a restore of the repository.
    HostLoss,
    /// The first life of an agent on the timeline of that restore.
    NewTimeline,
}

/// One cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CyclePlan {
    pub kind: Kind,
    pub victim: Victim,
    pub mode: Mode,
    pub trigger: Trigger,
    /// Of both, the agent dies before the server.
    pub agent_first: bool,
    /// Afterwards the repository is restored and compared.
    pub restore: bool,
}

impl Victim {
    pub const ALL: [Victim; 3] = [Victim::Agent, Victim::Server, Victim::Both];

    pub fn name(self) -> &'static str {
        match self {
            Victim::Agent => "agent",
            Victim::Server => "server",
            Victim::Both => "both",
        }
    }
}

impl Mode {
    pub const ALL: [Mode; 2] = [Mode::Synchronous, Mode::Asynchronous];

    pub fn name(self) -> &'static str {
        match self {
            Mode::Synchronous => "synchronous",
            Mode::Asynchronous => "asynchronous",
        }
    }
}

/// How a point can be reached here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Once in every life of an agent.
    Once,
    /// Again and again under load.
    Often,
    /// In a kind of cycle of its own.
    Special(Kind),
    /// It needs what this loop does not make: another history, a hole.
    Never,
}

/// How a point can be reached here.
pub const fn reach(point: CrashPoint) -> Reach {
    match point {
        CrashPoint::AfterLease | CrashPoint::AfterStreamStart | CrashPoint::BeforeLastStatus => Reach::Once,
        CrashPoint::BeforeEncode
        | CrashPoint::BeforePut
        | CrashPoint::BeforeLink
        | CrashPoint::AfterPut
        | CrashPoint::BeforeStatus
        | CrashPoint::AfterStatus => Reach::Often,
        CrashPoint::AfterHistory => Reach::Special(Kind::NewTimeline),
        CrashPoint::AfterSlot => Reach::Special(Kind::SlotDropped),
        CrashPoint::AfterLineage | CrashPoint::AfterHole => Reach::Never,
    }
}

/// The plan of a seed.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    seed: u64,
}

/// A card of the deck.
#[derive(Debug, Clone, Copy)]
enum Card {
    Point(CrashPoint),
    SlotDropped,
    Moment(Victim),
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The cycle with this number, counted from 0.
    pub fn cycle(&self, number: u64) -> CyclePlan {
        let mut rng = self.rng("cycle", number);
        let in_era = number % ERA;
        let kind = match (in_era + 1, self.card(number)) {
            (half, _) if half == ERA / 2 || half == ERA => Kind::HostLoss,
            (after, _) if after == ERA / 2 + 1 => Kind::NewTimeline,
            (_, Card::SlotDropped) => Kind::SlotDropped,
            _ => Kind::Kill,
        };
        let mode = match kind {
            Kind::HostLoss if in_era + 1 < ERA => Mode::Synchronous,
            Kind::HostLoss => Mode::Asynchronous,
            _ => *rng.pick(&Mode::ALL),
        };
        let (victim, trigger) = match kind {
            Kind::HostLoss if mode == Mode::Synchronous => {
                (Victim::Both, Trigger::AfterCommit(milliseconds(&mut rng, 50)))
            }
            Kind::HostLoss => (Victim::Both, working(&mut rng, 1500)),
            Kind::NewTimeline => (Victim::Agent, Trigger::Point(CrashPoint::AfterHistory, 1)),
            Kind::SlotDropped => (Victim::Agent, Trigger::Point(CrashPoint::AfterSlot, 1)),
            Kind::Kill => strike(&mut rng, self.card(number), mode),
        };
        CyclePlan {
            kind,
            victim,
            mode,
            trigger,
            agent_first: rng.one_in(2),
            restore: (number + 1).is_multiple_of(RESTORE_EVERY) && kind != Kind::HostLoss,
        }
    }

    fn card(&self, number: u64) -> Card {
        let mut deck: Vec<Card> = CrashPoint::ALL
            .into_iter()
            .filter(|point| matches!(reach(*point), Reach::Once | Reach::Often))
            .map(Card::Point)
            .collect();
        deck.push(Card::SlotDropped);
        let mut victims = Victim::ALL.iter().cycle();
        while deck.len() < DECK {
            deck.extend(victims.next().map(|victim| Card::Moment(*victim)));
        }
        let mut rng = self.rng("deck", number / DECK as u64);
        for last in (1..deck.len()).rev() {
            deck.swap(last, rng.below(last as u64 + 1) as usize);
        }
        deck[number as usize % DECK]
    }

    fn rng(&self, what: &str, number: u64) -> Rng {
        let name: u64 = what.bytes().fold(0, |sum, byte| sum * 31 + u64::from(byte));
        Rng::new(self.seed ^ name.rotate_left(32) ^ number.wrapping_mul(0x9E6C_63D0_876A_9A69))
    }
}

fn strike(rng: &mut Rng, card: Card, mode: Mode) -> (Victim, Trigger) {
    match card {
        Card::Point(point) => {
            let victim = if rng.one_in(3) { Victim::Both } else { Victim::Agent };
            let passes = match (reach(point), mode) {
                (Reach::Often, Mode::Synchronous) => rng.between(1, PASSES_MAX_SYNCHRONOUS),
                (Reach::Often, Mode::Asynchronous) => rng.between(1, PASSES_MAX_ASYNCHRONOUS),
                _ => 1,
            };
            (victim, Trigger::Point(point, passes))
        }
        // The last is never drawn for a kind of its own.
        Card::Moment(Victim::Server) | Card::SlotDropped => (Victim::Server, work(rng, mode)),
        Card::Moment(victim) if rng.one_in(3) => (victim, Trigger::Starting(milliseconds(rng, 300))),
        Card::Moment(victim) => (victim, work(rng, mode)),
    }
}

/// In asynchronous mode every other life may last long enough to show that more is lost than may be.
fn work(rng: &mut Rng, mode: Mode) -> Trigger {
    let long = mode == Mode::Asynchronous && rng.one_in(2);
    working(rng, if long { 2000 } else { 600 })
}

fn working(rng: &mut Rng, limit_ms: u64) -> Trigger {
    Trigger::Working(milliseconds(rng, limit_ms))
}

fn milliseconds(rng: &mut Rng, limit: u64) -> Duration {
    Duration::from_micros(rng.between(0, limit * 1000))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn cycles(seed: u64, numbers: std::ops::Range<u64>) -> Vec<CyclePlan> {
        let plan = Plan::new(seed);
        numbers.map(|number| plan.cycle(number)).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_one_another() {
        assert_eq!(cycles(7, 0..250), cycles(7, 0..250));
        assert_ne!(cycles(7, 0..20), cycles(8, 0..20));
        assert_eq!(cycles(7, 90..91)[0], Plan::new(7).cycle(90));
    }

    #[test]
    fn sixty_cycles_arm_every_point_that_can_be_reached() {
        for seed in 0..200 {
            let armed: BTreeSet<&str> = cycles(seed, 0..60)
                .iter()
                .filter_map(|cycle| match cycle.trigger {
                    Trigger::Point(point, _) => Some(point.name()),
                    _ => None,
                })
                .collect();
            let reachable = CrashPoint::ALL.iter().filter(|point| reach(**point) != Reach::Never);
            assert_eq!(armed, reachable.map(|point| point.name()).collect(), "seed {seed}");
        }
    }

    #[test]
    fn two_hundred_cycles_kill_everybody_in_both_modes_at_all_times() {
        let all = cycles(1, 0..200);
        for victim in Victim::ALL {
            for mode in Mode::ALL {
                let alike = all.iter().filter(|cycle| cycle.victim == victim && cycle.mode == mode);
                assert!(alike.count() >= 8, "{victim:?} {mode:?}");
            }
        }
        let starting = |cycle: &&CyclePlan| matches!(cycle.trigger, Trigger::Starting(_));
        assert!(all.iter().filter(starting).count() >= 5);
        let kinds = |kind| all.iter().filter(|cycle| cycle.kind == kind).count();
        assert_eq!((kinds(Kind::HostLoss), kinds(Kind::NewTimeline)), (4, 2));
        assert!(kinds(Kind::SlotDropped) >= 5);
        assert!(all.iter().filter(|cycle| cycle.restore).count() >= 7);
    }

    #[test]
    fn a_host_is_lost_within_50_ms_of_an_acknowledged_commit_in_synchronous_mode() {
        for seed in 0..50 {
            let cycle = Plan::new(seed).cycle(49);
            assert_eq!((cycle.kind, cycle.mode), (Kind::HostLoss, Mode::Synchronous));
            let within = |trigger| matches!(trigger, Trigger::AfterCommit(after) if after <= Duration::from_millis(50));
            assert!(within(cycle.trigger), "{cycle:?}");
            assert_eq!(Plan::new(seed).cycle(99).mode, Mode::Asynchronous);
        }
    }
}
