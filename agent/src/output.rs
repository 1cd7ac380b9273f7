//! Numbers, times and tables for people.

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};

/// Bytes as people read them: `1.5 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.1} {}", UNITS.get(unit).unwrap_or(&""))
    }
}

/// Microseconds since 1970 as UTC.
pub fn time_us(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us)
        .map(|time| time.strftime("%Y-%m-%d %H:%M:%S%.3f+00").to_string())
        .unwrap_or_else(|_| us.to_string())
}

/// Now, microseconds since 1970.
pub fn now_us() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

/// An empty table with a head.
pub fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(head.iter().copied());
    table
}

/// A value as one JSON document on standard output.
pub fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
