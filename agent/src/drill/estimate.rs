//! How long a restore would take now, by the rates that the last drill has measured. Pure.

use pg::lsn::Lsn;

use super::record::Drilled;

/// Seconds to restore a backup with files of `logical_bytes` and to replay the WAL from its start to the end of the archive, on a machine like
/// the one of the drill; `None` when no drill has measured it.
pub fn rto_s(drilled: &Drilled, logical_bytes: u64, (start, archived): (Lsn, Lsn)) -> Option<f64> {
    let wal_bytes = archived.as_u64().saturating_sub(start.as_u64());
    if !drilled.passed || drilled.logical_bytes == 0 {
        return None;
    }
    let seconds = |name: &str| drilled.phase_ms(name) as f64 / 1e3;
    let files = (seconds("fetch") + seconds("finish")) * logical_bytes as f64 / drilled.logical_bytes as f64;
    let replay = match drilled.wal_bytes {
        // The start of the server is in it.
        0 => seconds("replay"),
        replayed => seconds("replay") * (wal_bytes as f64 / replayed as f64).max(1.0),
    };
    Some(seconds("plan") + files + replay + seconds("promote"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_of_twice_the_size_takes_twice_the_fetching() {
        let drilled = Drilled {
            passed: true,
            logical_bytes: 100,
            wal_bytes: 10,
            phases_ms: serde_json::json!({ "plan": 1000, "fetch": 10_000, "finish": 0, "replay": 2000, "promote": 1000 }),
            ..Drilled::default()
        };
        let wal = |bytes: u64| (Lsn::new(1000), Lsn::new(1000 + bytes));
        assert_eq!(rto_s(&drilled, 100, wal(10)), Some(14.0));
        assert_eq!(rto_s(&drilled, 200, wal(10)), Some(24.0));
        assert_eq!(rto_s(&drilled, 100, wal(30)), Some(18.0));
        // Starting takes as long with less WAL.
        assert_eq!(rto_s(&drilled, 100, wal(0)), Some(14.0));
        let failed = Drilled {
            passed: false,
            ..drilled
        };
        assert_eq!(rto_s(&failed, 100, wal(10)), None);
    }
}
