//! A server, its agent, and somebody who is told.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::child::Child;
use tests::config_file::ConfigFile;
use tests::ports::free_ports;
use tests::receiver::{Receiver, get};
use tests::wait::{DEADLINE, wait_for};
use tests::{Cluster, Seawall};

/// What was promised.
pub const NOTICED_MAX: Duration = Duration::from_secs(300);

pub struct Stage {
    pub cluster: Cluster,
    pub seawall: Seawall,
    pub agent: Child,
    pub told: Receiver,
    pub port: u16,
}

impl Stage {
    /// With a backup, if wanted, and a configuration that may be changed before.
    pub async fn set(
        cluster: Cluster,
        config: ConfigFile,
        with_backup: bool,
        change: impl FnOnce(ConfigFile) -> Result<ConfigFile>,
    ) -> Result<Self> {
        let told = Receiver::start().await?;
        let port = free_ports(1)?[0];
        let config = config
            .set("cluster.main.http.listen", format!("127.0.0.1:{port}"))?
            .set("notify.hook.type", "webhook")?
            .set("notify.hook.url", told.url("/hook"))?;
        let seawall = Seawall::configure(change(config)?)?;
        seawall.init().await?;
        let agent = seawall.run().await?;
        if with_backup {
            seawall.agent.run_ok(&["backup"]).await?;
        }
        Ok(Stage {
            cluster,
            seawall,
            agent,
            told,
            port,
        })
    }

    /// Waits until an alarm is told with these words, looks whether metrics and `/readyz` have it too, and says how long it took.
    pub async fn noticed(&self, since: Instant, alarm: &str, words: &str) -> Result<()> {
        let is_it = |body: &Value| {
            let text = body["text"].as_str().unwrap_or_default();
            body["event"] == "raised" && body["alarm"] == alarm && text.contains(words)
        };
        let left = NOTICED_MAX.saturating_sub(since.elapsed());
        let message = self.told.wait_for(alarm, left, 0, is_it).await;
        ensure!(
            message.is_ok(),
            "{alarm} ({words}) was not told: {:#?}",
            self.told.received()
        );
        let message = message?;
        println!("{alarm}: noticed after {:.0?}: {}", since.elapsed(), message["text"]);
        ensure!(
            message["hint"].as_str().is_some_and(|hint| hint.len() > 10),
            "{message}"
        );
        ensure!(
            message["runbook"]
                .as_str()
                .is_some_and(|link| link.ends_with(&format!("#{alarm}"))),
            "{message}"
        );
        let (_, metrics) = get(self.port, "/metrics").await?;
        let line = format!("seawall_alarm{{alarm=\"{alarm}\",cluster=\"main\"");
        let line = metrics.lines().find(|found| found.starts_with(&line));
        ensure!(line.is_some_and(|line| !line.ends_with(" 0")), "{alarm}: {line:?}");
        if message["severity"] == "page" {
            let (code, body) = get(self.port, "/readyz").await?;
            ensure!(code == 503 && body.contains(&format!("\"{alarm}\"")), "{code} {body}");
        }
        Ok(())
    }

    /// What `promtool` says of the metrics.
    pub async fn lint_metrics(&self) -> Result<()> {
        use std::io::Write as _;
        let (code, page) = get(self.port, "/metrics").await?;
        ensure!(code == 200, "{code}");
        let mut promtool = std::process::Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()?;
        promtool.stdin.take().unwrap().write_all(page.as_bytes())?;
        let said = promtool.wait_with_output()?;
        let text = String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout);
        ensure!(said.status.success() && text.is_empty(), "{text}\n{page}");
        Ok(())
    }

    /// Waits until it is told that an alarm is over.
    pub async fn over(&self, since: Instant, alarm: &str) -> Result<()> {
        let is_it = |body: &Value| body["event"] == "cleared" && body["alarm"] == alarm;
        let left = NOTICED_MAX.saturating_sub(since.elapsed());
        let message = self.told.wait_for(alarm, left, 0, is_it).await;
        ensure!(
            message.is_ok(),
            "that {alarm} is over was not told: {:#?}",
            self.told.received()
        );
        println!("{alarm}: over after {:.0?}", since.elapsed());
        Ok(())
    }

    /// Waits until the plugin for Nagios ends with this code; gives its line.
    pub async fn nagios_says(&self, code: i32) -> Result<String> {
        wait_for("the plugin's code", DEADLINE, async || {
            let output = self.seawall.agent.run(&["status", "--nagios"]).await.ok()?;
            (output.code() == code).then_some(output.stdout)
        })
        .await
    }

    /// Changes the configuration in place and has it read again.
    pub async fn reload(&self, change: impl FnOnce(ConfigFile) -> Result<ConfigFile>) -> Result<()> {
        change(self.seawall.config.clone())?.write_as("seawall")?;
        self.agent.signal(rustix::process::Signal::HUP)
    }

    /// Waits until nothing that pages is open.
    pub async fn ready(&self) -> Result<()> {
        wait_for("/readyz", NOTICED_MAX, async || {
            let (code, _) = get(self.port, "/readyz").await.ok()?;
            (code == 200).then_some(())
        })
        .await
    }

    pub async fn end(self) -> Result<()> {
        self.agent.stop(DEADLINE).await
    }
}
