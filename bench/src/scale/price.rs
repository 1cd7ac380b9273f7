//! What a month costs at S3's list price.

/// A GB (10^9 bytes) stored for a month, S3 Standard, first tier.
pub const STORED_GB_MONTH: f64 = 0.023;
/// 1,000 requests that write or list.
pub const THOUSAND_PUTS: f64 = 0.005;
/// 1,000 requests that read.
pub const THOUSAND_GETS: f64 = 0.0004;
/// Requests that ship WAL each second of a day.
pub const PUTS_OF_A_DAY: f64 = 86_400.0;
/// Days of a month.
pub const DAYS: f64 = 30.0;

/// Requests of some work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Requests {
    /// That write or list.
    pub puts: f64,
    /// That read.
    pub gets: f64,
}

/// Dollars for keeping so many bytes for a month.
#[must_use]
pub fn stored(bytes: f64) -> f64 {
    bytes / 1e9 * STORED_GB_MONTH
}

/// Dollars for these requests.
#[must_use]
pub fn requests(requests: Requests) -> f64 {
    requests.puts / 1e3 * THOUSAND_PUTS + requests.gets / 1e3 * THOUSAND_GETS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_a_second_costs_thirteen_dollars_a_month() {
        let month = Requests {
            puts: PUTS_OF_A_DAY * DAYS,
            gets: 0.0,
        };
        assert!((requests(month) - 12.96).abs() < 0.001);
        assert!((stored(1e12) - 23.0).abs() < 0.001);
    }
}
