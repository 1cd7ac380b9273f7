use std::collections::BTreeSet;
use std::path::PathBuf;

use super::*;
use crate::health::Kind;

/// Values that nobody has, so that they are found again, with what a shell or Markdown could trip over.
const CONFIG: &str = r#"
[repository]
url = "s3://my-bucket/seawall"
[repository.s3]
region = "eu-central-1"
access_key_id = "AKIASECRET"
secret_access_key_file = "@DIR@/s3-secret"
[keys]
directory = "@DIR@/o'keys"
maintenance_key_command = ["/bin/unlock", "--pin=SECRETPIN"]
[cluster.main.postgres]
host = "/run/it's here"
port = 5499
user = "seawall"
password_file = "@DIR@/password"
data_directory = "/srv/it's data"
bin_directory = "/opt/pg/bin"
[cluster.main.objectives]
rpo = "7s"
rto = "77m"
[notify.oncall]
type = "slack"
url_file = "@DIR@/slack-url"
[notify.pager]
type = "command"
command = ["/usr/bin/page", "--token=SECRETTOKEN"]
"#;

const SECRETS: [&str; 6] = [
    "AKIASECRET",
    "SECRETPIN",
    "SECRETTOKEN",
    "of-s3",
    "of-postgres",
    "hooks.slack",
];

struct Stage {
    _directory: tempfile::TempDir,
    contexts: Vec<Context>,
}

fn stage(more: &str) -> Stage {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (name, content) in [
        ("s3-secret", "of-s3"),
        ("password", "of-postgres"),
        ("slack-url", "https://hooks.slack.com/x"),
    ] {
        std::fs::write(at(name), content).unwrap();
        std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let text = CONFIG.replace("@DIR@", &directory.path().display().to_string()) + more;
    std::fs::write(at("seawall.toml"), text).unwrap();
    let global = Global {
        config: Some(at("seawall.toml")),
        cluster: None,
        copy: None,
    };
    let (contexts, unread) = Context::load_each(&global).unwrap();
    assert_eq!(unread, None);
    Stage {
        _directory: directory,
        contexts,
    }
}

fn whole(stage: &Stage) -> String {
    stage
        .contexts
        .iter()
        .map(|context| of_cluster(&Known::offline(context), None))
        .collect()
}

/// Lines to paste, and commands of ours in a sentence.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_code = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("```") {
            is_code = !is_code;
        } else if is_code {
            found.push(line.to_owned());
        } else {
            let inline = line.split('`').skip(1).step_by(2);
            let ours = inline.filter(|code| code.starts_with("wal-agent ") || code.starts_with("wal-restore "));
            found.extend(ours.map(str::to_owned));
        }
    }
    found
}

#[test]
fn every_scenario_is_there_with_its_lists_and_its_name_is_known() {
    let text = whole(&stage(""));
    for name in NAMES {
        assert!(text.contains(&format!("\n## {name}: ")), "{name}");
        let stage = stage("");
        let one = of_cluster(&Known::offline(&stage.contexts[0]), Some(name));
        assert_eq!(one.matches("\n## ").count(), 1, "{one}");
        for part in [
            "**Noticed by:**",
            "### Before",
            "### During",
            "### After",
            "**Expected loss:**",
            "**Expected duration:**",
        ] {
            assert!(one.contains(part), "{name} has no {part}");
        }
    }
    assert_eq!(text.matches("\n### Before\n").count(), NAMES.len());
}

#[test]
fn nothing_secret_is_printed() {
    let text = whole(&stage(""));
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret}");
    }
    assert!(
        text.contains("`oncall` (Slack)") && text.contains("`/usr/bin/page`"),
        "{text}"
    );
}

#[test]
fn values_of_the_configuration_are_in_it_and_quoted() {
    let text = whole(&stage(""));
    for part in [
        r"DATA='/srv/it'\''s data'",
        r"o'\''keys/restore.key'",
        r#"INTO="host='/run/it\\'s here' port='5499' dbname='$DATABASE'""#,
        "RPO 7s; RTO 77m;",
        "77m by `objectives.rto`",
        "`s3://my-bucket/seawall`, region `eu-central-1`, no object lock",
        "systemctl enable --now seawall\n",
        "**There is no copy.**",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    // Each is a whole word for the shell, and says which configuration is meant.
    for command in commands(&text) {
        let syntax = std::process::Command::new("sh").args(["-n", "-c", &command]).status();
        assert!(syntax.unwrap().success(), "{command}");
    }
    let ours = |command: &&String| command.starts_with("wal-");
    let all = commands(&text);
    let unnamed: BTreeSet<&String> = all
        .iter()
        .filter(ours)
        .filter(|command| !command.contains("--config '/"))
        .collect();
    assert!(unnamed.is_empty(), "{unnamed:?}");
}

#[test]
fn several_clusters_have_pages_units_and_options_of_their_own() {
    let text = whole(&stage(
        "[cluster.other.postgres]\nhost = \"/run/other\"\n[copy.far]\nurl = \"s3://far/seawall\"\n",
    ));
    for name in ["main", "other"] {
        assert!(text.contains(&format!("# Runbooks of the PostgreSQL cluster \"{name}\"")));
        assert!(text.contains(&format!("systemctl enable --now seawall@{name}\n")));
        assert!(text.contains(&format!("--cluster '{name}' status")));
    }
    assert!(text.contains("--copy 'far' --target latest") && !text.contains("There is no copy"));
}

#[test]
fn every_alarm_that_is_named_has_its_section() {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let alarms = std::fs::read_to_string(manifest.join("../docs/ALARMS.md")).unwrap();
    let text = whole(&stage(""));
    let links = text
        .split("ALARMS.md#")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    let named: BTreeSet<&str> = links.collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        assert!(alarms.contains(&format!("\n## {name}\n")), "{name}");
        assert!(Kind::ALL.iter().any(|kind| kind.name() == name), "{name}");
    }
}

/// Sources of our programs, without this module.
fn sources(directory: &std::path::Path, text: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.file_stem().is_some_and(|stem| stem == "runbook") {
            continue;
        }
        if path.is_dir() {
            sources(&path, text);
        } else {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_message_that_is_quoted_is_one_of_ours() {
    let mut all = String::new();
    for program in ["src", "../restore/src"] {
        sources(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(program), &mut all);
    }
    let stage = stage("");
    let known = Known::offline(&stage.contexts[0]);
    let scenarios = scenarios::all(&known);
    let steps = scenarios
        .iter()
        .flat_map(|scenario| &scenario.during)
        .flat_map(|course| &course.steps);
    let mut quoted = 0;
    for (message, _) in steps.flat_map(|step| &step.refusals) {
        // PostgreSQL's own.
        if message.starts_with("exit code ") || *message == "could not restore file" {
            continue;
        }
        quoted += 1;
        for part in message.split('…').map(str::trim) {
            assert!(all.contains(part), "nobody says \"{part}\"");
        }
    }
    assert!(quoted > 20, "{quoted}");
}
