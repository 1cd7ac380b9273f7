//! What the figures were measured on, in a line.

use std::fs;

/// Cores, processor, memory.
#[must_use]
pub fn describe() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    line(
        cores,
        &read("/proc/cpuinfo"),
        &read("/proc/meminfo"),
        &read("/etc/os-release"),
    )
}

fn line(cores: usize, cpu: &str, memory: &str, system: &str) -> String {
    let value = |text: &str, name: &str, mark: char| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line
            .and_then(|line| line.split_once(mark))
            .map(|(_, value)| value.trim());
        value.unwrap_or("unknown").trim_matches('"').to_owned()
    };
    let kib: f64 = value(memory, "MemTotal", ':')
        .trim_end_matches(" kB")
        .parse()
        .unwrap_or(0.0);
    format!(
        "{cores} cores, {}, {:.0} GiB of memory, {}",
        value(cpu, "model name", ':'),
        kib / 1024.0 / 1024.0,
        value(system, "PRETTY_NAME", '=')
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_processor_memory_and_system() {
        let text = line(
            2,
            "processor\t: 0\nmodel name\t: A processor\n",
            "MemTotal:       25165824 kB\nMemFree: 1 kB\n",
            "NAME=x\nPRETTY_NAME=\"Debian 12\"\n",
        );
        assert_eq!(text, "2 cores, A processor, 24 GiB of memory, Debian 12");
        assert!(line(1, "", "", "").contains("unknown"));
    }
}
