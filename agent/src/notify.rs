//! Tells people what is open: each place of `[notify.*]` is brought in line with the board, again and again.
//!
//! A place is told by comparing: what is open and was not told is said, what was told and is over is said, what lasts is said again. So nothing
//! is said twice, what comes and goes while a place is away is never said, and nothing is lost when it comes back or the agent restarts. What
//! was told is kept in a file; losing it costs a second message. A crash between a message and the file does, too.

mod command;
mod email;
mod http;
mod message;
mod told;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use config::{Channel as Kind, Notify};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use message::{Message, RUNBOOK};

use crate::health::Severity;
use crate::health::board::Open;
use crate::health::facts::Channel;
use crate::open::Context;
use crate::output;
use crate::status::state_file;
use http::Client;
use told::Told;

/// Between two looks at whether something has to be said again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Before a message that did not arrive is sent again: first and longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(120));
/// Messages in one go, and then one in so long.
const BURST: u32 = 20;
const ONE_EACH: Duration = Duration::from_secs(30);
/// A message that takes longer did not arrive.
const SEND_MAX: Duration = Duration::from_secs(20);

/// Whoever is told, while an agent runs.
pub struct Telling {
    tasks: Vec<JoinHandle<()>>,
    states: Vec<watch::Receiver<State>>,
}

/// How one place is doing.
#[derive(Debug, Clone, Default)]
struct State {
    seen: Channel,
    /// Everything that is open was said.
    is_in_line: bool,
}

impl Telling {
    /// Begins. A place that cannot be used at all (a certificate file that is gone) says so in its state, and keeps nobody from starting.
    pub fn start(context: &Arc<Context>, open: &watch::Receiver<Vec<Open>>) -> Self {
        let mut telling = Telling {
            tasks: Vec::new(),
            states: Vec::new(),
        };
        for (name, notify) in &context.config.notify {
            let state = watch::Sender::new(State {
                seen: Channel {
                    name: name.clone(),
                    ..Channel::default()
                },
                is_in_line: false,
            });
            telling.states.push(state.subscribe());
            let place = Place {
                name: name.clone(),
                cluster: context.cluster.name.clone(),
                notify: notify.clone(),
                file: state_file(context).with_extension(format!("told-{name}.json")),
                open: open.clone(),
                state,
            };
            telling.tasks.push(tokio::spawn(place.run()));
        }
        telling
    }

    /// How each is doing, from now on.
    pub fn states(&self) -> States {
        States(self.states.clone())
    }

    /// Ends at once.
    pub fn abandon(self) {
        for task in self.tasks {
            task.abort();
        }
    }

    /// Waits a little until everything was said, then ends.
    pub async fn finish(self, at_most: Duration) {
        let all_said = async {
            // Until each has seen that there is something to be said.
            tokio::time::sleep(LOOK_EVERY * 2).await;
            for mut state in self.states {
                let _ = state.wait_for(|state| state.is_in_line).await;
            }
        };
        let _ = tokio::time::timeout(at_most, all_said).await;
        for task in self.tasks {
            task.abort();
        }
    }
}

/// How each place is doing.
pub struct States(Vec<watch::Receiver<State>>);

impl States {
    pub fn seen(&self) -> Vec<Channel> {
        self.0.iter().map(|state| state.borrow().seen.clone()).collect()
    }
}

/// One place, and what it was told.
struct Place {
    name: String,
    cluster: String,
    notify: Notify,
    file: PathBuf,
    open: watch::Receiver<Vec<Open>>,
    state: watch::Sender<State>,
}

impl Place {
    async fn run(self) {
        let mut told = Told::load(&self.file);
        let mut is_kept = true;
        let mut budget = Budget::new();
        let mut pause = RETRY.0;
        let sender = loop {
            match Sender::new(&self.notify) {
                Ok(sender) => break sender,
                Err(error) => self.failed(&error),
            }
            tokio::time::sleep(RETRY.1).await;
        };
        if let Kind::Ping { every, .. } = self.notify.channel {
            return self.ping(&sender, every).await;
        }
        loop {
            let open = self.concerned();
            let Some((event, alarm)) = told.next(&open, self.notify.repeat, output::now_us()) else {
                self.state
                    .send_if_modified(|state| !std::mem::replace(&mut state.is_in_line, true));
                // A state directory that cannot be written now may be well a moment later.
                is_kept = is_kept || told.keep(&self.file).is_ok();
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            };
            self.state
                .send_if_modified(|state| std::mem::replace(&mut state.is_in_line, false));
            budget.wait().await;
            let message = Message::new(event, &alarm, &self.cluster, output::now_us());
            match sender.send(&message).await {
                Ok(()) => {
                    told.note(event, alarm, output::now_us());
                    is_kept = told.keep(&self.file).is_ok();
                    self.arrived();
                    pause = RETRY.0;
                }
                Err(error) => {
                    self.failed(&error);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }

    /// What this place wants to hear of.
    fn concerned(&self) -> Vec<Open> {
        let open = self.open.borrow();
        let concerns = |open: &&Open| !self.notify.pages_only || open.severity == Severity::Page;
        open.iter().filter(concerns).cloned().collect()
    }

    /// Silence is the message.
    async fn ping(&self, sender: &Sender, every: Duration) {
        loop {
            let pages = self.open.borrow().iter().any(|open| open.severity == Severity::Page);
            self.state
                .send_if_modified(|state| !std::mem::replace(&mut state.is_in_line, true));
            if !pages {
                match sender.ping().await {
                    Ok(()) => self.arrived(),
                    Err(error) => self.failed(&error),
                }
            }
            tokio::time::sleep(every).await;
        }
    }

    fn arrived(&self) {
        self.state.send_modify(|state| {
            state.seen.sent += 1;
            state.seen.failing = None;
        });
    }

    fn failed(&self, error: &anyhow::Error) {
        let text = format!("{error:#}");
        tracing::warn!(channel = %self.name, error = %text, "a message did not arrive; trying again");
        self.state.send_modify(|state| {
            let since_us = state
                .seen
                .failing
                .take()
                .map_or_else(output::now_us, |(since, _)| since);
            state.seen.failing = Some((since_us, text));
        });
    }
}

/// A storm of alarms must not become a storm of messages.
struct Budget {
    left: u32,
    filled: tokio::time::Instant,
}

impl Budget {
    fn new() -> Self {
        Budget {
            left: BURST,
            filled: tokio::time::Instant::now(),
        }
    }

    async fn wait(&mut self) {
        let refills = u32::try_from(self.filled.elapsed().as_secs() / ONE_EACH.as_secs()).unwrap_or(BURST);
        if refills > 0 {
            self.left = self.left.saturating_add(refills).min(BURST);
            self.filled += ONE_EACH * refills;
        }
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => {
                tokio::time::sleep_until(self.filled + ONE_EACH).await;
                self.filled += ONE_EACH;
            }
        }
    }
}

/// What a message goes out by.
struct Sender {
    channel: Kind,
    client: Client,
    ca_file: Option<PathBuf>,
}

impl Sender {
    fn new(notify: &Notify) -> anyhow::Result<Self> {
        Ok(Sender {
            channel: notify.channel.clone(),
            client: Client::new(notify.ca_file.as_deref())?,
            ca_file: notify.ca_file.clone(),
        })
    }

    async fn send(&self, message: &Message) -> anyhow::Result<()> {
        let sending = async {
            match &self.channel {
                Kind::Webhook { url, template: None } => self.client.post(url.expose(), message.json()).await,
                Kind::Webhook {
                    url,
                    template: Some(template),
                } => self.client.post(url.expose(), message.fill(template)?).await,
                Kind::Slack { url } => self.client.post(url.expose(), message.slack()).await,
                Kind::PagerDuty { routing_key, url } => {
                    let body = message.pagerduty(routing_key.expose());
                    self.client.post(url.expose(), body).await
                }
                Kind::Email(email) => email::send(email, self.ca_file.as_deref(), message).await,
                Kind::Command { argv } => command::run(argv, message).await,
                // Says nothing of alarms; a test is a ping.
                Kind::Ping { .. } => self.ping().await,
            }
        };
        tokio::time::timeout(SEND_MAX, sending)
            .await
            .with_context(|| format!("no answer for {} s", SEND_MAX.as_secs()))?
    }

    async fn ping(&self) -> anyhow::Result<()> {
        match &self.channel {
            Kind::Ping { url, .. } => self.client.get(url.expose()).await,
            _ => Ok(()),
        }
    }
}

/// `wal-agent notify-test`: a message to everybody who is named, and who got it.
pub async fn test(context: &Context, json: bool) -> anyhow::Result<()> {
    let message = Message::test(&context.cluster.name, output::now_us());
    let mut results = Vec::new();
    for (name, notify) in &context.config.notify {
        let sent = async { Sender::new(notify)?.send(&message).await };
        results.push((name, sent.await));
    }
    let failed = results.iter().filter(|(_, sent)| sent.is_err()).count();
    if json {
        let list = results.iter().map(|(name, sent)| {
            let error = sent.as_ref().err().map(|error| format!("{error:#}"));
            serde_json::json!({ "channel": name, "arrived": error.is_none(), "error": error })
        });
        output::print_json(&serde_json::json!({ "channels": list.collect::<Vec<_>>() }))?;
    } else {
        for (name, sent) in &results {
            match sent {
                Ok(()) => println!("{name}: arrived"),
                Err(error) => println!("{name}: FAILED: {error:#}"),
            }
        }
    }
    if results.is_empty() {
        return Err(crate::exit::Failure {
            code: crate::exit::USAGE,
            message: "the configuration names nobody to be told".into(),
            hint: Some("Add a table [notify.NAME] with its type: `wal-agent notify-test` tries it.".into()),
        }
        .into());
    }
    if failed > 0 {
        return Err(crate::exit::Failure::unreachable(
            format!("{failed} of {} did not get the message", results.len()),
            "See above: the URL, the secret, the network, the certificate authority (ca_file).",
        )
        .into());
    }
    Ok(())
}
