//! The command line.

use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How long, and how fast.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arguments {
    pub(crate) duration: Duration,
    /// Commits a second.
    pub(crate) rate: u32,
}

impl Arguments {
    /// `--seconds N --rate N`, each optional.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut arguments = Self {
            duration: Duration::from_secs(20),
            rate: 200,
        };
        while let Some(name) = words.next() {
            let value = words.next().with_context(|| format!("{name} needs a value"))?;
            let number: u32 = value
                .parse()
                .with_context(|| format!("{name} {value} is not a number"))?;
            match (name.as_str(), number) {
                ("--seconds", 1..=86_400) => arguments.duration = Duration::from_secs(number.into()),
                ("--rate", 1..=10_000) => arguments.rate = number,
                _ => bail!("unknown argument {name} {value}\nHINT: loadtest [--seconds 1..86400] [--rate 1..10000]"),
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
    fn both_flags_are_read_and_anything_else_is_refused() {
        let arguments = parse("--rate 50 --seconds 3").unwrap();
        assert_eq!((arguments.rate, arguments.duration.as_secs()), (50, 3));
        for text in ["--rate", "--rate x", "--rate 0", "--speed 1", "5"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
