//! Reads a printed runbook as a person would, and pastes from it.

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::wait::DEADLINE;
use tests::{Child, Seawall, install, user};

const COMMAND_DEADLINE: Duration = Duration::from_secs(180);

/// What was printed.
pub struct Page(String);

impl Page {
    pub async fn print(seawall: &Seawall) -> Result<Self> {
        Ok(Page(seawall.agent.run_ok(&["runbook"]).await?.stdout))
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    fn scenario(&self, name: &str) -> Result<&str> {
        let begin = self
            .0
            .find(&format!("\n## {name}: "))
            .with_context(|| format!("no {name}"))?
            + 1;
        let rest = &self.0[begin..];
        let end = rest.find("\n## ").unwrap_or(rest.len());
        Ok(&rest[..end])
    }

    /// The lines to paste of the usual way through a scenario.
    fn usual(&self, name: &str) -> Result<Vec<&str>> {
        let scenario = self.scenario(name)?;
        let (_, during) = scenario.split_once("### During\n").context("no During")?;
        let end = ["#### Otherwise", "### After"]
            .iter()
            .filter_map(|next| during.find(next))
            .min();
        Ok(to_paste(&during[..end.context("no After")?]))
    }

    /// Each command of ours with the assignments before it, and where it stands: to be pasted, or in a sentence.
    pub fn ours(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for section in self.0.split("\n## ").skip(1) {
            let name = section.split(':').next().unwrap_or_default().to_owned();
            let lines = to_paste(section);
            let assigned: Vec<&str> = lines.iter().copied().filter(|line| assigns(line).is_some()).collect();
            let inline = section.split('`').skip(1).step_by(2);
            for command in lines.iter().copied().chain(inline).filter(|line| is_ours(line)) {
                found.push((name.clone(), format!("PRINTED=x\n{}\n{command}", assigned.join("\n"))));
            }
        }
        found
    }
}

fn is_ours(line: &str) -> bool {
    (line.starts_with("wal-agent ") || line.starts_with("wal-restore ")) && !line.contains('\n')
}

/// The lines between fences.
fn to_paste(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let mut lines = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("```") {
            is_code = !is_code;
        } else if is_code {
            lines.push(line);
        }
    }
    lines
}

/// The variable that a line sets, if it does nothing else.
fn assigns(line: &str) -> Option<&str> {
    let (name, _) = line.split_once('=')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    is_name.then_some(name)
}

/// A person with a page, a shell and an agent.
pub struct Pasting {
    seawall: Seawall,
    page: Page,
    agent: Option<Child>,
    path: String,
}

impl Pasting {
    pub fn new(seawall: Seawall, page: Page, agent: Child) -> Result<Self> {
        // Both lie there once both were asked for.
        let programs = install::agent_bin()?;
        ensure!(programs.parent() == install::restore_bin()?.parent());
        let programs: PathBuf = programs.parent().context("no directory")?.to_owned();
        Ok(Pasting {
            seawall,
            page,
            agent: Some(agent),
            path: format!("{}:/usr/bin:/bin", programs.display()),
        })
    }

    pub fn page(&self) -> &Page {
        &self.page
    }

    /// Runs a script as the user of the server.
    pub async fn shell(&self, script: &str) -> Result<Output> {
        let mut command = user::command("sh");
        command
            .args(["-e", "-c", script])
            .env("PATH", &self.path)
            .env("PGUSER", "postgres");
        user::output(command, COMMAND_DEADLINE).await
    }

    /// Pastes the usual way through a scenario, with these values of variables in the place of the printed ones. Every command must end with
    /// 0, or with the code that stands beside a part of it in `codes`, once. Returns all that was said.
    pub async fn usual(&mut self, scenario: &str, values: &[(&str, String)], codes: &[(&str, i32)]) -> Result<String> {
        let lines: Vec<String> = self.page.usual(scenario)?.into_iter().map(str::to_owned).collect();
        let mut unused: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
        let mut codes = codes.to_vec();
        let mut assigned = String::new();
        let mut said = String::new();
        for line in &lines {
            if let Some(name) = assigns(line) {
                unused.retain(|unused| *unused != name);
                let value = values.iter().find(|(known, _)| *known == name);
                let line = value.map_or_else(|| line.clone(), |(_, value)| format!("{name}='{value}'"));
                assigned.push_str(&format!("{line}\n"));
            } else if line.starts_with("systemctl ") {
                self.systemctl(line).await?;
            } else if !line.starts_with("journalctl ") {
                let output = self.shell(&format!("{assigned}{line}")).await?;
                let expected = match codes.iter().position(|(part, _)| line.contains(part)) {
                    Some(at) => codes.remove(at).1,
                    None => 0,
                };
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text).into_owned();
                ensure!(
                    output.status.code() == Some(expected),
                    "{line}: {}\n{text}",
                    output.status
                );
                said.push_str(&format!("$ {line}\n{text}"));
            }
        }
        ensure!(unused.is_empty(), "{scenario} has no {unused:?}");
        println!("{scenario}:\n{said}");
        Ok(said)
    }

    async fn systemctl(&mut self, line: &str) -> Result<()> {
        ensure!(line.ends_with(" seawall"), "{line}");
        if !line.contains(" start ") && !line.contains(" enable --now ") {
            self.stop().await?;
        }
        if !line.contains(" stop ") && self.agent.is_none() {
            self.agent = Some(self.seawall.run().await?);
        }
        Ok(())
    }

    /// Ends the agent as systemd would.
    pub async fn stop(&mut self) -> Result<()> {
        match self.agent.take() {
            Some(agent) => agent.stop(DEADLINE).await,
            None => Ok(()),
        }
    }

    /// The host is gone with it.
    pub fn kill(&mut self) -> Result<()> {
        self.agent.take().map_or(Ok(()), Child::kill9)
    }
}
