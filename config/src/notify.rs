//! `[notify.<name>]`: to whom alarms go.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::Secrets;
use crate::keys::{NOTIFY, join};
use crate::raw::Raw;
use crate::reader::{Outcome, Reader};
use crate::secret::SecretText;

/// Where PagerDuty takes events (its Events API v2).
const PAGERDUTY: &str = "https://events.pagerduty.com/v2/enqueue";

/// One place that alarms go to.
#[derive(Debug, Clone)]
pub struct Notify {
    /// How.
    pub channel: Channel,
    /// `severity` is "page": warnings do not go there.
    pub pages_only: bool,
    /// `repeat`; 4 h: said again as long as it lasts, not so often that nobody reads it.
    pub repeat: Duration,
    /// `ca_file`: certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// The ways.
#[derive(Debug, Clone)]
pub enum Channel {
    /// A POST of JSON.
    Webhook {
        /// May have a secret in it.
        url: SecretText,
        /// `template`: another body, with `{title}` and the like for the fields of ours.
        template: Option<String>,
    },
    /// An incoming webhook of Slack, or of what understands its form.
    Slack {
        /// Is the secret.
        url: SecretText,
    },
    /// PagerDuty's Events API v2.
    PagerDuty {
        /// Of the service's integration.
        routing_key: SecretText,
        /// Another place that speaks it.
        url: SecretText,
    },
    /// By SMTP.
    Email(Box<Email>),
    /// A program, which gets the message as JSON on its standard input.
    Command {
        /// It and its arguments.
        argv: Vec<String>,
    },
    /// Not an alarm but its opposite: a URL that is asked again and again as long as there is no alarm that pages. Whoever listens there
    /// raises one when it stops.
    Ping {
        /// May have a secret in it.
        url: SecretText,
        /// `every`; a minute.
        every: Duration,
    },
}

/// A mail server, and who writes to whom.
#[derive(Debug, Clone)]
pub struct Email {
    /// `smtp`: `smtps://host`, `smtp://host:port?tls=required`, or `smtp://host` without TLS.
    pub smtp: String,
    /// `from`.
    pub from: String,
    /// `to`.
    pub to: Vec<String>,
    /// `user`, with `password_file`.
    pub login: Option<(String, SecretText)>,
}

/// Reads all of `[notify.<name>]`.
pub(crate) fn check(raw: &Raw, secrets: Secrets, out: &mut Outcome) -> BTreeMap<String, Notify> {
    let mut all = BTreeMap::new();
    for name in &raw.notify {
        let mut reader = Reader::at(raw, &join("notify", name), &NOTIFY, out);
        let channel = channel(&mut reader, secrets);
        let notify = channel.map(|channel| Notify {
            channel,
            pages_only: reader.text("severity").as_deref() == Some("page"),
            repeat: reader.duration("repeat"),
            ca_file: reader.path("ca_file"),
        });
        all.extend(notify.map(|notify| (name.clone(), notify)));
    }
    all
}

fn channel(reader: &mut Reader<'_>, secrets: Secrets) -> Option<Channel> {
    let Some(kind) = reader.text("type") else {
        if !reader.is_set("type") {
            let hint = "Write webhook, slack, pagerduty, email, command or ping.";
            reader.complain("type", "is not set", hint);
        }
        return None;
    };
    Some(match kind.as_str() {
        "webhook" => Channel::Webhook {
            url: url(reader, secrets)?,
            template: reader.text("template"),
        },
        "slack" => Channel::Slack {
            url: url(reader, secrets)?,
        },
        "ping" => Channel::Ping {
            url: url(reader, secrets)?,
            every: reader.duration("every"),
        },
        "pagerduty" => Channel::PagerDuty {
            url: match reader.is_set("url") || reader.is_set("url_file") {
                true => url(reader, secrets)?,
                false => SecretText::new(PAGERDUTY.to_owned()),
            },
            routing_key: needed_secret(reader, "routing_key_file", secrets)?,
        },
        "email" => Channel::Email(Box::new(email(reader, secrets)?)),
        _ => {
            let argv = reader.list("command");
            if argv.first().is_none_or(|program| !program.starts_with('/')) {
                let hint = "Write the program from \"/\" on and its arguments: [\"/usr/local/bin/page\", \"--now\"].";
                reader.complain("command", "names no program", hint);
            }
            Channel::Command { argv }
        }
    })
}

/// From `url` or `url_file`.
fn url(reader: &mut Reader<'_>, secrets: Secrets) -> Option<SecretText> {
    let own = reader.text("url").map(SecretText::new);
    let url = match (own, reader.is_set("url_file")) {
        (Some(url), false) => url,
        (None, true) => match secrets {
            Secrets::Read => reader.secret("url_file")?,
            Secrets::Leave => return Some(SecretText::new(String::new())),
        },
        (Some(_), true) => {
            reader.complain("url", "is set, and so is \"url_file\"", "Set one of them.");
            return None;
        }
        (None, false) => {
            let hint = "Write \"https://…\", or in \"url_file\" the name of a file with it, when the URL is a secret.";
            reader.complain("url", "is not set", hint);
            return None;
        }
    };
    let is_url = ["http://", "https://"]
        .iter()
        .any(|scheme| url.expose().starts_with(scheme));
    if !is_url || url.expose().contains(char::is_whitespace) {
        reader.complain("url", "is no URL", "Write \"https://host/path\".");
        return None;
    }
    Some(url)
}

fn needed_secret(reader: &mut Reader<'_>, name: &str, secrets: Secrets) -> Option<SecretText> {
    if !reader.is_set(name) {
        reader.complain(name, "is not set", "Name a file that only this user can read.");
        return None;
    }
    match secrets {
        Secrets::Read => reader.secret(name),
        Secrets::Leave => Some(SecretText::new(String::new())),
    }
}

fn email(reader: &mut Reader<'_>, secrets: Secrets) -> Option<Email> {
    let smtp = reader.text("smtp");
    let is_server = |smtp: &String| smtp.starts_with("smtp://") || smtp.starts_with("smtps://");
    if !smtp.as_ref().is_some_and(is_server) {
        let hint = "Write \"smtps://host\", \"smtp://host:587?tls=required\", or \"smtp://localhost\".";
        reader.complain("smtp", "names no mail server", hint);
    }
    let from = reader.text("from");
    let to = reader.list("to");
    for (name, is_there) in [("from", from.is_some()), ("to", !to.is_empty())] {
        if !is_there {
            reader.complain(name, "is not set", "Write an address: \"seawall@example.com\".");
        }
    }
    let login = match (reader.text("user"), reader.is_set("password_file")) {
        (Some(user), true) => Some((user, needed_secret(reader, "password_file", secrets)?)),
        (None, false) => None,
        _ => {
            reader.complain("user", "and \"password_file\" belong together", "Set both, or neither.");
            None
        }
    };
    Some(Email {
        smtp: smtp?,
        from: from?,
        to,
        login,
    })
}
