//! The end of WAL on a page or segment boundary and a few bytes beside it: agent and server are restarted exactly there, and what is
//! archived is restored each time.
//!
//! A filler of the right size is followed by nothing but its commit record, so WAL ends where the test wants it. Where something else
//! wrote WAL meanwhile, the test goes on to the next boundary.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tests::cluster::{lsn_text, parse_lsn, query_one};
use tests::seawall::{flushed_lsn, json_array, json_lsn};
use tests::wait::DEADLINE;
use tests::{Child, Cluster, Seawall, StopMode, case};

const PAGE: u64 = 8192;
const SEGMENT: u64 = 1 << 20;
/// Headers of a page, and of the first page of a segment.
const HEADERS: (u64, u64) = (24, 40);
/// Header of a record and of its data, and a message without prefix or text.
const EMPTY_MESSAGE: u64 = 24 + 5 + 24 + 1;
/// From here on the data of a record has the longer header.
const MESSAGE_MIN: u64 = 256;

/// Where WAL is to end, relative to a boundary: before it, on it, or behind the header that follows it. Eight bytes before, the
/// header of the next record is split in two.
#[derive(Debug, Clone, Copy)]
enum End {
    Before(u64),
    On,
    BehindHeader(u64),
}

const ENDS: [End; 5] = [
    End::Before(24),
    End::Before(16),
    End::Before(8),
    End::On,
    End::BehindHeader(8),
];

/// WAL bytes without page headers before an LSN (PostgreSQL's `XLogRecPtrToBytePos`).
fn byte_position(lsn: u64) -> u64 {
    let (short, long) = HEADERS;
    let in_segment = (SEGMENT / PAGE) * (PAGE - short) - (long - short);
    let (segment, page, offset) = (lsn / SEGMENT, lsn % SEGMENT / PAGE, lsn % PAGE);
    let before = match page {
        0 => 0,
        _ => (PAGE - long) + (page - 1) * (PAGE - short),
    };
    let header = if page == 0 { long } else { short };
    segment * in_segment + before + offset.saturating_sub(header)
}

#[test]
fn byte_positions_skip_headers_alone() {
    assert_eq!(byte_position(SEGMENT), byte_position(SEGMENT + 40));
    assert_eq!(byte_position(SEGMENT + 48), byte_position(SEGMENT) + 8);
    assert_eq!(
        byte_position(SEGMENT + PAGE - 8),
        byte_position(SEGMENT + PAGE + 24) - 8
    );
    assert_eq!(byte_position(3 * SEGMENT - 8), byte_position(3 * SEGMENT + 40) - 8);
    assert_eq!(
        byte_position(SEGMENT + 2 * PAGE + 32),
        byte_position(SEGMENT + 2 * PAGE) + 8
    );
}

/// The first boundary behind `from` that leaves `room`, and the end that is wanted there.
fn target(end: End, unit: u64, from: u64, room: u64) -> u64 {
    let mut boundary = (from / unit + 1) * unit;
    loop {
        let header = if boundary.is_multiple_of(SEGMENT) {
            HEADERS.1
        } else {
            HEADERS.0
        };
        let at = match end {
            End::Before(bytes) => boundary - bytes,
            End::On => boundary,
            End::BehindHeader(bytes) => boundary + header + bytes,
        };
        // A page boundary that is no segment's as well.
        let is_wanted = unit == SEGMENT || !boundary.is_multiple_of(SEGMENT);
        if is_wanted && at > from && byte_position(at) >= byte_position(from) + room {
            return at;
        }
        boundary += unit;
    }
}

/// A transaction that is one message of that many bytes and its commit record; returns where WAL ends then.
async fn fill(cluster: &Cluster, bytes: u64) -> Result<(u64, u64)> {
    let client = cluster.connect().await?;
    let from = parse_lsn(&query_one(&client, "select pg_current_wal_insert_lsn()").await?)?;
    let text = bytes - EMPTY_MESSAGE;
    let sql = format!("begin; select pg_logical_emit_message(true, '', repeat('x', {text})); commit");
    client.batch_execute(&sql).await?;
    let to = parse_lsn(&query_one(&client, "select pg_current_wal_flush_lsn()").await?)?;
    Ok((from, to))
}

/// What a filler's transaction takes besides the filler: the commit record.
async fn commit_bytes(cluster: &Cluster) -> Result<u64> {
    let mut measured = Vec::new();
    for bytes in [512, 1024, 2048] {
        let (from, to) = fill(cluster, bytes).await?;
        measured.push(byte_position(to) - byte_position(from) - bytes);
    }
    let least = measured.iter().min().copied().context("nothing was measured")?;
    ensure!((32..64).contains(&least), "a commit record of {measured:?} bytes");
    Ok(least)
}

/// Makes WAL end there. Returns where.
async fn land(cluster: &Cluster, end: End, unit: u64, commit: u64) -> Result<u64> {
    for _ in 0..20 {
        let from = cluster.current_lsn().await?;
        let at = target(end, unit, from, EMPTY_MESSAGE + MESSAGE_MIN + commit);
        let bytes = byte_position(at) - byte_position(from) - commit;
        ensure!(bytes.is_multiple_of(8), "records are aligned, and {bytes} is not");
        let (began, ended) = fill(cluster, bytes).await?;
        if ended == at {
            return Ok(at);
        }
        println!(
            "wanted {}, got {} from {}",
            lsn_text(at),
            lsn_text(ended),
            lsn_text(began)
        );
    }
    bail!("{end:?} of {unit} was not met")
}

#[test]
fn wal_that_ends_on_or_beside_a_boundary_is_archived_and_restored() {
    case("boundaries", async |scratch| {
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .setting("autovacuum", "off")
            .setting("checkpoint_timeout", "1h")
            // Otherwise it notes the running transactions every 15 seconds.
            .setting("bgwriter_delay", "10s")
            .setting("bgwriter_lru_maxpages", "0")
            .create(&scratch, "main")
            .await?;
        cluster.exec("create table t (i int)").await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let mut agent = seawall.run().await?;
        seawall.backup().await?;
        let commit = commit_bytes(&cluster).await?;

        let mut landed = 0;
        for unit in [PAGE, SEGMENT] {
            for end in ENDS {
                landed += 1;
                let name = format!("{end:?} of {unit}");
                cluster.exec(&format!("insert into t values ({landed})")).await?;
                let mut attempts = 0;
                while !restarted_there(&seawall, &cluster, &mut agent, end, unit, commit)
                    .await
                    .with_context(|| name.clone())?
                {
                    attempts += 1;
                    assert!(attempts < 5, "{name}: the server always goes on by itself");
                }
                let restored = seawall
                    .restore_to(&format!("r{landed}"), &["--target", "latest"])
                    .await?;
                let rows = restored.query_one("select count(*) || ' ' || max(i) from t").await?;
                assert_eq!(rows, format!("{landed} {landed}"), "{name}");
                restored.kill9()?;
                // So does the server, after a crash or a clean stop.
                if landed % 2 == 0 {
                    cluster.kill9()?;
                    cluster.start().await?;
                } else {
                    cluster.restart().await?;
                }
                cluster.exec("select 1").await?;
                seawall.wait_archived(&cluster).await?;
            }
        }
        // The shortest way to the end of a segment, and a second time when it is there already.
        cluster.switch_wal().await?;
        let at = flushed_lsn(&cluster).await?;
        assert_eq!(at % SEGMENT, 0);
        cluster.exec("select pg_switch_wal()").await?;
        assert!(archived_exactly(&seawall, &cluster, at).await?);
        agent.stop(DEADLINE).await?;
        let agent = seawall.run().await?;
        cluster.stop(StopMode::Fast).await?;
        let list = seawall.list().await?;
        assert_eq!(json_array(&list, "holes")?.len(), 0, "{list}");
        assert_eq!(json_array(&list, "windows")?.len(), 1, "{list}");
        assert_eq!(seawall.lineages()?.len(), 1);
        agent.stop(DEADLINE).await
    });
}

/// Makes WAL end there, sees it archived, kills the agent, and sees it find exactly this end when it comes back. False when the
/// server wrote WAL by itself meanwhile.
async fn restarted_there(
    seawall: &Seawall,
    cluster: &Cluster,
    agent: &mut Child,
    end: End,
    unit: u64,
    commit: u64,
) -> Result<bool> {
    let at = land(cluster, end, unit, commit).await?;
    if !archived_exactly(seawall, cluster, at).await? {
        return Ok(false);
    }
    agent.signal(Signal::KILL)?;
    agent.wait(DEADLINE).await?;
    *agent = seawall.run().await?;
    archived_exactly(seawall, cluster, at).await
}

/// The archive ends where WAL ends. False when the server went on by itself.
async fn archived_exactly(seawall: &Seawall, cluster: &Cluster, at: u64) -> Result<bool> {
    seawall.wait_archived_to(at).await?;
    let list = seawall.list().await?;
    let windows = json_array(&list, "windows")?;
    let end = json_lsn(&windows[0], "to_lsn")?;
    let flushed = flushed_lsn(cluster).await?;
    if flushed > at {
        println!("the server went on from {} to {}", lsn_text(at), lsn_text(flushed));
        return Ok(false);
    }
    let ends = [at, end, flushed].map(lsn_text);
    ensure!(end == at && flushed == at, "wanted, archived, flushed: {ends:?}");
    Ok(true)
}
