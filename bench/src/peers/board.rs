//! What all programs took, side by side: medians of the rounds, one section a question. Pure; [`crate::peers::page`] draws it.

use std::fmt::Write as _;

use picture::short;

use crate::peers::backup::Taken;
use crate::peers::ours::Ours;
use crate::peers::program::{Run, Runs};
use crate::summary::Summary;

const MIB: f64 = (1 << 20) as f64;

/// All sections of a run.
#[derive(Clone, Debug, Default)]
pub struct Board {
    /// In the order in which they were measured.
    pub sections: Vec<Section>,
}

/// Where figures go.
#[derive(Debug, Default)]
pub struct Results {
    /// Every figure.
    pub summary: Summary,
    /// What is drawn.
    pub board: Board,
}

/// One question.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// Data set, or what else it belongs to.
    pub group: String,
    /// What was done.
    pub title: String,
    /// How, in a sentence or two.
    pub about: String,
    /// A line a program.
    pub lines: Vec<Line>,
}

/// One program.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name.
    pub program: String,
    /// What it took, or why there is nothing.
    pub figures: Result<Figures, String>,
}

/// Medians of the rounds.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Seconds from its start to its end.
    pub wall_s: f64,
    /// The shortest and the longest.
    pub wall_range_s: (f64, f64),
    /// Of all its processes, and of the server's that worked for it.
    pub cpu_s: f64,
    /// Most resident memory of all its processes together; `None` for what is only there to be held against.
    pub memory_mib: Option<f64>,
    /// What is new in its repository.
    pub stored_mb: Option<f64>,
    /// As many files; as many PUTs, at least, on an object store.
    pub files: Option<f64>,
    /// Seconds of parts of it.
    pub phases: Vec<(String, f64)>,
}

/// Name, unit, and the figure.
pub type Column = (&'static str, &'static str, fn(&Figures) -> Option<f64>);

/// What is shown of each.
pub const COLUMNS: [Column; 5] = [
    ("time", "s", |figures| Some(figures.wall_s)),
    ("CPU", "s", |figures| Some(figures.cpu_s)),
    ("peak memory", "MiB", |figures| figures.memory_mib),
    ("stored", "MB", |figures| figures.stored_mb),
    ("written", "files", |figures| figures.files),
];

impl Board {
    /// Adds a section. `stores` when what is stored counts.
    pub fn add(&mut self, group: &str, title: &str, about: &str, runs: &Runs<Taken>, stores: bool) {
        self.sections.push(Section {
            group: group.to_owned(),
            title: title.to_owned(),
            about: about.to_owned(),
            lines: runs.iter().map(|run| line(run, stores)).collect(),
        });
    }

    /// Adds every figure, each held against ours.
    pub fn summarise(&self, summary: &mut Summary) {
        for section in &self.sections {
            for line in &section.lines {
                let Ok(figures) = &line.figures else { continue };
                for (column, unit, of) in COLUMNS {
                    let Some(value) = of(figures) else { continue };
                    let ours = section.ours().and_then(of).filter(|_| !line.is_ours());
                    let name = format!("{} {}, {}: {column}", section.group, section.title, line.program);
                    summary.keep_beside(name, value, unit, ours.map(|ours| (ours, Ours::NAME)));
                }
            }
        }
    }

    /// All tables as Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for section in &self.sections {
            let _ = write!(text, "\n**{}: {}**\n\n| program |", section.group, section.title);
            for (column, unit, _) in COLUMNS {
                let _ = write!(text, " {column}, {unit} |");
            }
            text.push_str(" time, of ours | parts |\n|---|");
            text.push_str(&"---:|".repeat(COLUMNS.len() + 1));
            text.push_str("---|\n");
            for line in &section.lines {
                let _ = writeln!(text, "| {} |{}", line.program, cells(section, line));
            }
        }
        text
    }
}

fn cells(section: &Section, line: &Line) -> String {
    let figures = match &line.figures {
        Ok(figures) => figures,
        Err(why) => return format!("{} n/a: {why} |", " |".repeat(COLUMNS.len() + 1)),
    };
    let mut text = String::new();
    for (_, _, of) in COLUMNS {
        let _ = write!(text, " {} |", of(figures).map_or_else(String::new, short));
    }
    let times = section.times(line, |figures| Some(figures.wall_s));
    let _ = write!(text, " {} |", times.map_or_else(String::new, short));
    let phases: Vec<String> = figures
        .phases
        .iter()
        .map(|(name, seconds)| format!("{name} {} s", short(*seconds)))
        .collect();
    let _ = write!(text, " {} |", phases.join(", "));
    text
}

impl Section {
    /// What ours took.
    #[must_use]
    pub fn ours(&self) -> Option<&Figures> {
        let line = self.lines.iter().find(|line| line.is_ours())?;
        line.figures.as_ref().ok()
    }

    /// How many times as much a program took as ours; `None` where one of them took nothing that can be seen.
    #[must_use]
    pub fn times(&self, line: &Line, of: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
        let (theirs, ours) = (of(line.figures.as_ref().ok()?)?, of(self.ours()?)?);
        (theirs > 0.0 && ours > 0.0).then_some(theirs / ours)
    }
}

impl Line {
    /// True for ours, whichever way it went.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.program.starts_with(Ours::NAME)
    }
}

fn line(run: &Run<Taken>, stores: bool) -> Line {
    let figures = match run.lacks {
        Some(lacks) => Err(lacks.0.to_owned()),
        None => Ok(figures(&run.rounds, stores)),
    };
    Line {
        program: run.name.clone(),
        figures,
    }
}

fn figures(rounds: &[Taken], stores: bool) -> Figures {
    let of = |figure: &dyn Fn(&Taken) -> f64| middle(rounds.iter().map(figure));
    let walls = || rounds.iter().map(|taken| taken.ran.wall_s);
    let phases = rounds.first().map(|taken| taken.phases.as_slice()).unwrap_or_default();
    let phase = |(at, (name, _)): (usize, &(&'static str, f64))| {
        let seconds = rounds
            .iter()
            .filter_map(|taken| taken.phases.get(at))
            .map(|phase| phase.1);
        ((*name).to_owned(), middle(seconds))
    };
    Figures {
        wall_s: of(&|taken| taken.ran.wall_s),
        wall_range_s: (walls().fold(f64::INFINITY, f64::min), walls().fold(0.0, f64::max)),
        cpu_s: of(&Taken::cpu_s),
        memory_mib: Some(of(&|taken| taken.ran.peak_bytes as f64) / MIB),
        stored_mb: stores.then(|| of(&|taken| taken.written.bytes as f64) / 1e6),
        files: stores.then(|| of(&|taken| taken.written.files as f64)),
        phases: phases.iter().enumerate().map(phase).collect(),
    }
}

/// The one in the middle.
pub(super) fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A board without a run, for tests of what is drawn of it.
#[cfg(test)]
pub(super) fn example() -> Board {
    use crate::peers::program::Lacks;

    let taken = |wall_s: f64, bytes: u64| {
        let mut taken = Taken::default();
        taken.ran.wall_s = wall_s;
        taken.ran.cpu_s = 2.0 * wall_s;
        taken.ran.peak_bytes = 64 << 20;
        taken.written.bytes = bytes;
        taken.written.files = 3;
        taken.phases = vec![("first <part>", wall_s / 2.0)];
        taken
    };
    let mut runs = Runs::default();
    for round in [0.9, 1.0, 5.0] {
        runs.add(Ours::NAME, Ok(taken(2.0 * round, 120_000_000)));
        runs.add("pgBackRest", Ok(taken(4.0 * round, 90_000_000)));
        runs.add("Barman", Err(Lacks("needs PostgreSQL 17")));
    }
    let mut board = Board::default();
    board.add(
        "pgbench",
        "full backup",
        "Each into an empty <repository>.",
        &runs,
        true,
    );
    board.add("pgbench", "restore", "Into nothing.", &runs, false);
    board
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_round_counts_and_others_are_held_against_ours() {
        let board = example();
        let full = &board.sections[0];
        let ours = full.ours().unwrap();
        assert_eq!((ours.wall_s, ours.wall_range_s), (2.0, (1.8, 10.0)));
        assert_eq!(
            (ours.stored_mb, ours.files, ours.memory_mib),
            (Some(120.0), Some(3.0), Some(64.0))
        );
        assert_eq!(ours.phases, [("first <part>".to_owned(), 1.0)]);
        let times = full.times(&full.lines[1], |figures| Some(figures.wall_s));
        assert_eq!(times, Some(2.0));
        assert_eq!(full.times(&full.lines[2], |figures| Some(figures.wall_s)), None);
        assert_eq!(board.sections[1].ours().unwrap().stored_mb, None);
    }

    #[test]
    fn markdown_has_a_cell_for_every_column() {
        let text = example().markdown();
        for row in text.lines().filter(|line| line.starts_with('|')) {
            assert_eq!(row.matches('|').count(), COLUMNS.len() + 4, "{row}");
        }
        assert!(text.contains("| n/a: needs PostgreSQL 17 |"), "{text}");
        assert!(text.contains("| pgBackRest | 4 | 8 | 64 | 90 | 3 | 2 |"), "{text}");
    }
}
