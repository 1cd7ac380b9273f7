//! What `verify` says.

use std::collections::BTreeSet;

use pg::segment::SegmentSize;
use serde_json::json;
use store::layout::{WalName, WalRange};
use store::manifest::Manifest;
use store::repository::Repository;
use store::verify::{Finding, Severity, Share, Structure, excuse, excuse_covered};

use super::{Key, Read, damaged};
use crate::list::{Window, windows};
use crate::output;

/// Findings in the text; JSON has all.
const SHOWN: usize = 50;
/// How many objects from the end of the WAL are asked for the newest commit.
const HEADERS_READ: usize = 32;

/// Prints it; an error where something is damaged.
pub(super) async fn print(
    repository: &Repository,
    key: Key,
    structure: Structure,
    read: Option<Read>,
    as_json: bool,
) -> anyhow::Result<()> {
    let mut findings = structure.findings.clone();
    findings.extend(read.iter().flat_map(|read| read.findings.iter().cloned()));
    findings.sort_by(|a, b| (&a.object, &a.reason).cmp(&(&b.object, &b.reason)));
    findings.dedup();
    excuse_covered(repository.layout(), &structure.coverages, &mut findings);
    excuse(repository, &mut findings).await?;
    findings.sort_by(|a, b| (b.severity, &a.object, &a.reason).cmp(&(a.severity, &b.object, &b.reason)));
    let windows = reachable(repository, &structure, &findings);
    let mut points = Vec::new();
    for window in windows {
        let newest = newest_commit(repository, &structure, &window).await?;
        points.push((window, newest));
    }
    if as_json {
        print_json(key, &structure, read.as_ref(), &findings, &points)?;
    } else {
        print_text(key, &structure, read.as_ref(), &findings, &points);
    }
    match findings
        .iter()
        .filter(|finding| finding.severity == Severity::Damage)
        .count()
    {
        0 => Ok(()),
        damages => Err(damaged(damages)),
    }
}

/// What can be restored without anything that was found damaged.
fn reachable(repository: &Repository, structure: &Structure, findings: &[Finding]) -> Vec<Window> {
    let damage = findings.iter().filter(|finding| finding.severity == Severity::Damage);
    let bad: BTreeSet<&str> = damage.map(|finding| finding.object.as_str()).collect();
    let layout = repository.layout();
    let is_whole = |manifest: &&Manifest| {
        let names = manifest.packs.iter().filter_map(|need| layout.pack(need.id).ok());
        let mut names = names.chain(layout.manifest(manifest.backup).ok());
        !names.any(|name| bad.contains(name.as_str()))
    };
    let backups: Vec<Manifest> = structure.manifests.iter().filter(is_whole).cloned().collect();
    let mut coverages = structure.coverages.clone();
    for name in bad {
        if let Some(WalName::Range(range)) = layout.parse_wal(name) {
            coverages.iter_mut().for_each(|coverage| coverage.remove(&range));
        }
    }
    windows(&backups, &coverages)
}

/// The newest commit of a window, by the facts in the headers of its last objects. Those are signed; one that is damaged says nothing here.
async fn newest_commit(repository: &Repository, structure: &Structure, window: &Window) -> anyhow::Result<Option<i64>> {
    let mut coverages = structure.coverages.iter();
    let coverage = coverages.find(|coverage| coverage.lineage == window.lineage);
    let archived = coverage.and_then(|coverage| coverage.timelines.get(&window.timeline));
    let mut manifests = structure.manifests.iter();
    let manifest = manifests.find(|manifest| manifest.lineage == window.lineage);
    let (Some(archived), Some(manifest)) = (archived, manifest) else {
        return Ok(None);
    };
    let mut ranges: Vec<&WalRange> = archived.ranges.iter().filter(|range| range.end <= window.to).collect();
    ranges.sort_by_key(|range| (std::cmp::Reverse(range.end), range.tail));
    let size = SegmentSize::new(manifest.segment_bytes)?;
    for range in ranges.into_iter().take(HEADERS_READ) {
        let name = repository.layout().wal(range, size)?;
        let header = match repository.read_header(&name).await {
            Err(error) if error.damaged_object().is_some() => continue,
            found => found?.map(|(_, header)| header),
        };
        if let Some(time) = header.and_then(|header| header.wal?.time_highest_us) {
            return Ok(Some(time));
        }
    }
    Ok(None)
}

fn print_json(
    key: Key,
    structure: &Structure,
    read: Option<&Read>,
    findings: &[Finding],
    points: &[(Window, Option<i64>)],
) -> anyhow::Result<()> {
    let findings: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "object": finding.object,
                "severity": severity(finding.severity),
                "reason": finding.reason,
            })
        })
        .collect();
    let reachable: Vec<_> = points
        .iter()
        .map(|(window, newest)| {
            json!({
                "lineage": window.lineage.to_string(),
                "timeline": window.timeline.as_u32(),
                "from_lsn": window.from.to_string(),
                "to_lsn": window.to.to_string(),
                "newest_commit": newest.map(output::time_us),
            })
        })
        .collect();
    let bytes = read.map(|read| {
        json!({
            "objects": read.objects,
            "bytes": read.bytes,
            "content_compared": read.content,
            "whole_repository": read.share == Share::ALL,
        })
    });
    output::print_json(&json!({
        "key": key.word(),
        "objects": structure.inventory.objects.len(),
        "stored_bytes": structure.inventory.bytes(),
        "backups": structure.manifests.len(),
        "read": bytes,
        "findings": findings,
        "reachable": reachable,
    }))
}

fn print_text(
    key: Key,
    structure: &Structure,
    read: Option<&Read>,
    findings: &[Finding],
    points: &[(Window, Option<i64>)],
) {
    println!(
        "Structure: {} objects, {}, {} backups: names, signatures, references and heads of WAL looked at, with the {} key",
        structure.inventory.objects.len(),
        output::bytes(structure.inventory.bytes()),
        structure.manifests.len(),
        key.word(),
    );
    match read {
        None => println!("Bytes: not read. --all reads everything, --share 30 a thirtieth each time"),
        Some(read) => println!(
            "Bytes: {} objects, {} read and hashed; of {} the content was decrypted and compared",
            read.objects,
            output::bytes(read.bytes),
            read.content
        ),
    }
    for (window, newest) in points {
        let newest = newest.map_or("no commit noted".to_owned(), |time| {
            format!("newest commit {}", output::time_us(time))
        });
        println!(
            "Reachable on timeline {}: {} to {}, {newest} (lineage {})",
            window.timeline.as_u32(),
            window.from,
            window.to,
            window.lineage
        );
    }
    for finding in findings.iter().take(SHOWN) {
        println!(
            "{}: {}: {}",
            severity(finding.severity).to_uppercase(),
            finding.object,
            finding.reason
        );
    }
    if findings.len() > SHOWN {
        println!("and {} more; --json prints all", findings.len() - SHOWN);
    }
    match (findings.is_empty(), read) {
        (true, Some(_)) => println!("Nothing is wrong."),
        (true, None) => println!("Nothing is wrong with the structure."),
        (false, _) => {}
    }
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Notice => "notice",
        Severity::Damage => "damage",
    }
}
