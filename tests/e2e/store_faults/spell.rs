//! Which faults a spell of misbehaviour is made of.

use std::time::{Duration, Instant};

use tests::fault_s3::{Fault, Method, Rule};
use tests::seed::Rng;

/// What can strike often.
const FREQUENT: [Fault; 12] = [
    Fault::DropBefore,
    Fault::DropAfter,
    Fault::InternalError,
    Fault::ErrorAfter,
    Fault::SlowDown,
    Fault::TimeTooSkewed,
    Fault::ExpiredToken,
    Fault::Conflict,
    Fault::EchoOfItself,
    Fault::ErrorInSuccess,
    Fault::EmptySuccess,
    Fault::DamagedOnTheWay,
];

/// Of a GET. Few: a connect compares up to sixteen objects and begins again when one of them cannot be read.
const OF_BODIES: [Fault; 3] = [Fault::BodyBreaksOff, Fault::BodyTooShort, Fault::BodyFlipped];

/// Rules that together strike 30 to 60 of a hundred requests.
pub(crate) fn draw(rng: &mut Rng) -> Vec<Rule> {
    let delay = Fault::Delay(Duration::from_millis(rng.between(10, 1000)));
    let mut rules = vec![
        // These few end a session or keep an upload busy, so that hardly a request would be made if they were many.
        Rule::new(Fault::AccessDenied).times(rng.below(3)),
        Rule::new(Fault::BlackHole).times(rng.below(3)),
        Rule::new(Fault::Hold).on(Method::Put).percent(5).times(rng.below(5)),
        Rule::new(Fault::ListAsOf(Instant::now())).percent(30),
        Rule::new(delay).percent(5),
    ];
    rules.extend(OF_BODIES.map(|fault| Rule::new(fault).percent(3)));
    let mut kinds = FREQUENT.to_vec();
    while kinds.len() as u64 > rng.between(4, 12) {
        let gone = rng.below(kinds.len() as u64) as usize;
        kinds.swap_remove(gone);
    }
    // Each strikes what the ones before it have left.
    let wanted = rng.between(30, 60) as f64 / 100.0;
    let each = 1.0 - (1.0 - wanted).powf(1.0 / kinds.len() as f64);
    let percent = (each * 100.0).round() as u64;
    rules.extend(kinds.into_iter().map(|fault| Rule::new(fault).percent(percent)));
    rules
}
