//! A group in one minute: an application on PostgreSQL, Redis and a directory takes orders; all three are lost; one command brings them back to
//! one point, and every order is looked at.
//!
//! `make demo-group` runs it. It exits with an error when an order is lost or lacks its receipt or key.

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::redis::{Redis, place_dump};
use tests::seawall::{json_array, json_str};
use tests::shop::{Shop, look};
use tests::wait::within;
use tests::{Cluster, Scratch, Seawall};

/// The whole of it, on a slow machine.
const DEADLINE: Duration = Duration::from_secs(240);
/// Orders before the point, at least.
const ORDERS: i64 = 2000;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo-group: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let scratch = Scratch::create()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let shown = runtime.block_on(async { within("the demo", DEADLINE, Box::pin(tell(&scratch))).await? });
    if shown.is_err() {
        eprintln!("{}", scratch.log_tails());
    }
    shown
}

async fn tell(scratch: &Scratch) -> Result<()> {
    let begun = Instant::now();
    let say = |text: &str| println!("{:6.1} s  {text}", begun.elapsed().as_secs_f64());
    say("PostgreSQL 15, Redis 7 and a directory of receipts: an order is a receipt, a key and, last, a row");
    let shop = Arc::new(Shop::open(scratch).await?);
    let seawall = Seawall::configure(shop.config(scratch)?)?;
    seawall.init().await?;
    let agent = seawall.run().await?;
    seawall.backup().await?;

    let (is_open, newest) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicI64::new(0)));
    let writer = tokio::spawn(take_orders(
        Arc::clone(&shop),
        Arc::clone(&is_open),
        Arc::clone(&newest),
    ));
    while newest.load(Ordering::SeqCst) < ORDERS && !writer.is_finished() {
        tokio::task::yield_now().await;
    }
    say(&format!(
        "{} orders, and more all the time",
        newest.load(Ordering::SeqCst)
    ));
    let before = newest.load(Ordering::SeqCst);
    say("wal-agent backup --group shop");
    print!("{}", seawall.agent.run_ok(&["backup", "--group", "shop"]).await?.stdout);
    // Of an order that is under way when the command ends, nobody can say.
    let after = newest.load(Ordering::SeqCst) + 1;
    is_open.store(false, Ordering::Relaxed);
    writer.await??;

    say("the accident: table dropped, Redis flushed, receipts deleted, PostgreSQL destroyed");
    shop.redis.client()?.ask("FLUSHALL")?;
    for receipt in fs::read_dir(&shop.receipts)? {
        fs::remove_file(receipt?.path())?;
    }
    shop.cluster.exec("drop table orders").await?;
    agent.kill9()?;
    shop.cluster.stop(tests::StopMode::Immediate).await?;
    shop.cluster.destroy_data_directory()?;

    let to = scratch.dir("back")?.join("shop");
    let place = Cluster::place(scratch, "restored")?;
    let (to_text, port, sockets) = (
        to.display().to_string(),
        place.port.to_string(),
        place.sockets.display().to_string(),
    );
    say(&format!("wal-restore group shop --to {to_text} --start"));
    let arguments = [
        "group",
        "shop",
        "--to",
        &to_text,
        "--start",
        "--port",
        &port,
        "--socket-dir",
        &sockets,
    ];
    let planned = seawall
        .restore
        .run_ok(&[&arguments[..], &["--dry-run"]].concat())
        .await?;
    ensure!(planned.stdout.contains("skew"), "{}", planned.stdout);
    let back = Instant::now();
    let restored = seawall.restore.run_ok(&arguments).await?;
    let rto = back.elapsed();
    print!("{}", restored.stdout);
    // So that it ends with the demo.
    let _restored = Cluster::adopt(scratch, "restored", &to.join("main"))?;
    place_dump(scratch, "redis-back", &to.join("cache/dump.rdb"))?;
    let redis = Redis::start(scratch, "redis-back", "").await?;
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(&place.sockets)
        .port(place.port)
        .user("postgres")
        .dbname("postgres");
    let client = tests::cluster::connect(&config).await?;
    let receipts = to.join("receipts").join(shop.receipts.strip_prefix("/")?);
    let orders = look(&client, &mut redis.client()?, &receipts).await?;
    let last = orders.rows.last().copied().unwrap_or_default();
    let lost = (1..=before).filter(|number| !orders.rows.contains(number)).count();
    let points = seawall
        .restore
        .run_ok(&["group", "shop", "--list", "--json"])
        .await?
        .json()?;
    let skew = json_array(&points[0], "members")?
        .iter()
        .map(|member| member["skew_s"].as_f64().unwrap_or(f64::NAN))
        .fold(0.0, f64::max);
    println!("\norders before the point       {before:>10}");
    println!("orders restored               {:>10}", orders.rows.len());
    println!("orders lost                   {lost:>10}");
    println!("orders without their receipt  {:>10}", orders.without_receipt.len());
    println!("orders without their key      {:>10}", orders.without_key.len());
    println!("largest skew                  {:>8.3} s", skew);
    println!(
        "from nothing to all three     {:>8.1} s   (point {})\n",
        rto.as_secs_f64(),
        json_str(&points[0], "point")?
    );
    ensure!(lost == 0, "{lost} orders are lost");
    ensure!(last <= after, "order {last} came after the point");
    ensure!(
        orders.without_receipt.is_empty(),
        "without receipt: {:?}",
        orders.without_receipt
    );
    ensure!(orders.without_key.is_empty(), "without key: {:?}", orders.without_key);
    Ok(())
}

async fn take_orders(shop: Arc<Shop>, is_open: Arc<AtomicBool>, newest: Arc<AtomicI64>) -> Result<()> {
    let (client, mut keys) = (shop.cluster.connect().await?, shop.redis.client()?);
    for number in 1.. {
        if !is_open.load(Ordering::Relaxed) {
            break;
        }
        shop.order(&client, &mut keys, number).await?;
        newest.store(number, Ordering::SeqCst);
    }
    Ok(())
}
