//! What a runbook is made of, and how that becomes Markdown. Pure.

use std::fmt::Write as _;

use crate::health::Kind;
use crate::notify::RUNBOOK;

/// What to do in one kind of disaster.
#[derive(Debug, Default)]
pub struct Scenario {
    /// As `--scenario` has it.
    pub name: &'static str,
    pub title: &'static str,
    /// Alarms by which it shows, where the agent lives.
    pub alarms: &'static [Kind],
    /// By what else.
    pub signs: String,
    /// What must be ready long before.
    pub before: Vec<String>,
    /// The way, and other ways; the first is the usual one.
    pub during: Vec<Course>,
    /// What is left to do.
    pub after: Vec<String>,
    /// What it costs: data, and time.
    pub loss: String,
    pub duration: String,
}

/// Steps, one after another.
#[derive(Debug)]
pub struct Course {
    /// When it is to be taken; none for the usual one.
    pub when: Option<&'static str>,
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Debug)]
pub struct Step {
    what: String,
    commands: Vec<String>,
    prints: String,
    /// What it may say instead, and what to do then.
    pub refusals: Vec<(&'static str, String)>,
}

impl Course {
    /// The usual way.
    pub fn usual(steps: Vec<Step>) -> Self {
        Course { when: None, steps }
    }

    /// Another way.
    pub fn otherwise(when: &'static str, steps: Vec<Step>) -> Self {
        Course {
            when: Some(when),
            steps,
        }
    }
}

impl Step {
    pub fn new(what: impl Into<String>) -> Self {
        Step {
            what: what.into(),
            commands: Vec::new(),
            prints: String::new(),
            refusals: Vec::new(),
        }
    }

    /// A line to paste. Assignments stand alone, so that who pastes can change them first.
    #[must_use]
    pub fn run(mut self, command: impl Into<String>) -> Self {
        self.commands.push(command.into());
        self
    }

    /// What it says, and what that means.
    #[must_use]
    pub fn prints(mut self, text: impl Into<String>) -> Self {
        self.prints = text.into();
        self
    }

    /// What to do when it says this instead.
    #[must_use]
    pub fn refused(mut self, message: &'static str, answer: impl Into<String>) -> Self {
        self.refusals.push((message, answer.into()));
        self
    }

    fn markdown(&self, text: &mut String, number: usize) {
        let _ = writeln!(text, "{number}. {}", self.what);
        if !self.commands.is_empty() {
            // Indented below its number: else Markdown begins to count anew.
            let _ = writeln!(text, "\n   ```sh");
            for command in &self.commands {
                let _ = writeln!(text, "   {command}");
            }
            let _ = writeln!(text, "   ```\n");
        }
        if !self.prints.is_empty() {
            let _ = writeln!(text, "   {}\n", self.prints);
        }
        for (message, answer) in &self.refusals {
            let says = match message.starts_with("exit code ") {
                true => format!("Ends with {message}"),
                false => format!("Says \"{message}\""),
            };
            let _ = writeln!(text, "   - {says}: {answer}");
        }
        if !self.refusals.is_empty() {
            text.push('\n');
        }
    }
}

impl Scenario {
    /// As a section.
    pub fn markdown(&self) -> String {
        let mut text = format!("## {}: {}\n\n", self.name, self.title);
        let alarms: Vec<String> = self.alarms.iter().map(|kind| link(*kind)).collect();
        let noticed = match alarms.is_empty() {
            true => "no alarm of the agent is certain".to_owned(),
            false => format!("alarms {}", alarms.join(", ")),
        };
        let _ = writeln!(text, "**Noticed by:** {noticed}. {}\n", self.signs);
        let _ = writeln!(text, "**Expected loss:** {}\n", self.loss);
        let _ = writeln!(text, "**Expected duration:** {}\n", self.duration);
        list(&mut text, "Before", &self.before);
        for course in &self.during {
            match course.when {
                None => text.push_str("### During\n\n"),
                Some(when) => {
                    let _ = writeln!(text, "#### Otherwise: {when}\n");
                }
            }
            for (at, step) in course.steps.iter().enumerate() {
                step.markdown(&mut text, at + 1);
            }
            if !text.ends_with("\n\n") {
                text.push('\n');
            }
        }
        list(&mut text, "After", &self.after);
        text
    }
}

fn list(text: &mut String, title: &str, points: &[String]) {
    let _ = writeln!(text, "### {title}\n");
    for point in points {
        let _ = writeln!(text, "- [ ] {point}");
    }
    text.push('\n');
}

/// An alarm, with the place where it is explained.
pub fn link(kind: Kind) -> String {
    format!("[{0}]({RUNBOOK}{0})", kind.name())
}

/// A value between backticks, as many as it needs.
pub fn code(value: &str) -> String {
    match value.contains('`') {
        true => format!("`` {value} ``"),
        false => format!("`{value}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_its_commands_below_its_number() {
        let step = Step::new("Look.")
            .run("A='b'")
            .run("look \"$A\"")
            .prints("Prints it.")
            .refused("no", "say yes");
        let mut text = String::new();
        step.markdown(&mut text, 2);
        assert_eq!(
            text,
            "2. Look.\n\n   ```sh\n   A='b'\n   look \"$A\"\n   ```\n\n   Prints it.\n\n   - Says \"no\": say yes\n\n"
        );
    }
}
