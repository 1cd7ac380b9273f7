//! The Debian package: what is in it, that the same sources give the same bytes, that its units are sound and locked down, its pages and completions
//! render, and that its scripts enable nothing and never remove a key.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tests::case::case;
use tests::{install, tree};

/// `systemd-analyze security`: from 0 (best) to 10.
const EXPOSURE_MAX: f64 = 2.0;

const FILES: [&str; 19] = [
    "usr/bin/wal-agent",
    "usr/bin/wal-restore",
    "usr/lib/systemd/system/seawall.service",
    "usr/lib/systemd/system/seawall@.service",
    "usr/lib/systemd/system/seawall-backup.timer",
    "usr/lib/systemd/system/seawall-verify.timer",
    "usr/lib/systemd/system/seawall-prune.timer",
    "usr/lib/tmpfiles.d/seawall.conf",
    "usr/lib/sysusers.d/seawall.conf",
    "usr/share/doc/seawall/FIRST_RESTORE.md",
    "usr/share/doc/seawall/OPERATIONS.md",
    "usr/share/doc/seawall/FORMAT.md",
    "usr/share/doc/seawall/ALARMS.md",
    "usr/share/doc/seawall/examples/seawall.toml.example",
    "usr/share/doc/seawall/examples/grafana-dashboard.json",
    "usr/share/doc/seawall/examples/seawall.rules.yml",
    "usr/share/doc/seawall/reader/seawall_reader.py",
    "usr/share/doc/seawall/copyright",
    "usr/share/doc/seawall/sbom.cdx.json",
];

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {stdout}{stderr}");
    Ok(format!("{stdout}{stderr}"))
}

fn build(output: &Path) -> Result<PathBuf> {
    let agent = install::agent_bin()?;
    // Beside it.
    install::restore_bin()?;
    let mut command = Command::new(sources().join("systemd/package.sh"));
    // Programs with all that is for debugging take minutes to be compressed.
    let output = command
        .arg(agent.parent().unwrap())
        .arg(output)
        .env("DEB_COMPRESSION", "none")
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}

#[test]
fn the_package_has_what_a_host_needs_and_is_the_same_each_time() {
    case("package", async |scratch| {
        let (first, second) = (build(&scratch.join("one"))?, build(&scratch.join("two"))?);
        ensure!(std::fs::read(&first)? == std::fs::read(&second)?, "two builds differ");
        let root = scratch.join("root");
        run(Command::new("dpkg-deb").arg("--raw-extract").arg(&first).arg(&root))?;
        for file in FILES {
            ensure!(root.join(file).is_file(), "{file} is missing");
        }
        run(Command::new("md5sum")
            .args(["--check", "--quiet", "DEBIAN/md5sums"])
            .current_dir(&root))?;
        let version = run(Command::new(root.join("usr/bin/wal-agent")).arg("--version"))?;
        let field = run(Command::new("dpkg-deb").arg("--field").arg(&first).arg("Version"))?;
        ensure!(version.contains(field.trim()), "{version} {field}");

        let rules = root.join("usr/share/doc/seawall/examples/seawall.rules.yml");
        let said = run(Command::new("promtool").args(["check", "rules"]).arg(&rules))?;
        ensure!(said.contains("SUCCESS: 43 rules found"), "{said}");

        // Pages and completions.
        let pages = tree::files(&root.join("usr/share/man/man1"))?;
        ensure!(pages.len() > 20, "{pages:?}");
        for page in &pages {
            let rendered = run(Command::new("man")
                .args(["--warnings", "-l"])
                .arg(page)
                .env("MANPAGER", "cat"))?;
            ensure!(
                rendered.contains("SYNOPSIS") && !rendered.contains("warning"),
                "{page:?}: {rendered}"
            );
        }
        for program in ["wal-agent", "wal-restore"] {
            let bash = root.join("usr/share/bash-completion/completions").join(program);
            run(Command::new("bash").arg("-n").arg(bash))?;
            for other in ["zsh/vendor-completions/_", "fish/vendor_completions.d/"] {
                let suffix = if other.starts_with("fish") { ".fish" } else { "" };
                let text = std::fs::read_to_string(root.join(format!("usr/share/{other}{program}{suffix}")))?;
                ensure!(text.contains(program), "{other}{program}");
            }
        }
        let sbom = std::fs::read(root.join("usr/share/doc/seawall/sbom.cdx.json"))?;
        let sbom: serde_json::Value = serde_json::from_slice(&sbom)?;
        let components = sbom["components"].as_array().unwrap();
        let has = |name: &str| components.iter().any(|component| component["name"] == name);
        ensure!(
            has("blake3") && has("aws-sdk-s3") && !has("proptest"),
            "{} components",
            components.len()
        );
        Ok(())
    });
}

#[test]
fn units_are_sound_and_locked_down() {
    case("units", async |scratch| {
        let directory = scratch.dir("units")?;
        let mut units = Vec::new();
        for entry in std::fs::read_dir(sources().join("systemd"))? {
            let path = entry?.path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if !(name.ends_with(".service") || name.ends_with(".timer")) {
                continue;
            }
            // The programs and pages are not installed here.
            let text = std::fs::read_to_string(&path)?.replace("/usr/bin/wal-agent", "/bin/true");
            let text: String = text
                .lines()
                .filter(|line| !line.starts_with("Documentation="))
                .map(|line| format!("{line}\n"))
                .collect();
            let unit = directory.join(name.replace("@.", "@main."));
            std::fs::write(&unit, text)?;
            units.push(unit);
        }
        ensure!(units.len() == 8, "{units:?}");
        let said = run(Command::new("systemd-analyze").arg("verify").args(&units))?;
        ensure!(said.trim().is_empty(), "{said}");
        for unit in units
            .iter()
            .filter(|unit| unit.extension().is_some_and(|extension| extension == "service"))
        {
            let said = run(Command::new("systemd-analyze")
                .args(["security", "--offline=true"])
                .arg(unit))?;
            let line = said
                .lines()
                .find(|line| line.contains("Overall exposure level"))
                .unwrap_or_default();
            let exposure: f64 = line
                .split(": ")
                .nth(1)
                .and_then(|rest| rest.split(' ').next())
                .unwrap_or("10")
                .parse()?;
            println!("{}: {exposure}", unit.display());
            ensure!(exposure <= EXPOSURE_MAX, "{line}");
        }
        Ok(())
    });
}

#[test]
fn scripts_enable_nothing_and_remove_no_key() {
    let script = |name: &str| std::fs::read_to_string(sources().join("systemd/deb").join(name)).unwrap();
    for name in ["postinst", "prerm", "postrm"] {
        run(Command::new("sh")
            .arg("-n")
            .arg(sources().join("systemd/deb").join(name)))
        .unwrap();
    }
    assert!(!script("postinst").contains("systemctl enable") && !script("postinst").contains("systemctl start"));
    let removes: Vec<String> = script("postrm")
        .lines()
        .filter(|line| line.contains("rm "))
        .map(str::to_owned)
        .collect();
    assert_eq!(removes, ["  rm -rf /var/lib/seawall"]);
    // Slots are dropped only for who asks for it.
    let prerm = script("prerm");
    let asked = prerm.find("SEAWALL_DROP_SLOTS:-no").unwrap();
    assert!(prerm.find("drop-slots --yes").is_some_and(|at| at > asked));
}

/// What Grafana needs of a dashboard to show it: its panels have places that do not overlap, a type, and questions that Prometheus understands.
#[test]
fn the_dashboard_can_be_shown() {
    case("dashboard", async |scratch| {
        let text = std::fs::read(sources().join("monitoring/grafana-dashboard.json"))?;
        let dashboard: serde_json::Value = serde_json::from_slice(&text)?;
        for name in ["uid", "title"] {
            ensure!(dashboard[name].as_str().is_some_and(|text| !text.is_empty()), "{name}");
        }
        ensure!(
            dashboard["schemaVersion"].as_u64() >= Some(36),
            "{}",
            dashboard["schemaVersion"]
        );
        let mut taken = std::collections::BTreeSet::new();
        let mut ids = std::collections::BTreeSet::new();
        let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
        for panel in dashboard["panels"].as_array().unwrap() {
            ensure!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
            let kind = panel["type"].as_str().unwrap();
            ensure!(
                ["stat", "timeseries", "table", "gauge", "state-timeline", "row"].contains(&kind),
                "{kind}"
            );
            let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
            ensure!(at("w") > 0 && at("h") > 0 && at("x") + at("w") <= 24, "{panel}");
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    ensure!(taken.insert((x, y)), "two panels at {x}, {y}: {panel}");
                }
            }
            for target in panel["targets"].as_array().unwrap() {
                ensure!(
                    target["refId"].is_string() && target["datasource"]["uid"] == "${datasource}",
                    "{target}"
                );
                let question = target["expr"].as_str().unwrap();
                let question = question.replace("$__rate_interval", "5m").replace("$cluster", ".*");
                ensure!(!question.contains('$'), "{question}");
                let quoted = serde_json::to_string(&question)?;
                rules.push_str(&format!(
                    "  - record: dashboard:{}\n    expr: {quoted}\n",
                    ids.len() * 100 + rules.len()
                ));
            }
        }
        let file = scratch.write("dashboard.rules.yml", rules)?;
        let said = run(Command::new("promtool").args(["check", "rules"]).arg(file))?;
        ensure!(said.contains("SUCCESS"), "{said}");
        Ok(())
    });
}
