//! What every program is asked for, and what came of it, round after round.

use std::io;
use std::path::Path;
use std::process::Command;

use crate::peers::backup::Taken;
use crate::peers::process::Ran;

/// Why a program cannot do what it was asked for. That is written where others have a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lacks(pub &'static str);

/// What was done, or why not.
pub type Able<T> = Result<T, Lacks>;

/// What is in the directory into which is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// There is none, or it is empty.
    Nothing,
    /// A restored cluster, of which some pages may be wrong.
    Cluster,
}

/// A program with a repository in a directory of its own.
pub trait Program {
    /// As tables and pictures have it.
    fn name(&self) -> &'static str;

    /// Its directory, with everything that it keeps.
    fn home(&self) -> &Path;

    /// Takes a full backup, or an increment on the newest one.
    ///
    /// # Errors
    /// It failed.
    fn backup(&self, is_increment: bool) -> io::Result<Able<Taken>>;

    /// Restores the newest backup without recovery, durable.
    ///
    /// # Errors
    /// It failed.
    fn restore(&self, to: &Path, over: Over) -> io::Result<Able<Ran>>;

    /// Its `archive_command` for the cluster in `data`.
    fn push(&self, data: &Path) -> Able<String>;

    /// What has to run behind the last `archive_command`, once.
    fn after_pushes(&self) -> Option<Command> {
        None
    }

    /// Its `restore_command` for the cluster in `data`.
    fn get(&self, data: &Path) -> Able<String>;

    /// Whether a file below [`Self::home`] is archived WAL.
    fn is_wal(&self, path: &Path) -> bool;

    /// Forgets what it has fetched ahead.
    ///
    /// # Errors
    /// It cannot be removed.
    fn forget(&self) -> io::Result<()> {
        Ok(())
    }

    /// Restores the newest backup so that a server that is started on it recovers to a moment and then is promoted.
    ///
    /// # Errors
    /// It failed.
    fn recover(&self, to: &Path, time: &str) -> io::Result<Able<Ran>>;
}

/// What programs took, by name, in the order in which they came.
#[derive(Debug)]
pub struct Runs<T>(Vec<Run<T>>);

/// Of one program.
#[derive(Debug)]
pub struct Run<T> {
    /// Its name.
    pub name: String,
    /// A round each.
    pub rounds: Vec<T>,
    /// Why there is none.
    pub lacks: Option<Lacks>,
}

impl<T> Default for Runs<T> {
    fn default() -> Self {
        Runs(Vec::new())
    }
}

impl<T> Runs<T> {
    /// Adds a round.
    pub fn add(&mut self, name: &str, round: Able<T>) {
        let at = self.0.iter().position(|run| run.name == name).unwrap_or(self.0.len());
        if at == self.0.len() {
            self.0.push(Run {
                name: name.to_owned(),
                rounds: Vec::new(),
                lacks: None,
            });
        }
        let Some(run) = self.0.get_mut(at) else { return };
        match round {
            Ok(one) => run.rounds.push(one),
            Err(lacks) => run.lacks = Some(lacks),
        }
    }

    /// The rounds of one program; none where it has none.
    #[must_use]
    pub fn of(&self, name: &str) -> &[T] {
        let run = self.0.iter().find(|run| run.name == name);
        run.map_or(&[], |run| run.rounds.as_slice())
    }

    /// All programs.
    pub fn iter(&self) -> impl Iterator<Item = &Run<T>> {
        self.0.iter()
    }
}

impl Runs<Ran> {
    /// The same as rows of a board.
    #[must_use]
    pub fn taken(&self) -> Runs<Taken> {
        let taken = |ran: &Ran| Taken::from(ran.clone());
        let one = |run: &Run<Ran>| Run {
            name: run.name.clone(),
            rounds: run.rounds.iter().map(taken).collect(),
            lacks: run.lacks,
        };
        Runs(self.0.iter().map(one).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_collected_by_name_in_their_first_order() {
        let mut runs = Runs::default();
        for round in 0..2 {
            runs.add("b", Ok(round));
            runs.add("a", Ok(10 + round));
            runs.add("none", Err(Lacks("cannot")));
        }
        let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
        assert_eq!(names, ["b", "a", "none"]);
        assert_eq!(runs.of("a"), [10, 11]);
        assert!(runs.of("none").is_empty() && runs.of("unknown").is_empty());
        assert_eq!(runs.iter().last().unwrap().lacks, Some(Lacks("cannot")));
    }
}
