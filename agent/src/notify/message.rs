//! What is said, in the form that each receiver reads.

use serde::Serialize;
use serde_json::json;

use crate::health::Severity;
use crate::health::board::Open;
use crate::open::host_name;
use crate::output;

/// Where the section of an alarm is; the package puts it there.
pub const RUNBOOK: &str = "file:///usr/share/doc/seawall/ALARMS.md#";

/// Why something is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// It is wrong from now on.
    Raised,
    /// It is wrong still.
    Repeated,
    /// It is well again.
    Cleared,
    /// Nothing is wrong: somebody tries whether messages arrive.
    Test,
}

/// One message. Its fields are the JSON of webhooks and commands, and the names of a template (docs/ALARMS.md).
#[derive(Debug, Clone, Serialize)]
pub struct Message {
    event: Event,
    alarm: String,
    subject: Option<String>,
    severity: &'static str,
    cluster: String,
    host: String,
    /// One line.
    title: String,
    text: String,
    hint: String,
    /// Since when, and when this was said.
    since: String,
    time: String,
    runbook: String,
    /// The same for all messages about the same alarm.
    key: String,
}

impl Message {
    /// About an alarm.
    pub fn new(event: Event, open: &Open, cluster: &str, now_us: i64) -> Self {
        let name = open.alarm.kind.name();
        let subject = open.alarm.subject.clone();
        let severity = open.severity.word();
        let word = match event {
            Event::Raised => severity,
            Event::Repeated => "still",
            Event::Cleared => "resolved",
            Event::Test => "test",
        };
        Message {
            event,
            alarm: name.to_owned(),
            severity,
            cluster: cluster.to_owned(),
            host: host_name(),
            title: format!("[{word}] {cluster}: {name}"),
            text: open.alarm.text.clone(),
            hint: open.alarm.hint.clone(),
            since: output::time_us(open.since_us),
            time: output::time_us(now_us),
            runbook: format!("{RUNBOOK}{name}"),
            key: format!("seawall/{cluster}/{name}/{}", subject.as_deref().unwrap_or_default()),
            subject,
        }
    }

    /// About nothing.
    pub fn test(cluster: &str, now_us: i64) -> Self {
        Message {
            event: Event::Test,
            alarm: "test".to_owned(),
            subject: None,
            severity: Severity::Warning.word(),
            cluster: cluster.to_owned(),
            host: host_name(),
            title: format!("[test] {cluster}: messages arrive"),
            text: "somebody has run `wal-agent notify-test`".to_owned(),
            hint: "Nothing is to be done.".to_owned(),
            since: output::time_us(now_us),
            time: output::time_us(now_us),
            runbook: RUNBOOK.to_owned(),
            key: format!("seawall/{cluster}/test/"),
        }
    }

    /// One line.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// For people, in several lines.
    pub fn body(&self) -> String {
        let over = match self.event {
            Event::Cleared => "This is over. It was:\n",
            _ => "",
        };
        format!(
            "{over}{}\n\nHINT: {}\nSince {} on {} (cluster {}).\nRunbook: {}\n",
            self.text, self.hint, self.since, self.host, self.cluster, self.runbook
        )
    }

    /// For webhooks and commands.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// For Slack's incoming webhooks, and what reads their form.
    pub fn slack(&self) -> String {
        json!({ "text": format!("*{}*\n{}", escape(&self.title), escape(&self.body())) }).to_string()
    }

    /// For PagerDuty's Events API v2 (its documentation, "PD-CEF").
    pub fn pagerduty(&self, routing_key: &str) -> String {
        let action = match self.event {
            Event::Cleared => "resolve",
            Event::Raised | Event::Repeated | Event::Test => "trigger",
        };
        let severity = match self.severity {
            "page" => "critical",
            _ => "warning",
        };
        json!({
            "routing_key": routing_key,
            "event_action": action,
            "dedup_key": self.key,
            "client": "seawall",
            "payload": {
                "summary": format!("{}: {}", self.title, self.text).chars().take(1024).collect::<String>(),
                "source": self.host,
                "severity": severity,
                "component": "postgresql",
                "group": self.cluster,
                "class": self.alarm,
                "custom_details": self,
            },
        })
        .to_string()
    }

    /// A template with `{title}` and the other fields filled in, each escaped as in a JSON string.
    pub fn fill(&self, template: &str) -> anyhow::Result<String> {
        let fields = serde_json::to_value(self)?;
        let mut text = template.to_owned();
        for (name, value) in fields.as_object().into_iter().flatten() {
            let plain = value.as_str().unwrap_or_default();
            let quoted = serde_json::to_string(plain)?;
            let inner = quoted.trim_start_matches('"').strip_suffix('"').unwrap_or_default();
            text = text.replace(&format!("{{{name}}}"), inner);
        }
        Ok(text)
    }
}

/// Slack's three control characters.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Alarm, Kind};

    fn message(event: Event) -> Message {
        let open = Open {
            alarm: Alarm::new(Kind::CopyBehind, "the \"place\" is <behind>\nfor long", "Wait.").of("away"),
            severity: Severity::Warning,
            since_us: 0,
            is_raised: true,
            gone_us: None,
        };
        Message::new(event, &open, "main", 1)
    }

    #[test]
    fn a_template_stays_json_whatever_the_text_is() {
        let filled = message(Event::Raised)
            .fill(r#"{"content": "{title}: {text}", "who": "{subject}"}"#)
            .unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&filled).unwrap();
        assert_eq!(
            parsed["content"],
            "[warning] main: copy_behind: the \"place\" is <behind>\nfor long"
        );
        assert_eq!(parsed["who"], "away");
    }

    #[test]
    fn pagerduty_resolves_what_it_triggered() {
        let of = |event| serde_json::from_str::<serde_json::Value>(&message(event).pagerduty("key")).unwrap();
        let (raised, cleared) = (of(Event::Raised), of(Event::Cleared));
        assert_eq!(raised["event_action"], "trigger");
        assert_eq!(cleared["event_action"], "resolve");
        assert_eq!(raised["dedup_key"], cleared["dedup_key"]);
        assert_eq!(raised["payload"]["severity"], "warning");
    }

    #[test]
    fn slack_reads_no_control_characters() {
        assert!(message(Event::Raised).slack().contains("&lt;behind&gt;"));
    }
}
