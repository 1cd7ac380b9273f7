//! Commands as they can be pasted into a shell. Pure.

use std::path::Path;

/// One word for a POSIX shell, whatever is in it.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A path, likewise.
pub fn path(path: &Path) -> String {
    quote(&path.display().to_string())
}

/// A value of a connection string, for a place between double quotes of the shell.
pub fn conninfo(text: &str) -> String {
    let value = text.replace('\\', r"\\").replace('\'', r"\'");
    let mut out = String::from("'");
    for c in value.chars() {
        if matches!(c, '\\' | '"' | '$' | '`') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('\'');
    out
}

/// Our two programs, told which configuration and which cluster are meant where they would not know by themselves.
#[derive(Debug)]
pub struct Programs {
    options: String,
}

impl Programs {
    /// `config` when it is not where the programs look for it, `cluster` when there are several.
    pub fn new(config: Option<&Path>, cluster: Option<&str>) -> Self {
        let mut options = String::new();
        if let Some(config) = config {
            options.push_str(&format!(" --config {}", path(config)));
        }
        if let Some(cluster) = cluster {
            options.push_str(&format!(" --cluster {}", quote(cluster)));
        }
        Programs { options }
    }

    /// `wal-agent …`
    pub fn agent(&self, arguments: &str) -> String {
        format!("wal-agent{} {arguments}", self.options)
    }

    /// `wal-restore …`
    pub fn restore(&self, arguments: &str) -> String {
        format!("wal-restore{} {arguments}", self.options)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn shell(script: &str) -> String {
        let output = Command::new("sh").args(["-c", script]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for text in [
            "plain",
            "two words",
            "it's",
            "$HOME `id` \\ \"x\"",
            "",
            "-n",
            "a;b&c|d>e*",
        ] {
            assert_eq!(shell(&format!("printf %s {}", quote(text))), text);
        }
    }

    #[test]
    fn a_connection_string_survives_the_shell() {
        let text = shell(&format!("printf %s \"host={}\"", conninfo("/tmp/o'dd $x\\")));
        assert_eq!(text, r"host='/tmp/o\'dd $x\\'");
    }

    #[test]
    fn what_the_programs_know_is_left_out() {
        assert_eq!(Programs::new(None, None).agent("list"), "wal-agent list");
        let both = Programs::new(Some(Path::new("/etc/a b.toml")), Some("main"));
        assert_eq!(
            both.restore("list"),
            "wal-restore --config '/etc/a b.toml' --cluster 'main' list"
        );
    }
}
