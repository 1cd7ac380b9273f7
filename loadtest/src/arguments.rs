//! The command line.

use std::time::Duration;

use anyhow::{Context, Result, bail};

/// What is wanted.
#[derive(Debug, Clone)]
pub(crate) enum Words {
    Ask(Arguments),
    Play(Wanted),
}

/// Scenarios to be played.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted {
    /// Names or paths; all that there are when it is empty.
    pub(crate) names: Vec<String>,
    /// How many times longer than the files say.
    pub(crate) scale: f64,
}

/// Which question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// How long after a commit it is archived.
    Lag,
    /// Commits a second as a synchronous standby, beside `pg_receivewal --synchronous`.
    Synchronous,
    /// Seconds until a lost server is back, beside pgBackRest.
    Recovery,
}

/// What, how long, and how fast.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arguments {
    pub(crate) question: Question,
    pub(crate) duration: Duration,
    /// Commits a second.
    pub(crate) rate: u32,
    /// WAL in a second, at least; small rows only when 0.
    pub(crate) wal_mb_s: u32,
    /// `wal.ship_interval`.
    pub(crate) interval: Duration,
    /// Clients of pgbench.
    pub(crate) clients: u32,
    /// pgbench's scale: 15 MB each.
    pub(crate) scale: u32,
    /// Segments of WAL to recover.
    pub(crate) segments: u32,
    /// How far the store is.
    pub(crate) round_trip: Duration,
}

const USAGE: &str = "HINT: loadtest [lag | synchronous | recovery] [--seconds 1..86400] [--rate 1..10000] [--wal-mb-s 0..1000] \
                     [--interval-ms 0..60000] [--clients 1..50] [--scale 1..10000] [--segments 2..10000] [--round-trip-ms 0..1000]
HINT: loadtest scenario NAME or PATH ... [--scale 0.1..1000], loadtest scenarios [--scale 0.1..1000]";

impl Words {
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Self> {
        let mut words = words.peekable();
        match words.next_if(|word| word.starts_with("scenario")).as_deref() {
            None => Arguments::parse(words).map(Self::Ask),
            Some(word @ ("scenario" | "scenarios")) => {
                let wanted = Wanted::parse(words)?;
                if wanted.names.is_empty() != (word == "scenarios") {
                    bail!("scenario needs names, and scenarios are all\n{USAGE}");
                }
                Ok(Self::Play(wanted))
            }
            Some(word) => bail!("unknown question {word}\n{USAGE}"),
        }
    }
}

impl Wanted {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut wanted = Self {
            names: Vec::new(),
            scale: 1.0,
        };
        while let Some(word) = words.next() {
            if word == "--scale" {
                let value = words.next().context("--scale needs a value")?;
                let scale = value
                    .parse()
                    .with_context(|| format!("--scale {value} is not a number"))?;
                if !(0.1..=1000.0).contains(&scale) {
                    bail!("--scale {value} is not between 0.1 and 1000");
                }
                wanted.scale = scale;
            } else if word.starts_with('-') {
                bail!("unknown argument {word}\n{USAGE}");
            } else {
                wanted.names.push(word);
            }
        }
        Ok(wanted)
    }
}

impl Arguments {
    /// Everything is optional.
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Self> {
        let mut arguments = Self {
            question: Question::Lag,
            duration: Duration::from_secs(20),
            rate: 200,
            wal_mb_s: 0,
            interval: Duration::from_secs(1),
            clients: 16,
            scale: 100,
            segments: 200,
            round_trip: Duration::from_millis(20),
        };
        let mut words = words.peekable();
        if let Some(word) = words.next_if(|word| !word.starts_with('-')) {
            arguments.question = match word.as_str() {
                "lag" => Question::Lag,
                "synchronous" => Question::Synchronous,
                "recovery" => Question::Recovery,
                _ => bail!("unknown question {word}\n{USAGE}"),
            };
        }
        while let Some(name) = words.next() {
            let value = words.next().with_context(|| format!("{name} needs a value"))?;
            let number: u32 = value
                .parse()
                .with_context(|| format!("{name} {value} is not a number"))?;
            match (name.as_str(), number) {
                ("--seconds", 1..=86_400) => arguments.duration = Duration::from_secs(number.into()),
                ("--rate", 1..=10_000) => arguments.rate = number,
                ("--wal-mb-s", 0..=1000) => arguments.wal_mb_s = number,
                ("--interval-ms", 0..=60_000) => arguments.interval = Duration::from_millis(number.into()),
                ("--clients", 1..=50) => arguments.clients = number,
                ("--scale", 1..=10_000) => arguments.scale = number,
                ("--segments", 2..=10_000) => arguments.segments = number,
                ("--round-trip-ms", 0..=1000) => arguments.round_trip = Duration::from_millis(number.into()),
                _ => bail!("unknown argument {name} {value}\n{USAGE}"),
            }
        }
        Ok(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Arguments> {
        Arguments::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn flags_are_read_and_anything_else_is_refused() {
        let arguments = parse("--rate 50 --seconds 3").unwrap();
        assert_eq!((arguments.rate, arguments.duration.as_secs()), (50, 3));
        assert_eq!(arguments.question, Question::Lag);
        let arguments = parse("synchronous --clients 4 --interval-ms 0").unwrap();
        assert_eq!(
            (arguments.question, arguments.clients, arguments.interval),
            (Question::Synchronous, 4, Duration::ZERO)
        );
        for text in ["--rate", "--rate x", "--rate 0", "--speed 1", "5", "other"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn scenarios_are_named_or_all() {
        let wanted = |text: &str| match Words::parse(text.split_whitespace().map(str::to_owned)) {
            Ok(Words::Play(wanted)) => Some((wanted.names, wanted.scale)),
            _ => None,
        };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(wanted("scenario steady idle"), Some((names(&["steady", "idle"]), 1.0)));
        assert_eq!(wanted("scenarios --scale 2.5"), Some((names(&[]), 2.5)));
        for text in [
            "scenario",
            "scenarios steady",
            "scenario steady --scale 0",
            "scenario steady --rate 5",
            "scenarioes",
        ] {
            assert_eq!(wanted(text), None, "{text}");
        }
        assert!(matches!(
            Words::parse(["lag".to_owned()].into_iter()),
            Ok(Words::Ask(_))
        ));
    }
}
