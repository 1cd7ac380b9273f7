//! What can go wrong with a request, and the rules that say with which.

use std::time::{Duration, Instant};

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    Put,
    Get,
    Head,
    List,
    Delete,
}

/// One way in which a store misbehaves. What it leaves behind is said of a PUT; other requests change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It happens later.
    Delay(Duration),
    /// It happens when it is released ([`super::Faults::release`]), also if the client has gone by then.
    Hold,
    /// The connection breaks; it has not happened.
    DropBefore,
    /// It happens, then the connection breaks: the answer is lost.
    DropAfter,
    /// 500; it has not happened.
    InternalError,
    /// 500, although it happened.
    ErrorAfter,
    /// 503 SlowDown.
    SlowDown,
    /// 403 AccessDenied.
    AccessDenied,
    /// 403 RequestTimeTooSkewed.
    TimeTooSkewed,
    /// 400 ExpiredToken.
    ExpiredToken,
    /// 409 ConditionalRequestConflict.
    Conflict,
    /// It happens and is answered with 412: something on the way has sent it twice and passes on the second answer.
    EchoOfItself,
    /// 200 with an error in its body; it has not happened.
    ErrorInSuccess,
    /// 200 with nothing in it, not even a tag of the object; it has not happened.
    EmptySuccess,
    /// The bytes arrive damaged, and the store notices (400 BadDigest); it has not happened.
    DamagedOnTheWay,
    /// Stored with one bit flipped, answered with 200.
    StoredFlipped,
    /// Only the first half is stored, answered with 200.
    StoredShort,
    /// Only the first half is stored, then the connection breaks.
    CutOff,
    /// Stored with one bit flipped, then the connection breaks.
    Garbled,
    /// `If-None-Match` is accepted and ignored: an object that is there is overwritten.
    ConditionIgnored,
    /// The body breaks off before the announced length.
    BodyBreaksOff,
    /// The body is shorter than the object, and announced like that.
    BodyTooShort,
    /// One bit of the body is flipped.
    BodyFlipped,
    /// The listing is as it was then.
    ListAsOf(Instant),
    /// No answer, ever. It has not happened.
    BlackHole,
}

impl Fault {
    /// A word for counters and reports.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Delay(_) => "delay",
            Fault::Hold => "hold",
            Fault::DropBefore => "drop_before",
            Fault::DropAfter => "drop_after",
            Fault::InternalError => "internal_error",
            Fault::ErrorAfter => "error_after",
            Fault::SlowDown => "slow_down",
            Fault::AccessDenied => "access_denied",
            Fault::TimeTooSkewed => "time_too_skewed",
            Fault::ExpiredToken => "expired_token",
            Fault::Conflict => "conflict",
            Fault::EchoOfItself => "echo_of_itself",
            Fault::ErrorInSuccess => "error_in_success",
            Fault::EmptySuccess => "empty_success",
            Fault::DamagedOnTheWay => "damaged_on_the_way",
            Fault::StoredFlipped => "stored_flipped",
            Fault::StoredShort => "stored_short",
            Fault::CutOff => "cut_off",
            Fault::Garbled => "garbled",
            Fault::ConditionIgnored => "condition_ignored",
            Fault::BodyBreaksOff => "body_breaks_off",
            Fault::BodyTooShort => "body_too_short",
            Fault::BodyFlipped => "body_flipped",
            Fault::ListAsOf(_) => "stale_list",
            Fault::BlackHole => "black_hole",
        }
    }

    fn can_happen_to(self, method: Method) -> bool {
        match self {
            Fault::Conflict
            | Fault::EchoOfItself
            | Fault::EmptySuccess
            | Fault::DamagedOnTheWay
            | Fault::StoredFlipped
            | Fault::StoredShort
            | Fault::CutOff
            | Fault::Garbled
            | Fault::ConditionIgnored => method == Method::Put,
            Fault::BodyBreaksOff | Fault::BodyTooShort | Fault::BodyFlipped => method == Method::Get,
            Fault::ListAsOf(_) => method == Method::List,
            // A HEAD has no body.
            Fault::ErrorInSuccess => method != Method::Head,
            _ => true,
        }
    }
}

/// How often a rule strikes among the requests that it is for.
#[derive(Debug, Clone, Copy)]
enum Often {
    Always,
    /// Each n-th, the first one first.
    EveryNth(u64),
    /// So many of a hundred, drawn from the run's seed.
    Percent(u64),
}

/// A fault and the requests that it strikes.
#[derive(Debug, Clone)]
pub struct Rule {
    fault: Fault,
    method: Option<Method>,
    key_part: String,
    often: Often,
    times: u64,
    seen: u64,
}

impl Rule {
    /// Strikes every request that it can happen to.
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            method: None,
            key_part: String::new(),
            often: Often::Always,
            times: u64::MAX,
            seen: 0,
        }
    }

    /// Only this method.
    #[must_use]
    pub fn on(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    /// Only keys (for a listing, prefixes) with this in them.
    #[must_use]
    pub fn key(mut self, part: &str) -> Self {
        part.clone_into(&mut self.key_part);
        self
    }

    /// At most so often.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Every n-th only.
    #[must_use]
    pub fn every(mut self, n: u64) -> Self {
        self.often = Often::EveryNth(n);
        self
    }

    /// So many of a hundred, by chance.
    #[must_use]
    pub fn percent(mut self, percent: u64) -> Self {
        self.often = Often::Percent(percent);
        self
    }

    /// The fault, if it strikes this request; `draw` gives a number below its argument.
    pub(super) fn strike(&mut self, method: Method, key: &str, draw: impl FnOnce(u64) -> u64) -> Option<Fault> {
        let is_for_it = self.method.is_none_or(|only| only == method)
            && self.fault.can_happen_to(method)
            && key.contains(&self.key_part);
        if !is_for_it || self.times == 0 {
            return None;
        }
        self.seen += 1;
        let strikes = match self.often {
            Often::Always => true,
            Often::EveryNth(n) => self.seen % n == 1 % n,
            Often::Percent(percent) => draw(100) < percent,
        };
        if !strikes {
            return None;
        }
        self.times -= 1;
        Some(self.fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strikes(rule: &mut Rule, requests: &[(Method, &str)]) -> Vec<bool> {
        let strike = |(method, key): &(Method, &str)| rule.strike(*method, key, |_| 50).is_some();
        requests.iter().map(strike).collect()
    }

    #[test]
    fn a_rule_strikes_its_requests_as_often_as_it_says() {
        let wal = [(Method::Put, "p/wal/1"); 4];
        assert_eq!(
            strikes(&mut Rule::new(Fault::Hold).times(2), &wal),
            [true, true, false, false]
        );
        assert_eq!(
            strikes(&mut Rule::new(Fault::Hold).every(2), &wal),
            [true, false, true, false]
        );
        assert_eq!(strikes(&mut Rule::new(Fault::Hold).every(1), &wal), [true; 4]);
        assert_eq!(strikes(&mut Rule::new(Fault::Hold).percent(50), &wal), [false; 4]);
        assert_eq!(strikes(&mut Rule::new(Fault::Hold).percent(51), &wal), [true; 4]);
        assert_eq!(strikes(&mut Rule::new(Fault::Hold).key("/tail/"), &wal), [false; 4]);
    }

    #[test]
    fn a_fault_strikes_only_what_it_can_happen_to() {
        let requests = [(Method::Put, "k"), (Method::Get, "k"), (Method::List, "k")];
        let kinds = [
            (Fault::BodyFlipped, [false, true, false]),
            (Fault::StoredShort, [true, false, false]),
            (Fault::ListAsOf(Instant::now()), [false, false, true]),
            (Fault::SlowDown, [true; 3]),
        ];
        for (fault, expected) in kinds {
            assert_eq!(strikes(&mut Rule::new(fault), &requests), expected, "{fault:?}");
        }
        assert_eq!(
            strikes(&mut Rule::new(Fault::SlowDown).on(Method::Get), &requests),
            [false, true, false]
        );
    }
}
