//! `wal-agent alert-rules`: rules for Prometheus, one for each kind of alarm, and two for when the agent is silent. Made from the same table as
//! the alarms themselves, so that none is missing.

use std::fmt::Write as _;

use crate::health::Kind;
use crate::notify::RUNBOOK;

/// The file of rules (YAML, which takes JSON's strings as they are).
pub fn rules() -> String {
    let mut text = String::from("groups:\n- name: seawall\n  rules:\n");
    for kind in Kind::ALL {
        let expression = format!("seawall_alarm{{alarm=\"{}\"}} > 0", kind.name());
        rule(
            &mut text,
            &camel(kind.name()),
            (&expression, "0m"),
            kind.severity().word(),
            (kind.meaning(), kind.name()),
        );
    }
    rule(
        &mut text,
        "AgentSilent",
        ("absent(seawall_streaming)", "2m"),
        "page",
        (
            "Prometheus gets nothing from any agent: host or agent is gone, or the scrape is wrong.",
            Kind::AgentStopped.name(),
        ),
    );
    rule(
        &mut text,
        "AgentGone",
        ("seawall_streaming offset 5m unless seawall_streaming", "2m"),
        "page",
        (
            "Prometheus gets nothing any more from an agent that it knew: host or agent is gone.",
            Kind::AgentStopped.name(),
        ),
    );
    text
}

fn rule(
    text: &mut String,
    name: &str,
    (expression, lasts): (&str, &str),
    severity: &str,
    (meaning, section): (&str, &str),
) {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let summary = format!("Seawall, cluster {{{{ $labels.cluster }}}}: {meaning}");
    let _ = write!(
        text,
        "  - alert: Seawall{name}\n    expr: {}\n    for: {lasts}\n    labels:\n      severity: {severity}\n    annotations:\n      summary: {}\n      runbook_url: {}\n",
        quoted(expression),
        quoted(&summary),
        quoted(&format!("{RUNBOOK}{section}")),
    );
}

/// `rpo_broken` as `RpoBroken`.
fn camel(name: &str) -> String {
    let words = name.split('_').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_uppercase() + rest
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_rule_with_a_runbook() {
        let rules = rules();
        for kind in Kind::ALL {
            assert!(
                rules.contains(&format!("alert: Seawall{}\n", camel(kind.name()))),
                "{rules}"
            );
            assert!(rules.contains(&format!("{RUNBOOK}{}\"", kind.name())), "{rules}");
        }
    }
}
