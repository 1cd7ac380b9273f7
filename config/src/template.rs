//! The example of the file, which is also what a package installs.

/// A commented example of `seawall.toml`, with every key.
pub fn template() -> &'static str {
    include_str!("template.toml")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::keys::{CLUSTER, ROOT};

    #[test]
    fn the_template_is_the_example_and_is_accepted() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/seawall.toml.example");
        assert_eq!(std::fs::read_to_string(&example).unwrap(), template());
        let config = crate::load(&example, [("A", "b")]).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(config.cluster(None).unwrap().name, "main");
    }

    #[test]
    fn every_line_without_its_comment_sign_is_accepted_too() {
        let key = |line: &str| {
            line.strip_prefix('#')
                .filter(|rest| !rest.starts_with(' '))
                .map(str::to_owned)
        };
        let lines = template()
            .lines()
            .map(|line| key(line).unwrap_or_else(|| line.to_owned()));
        let text = lines.collect::<Vec<String>>().join("\n");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seawall.toml");
        std::fs::write(&path, text).unwrap();
        crate::load_for_restore(&path, [("A", "b")]).unwrap_or_else(|errors| panic!("{errors}"));
    }

    #[test]
    fn the_template_has_every_key_and_shows_the_default() {
        let main = CLUSTER.flatten("cluster.main");
        for (path, key) in ROOT.flatten("").into_iter().chain(main) {
            if !key.kind.is_usable() {
                continue;
            }
            let name = format!("{path}.{}", key.name);
            let table = template().split(&format!("[{path}]\n")).nth(1);
            let table = table.and_then(|rest| rest.split("\n[").next());
            let table = table.unwrap_or_else(|| panic!("{name}"));
            let mut lines = table.lines().map(|line| line.trim_start_matches('#'));
            let line = lines.find_map(|line| line.strip_prefix(&format!("{} = ", key.name)));
            let line = line.unwrap_or_else(|| panic!("{name}"));
            if let Some(default) = key.default {
                assert_eq!(line.trim_matches('"'), default, "{name}");
            }
        }
    }
}
