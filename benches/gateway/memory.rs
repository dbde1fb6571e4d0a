//! Resident memory: of open idle streams, after large bodies, and while one very large upload passes through.
//!
//! Each workload starts fresh processes, so that what one leaves behind is not the next one's baseline.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::children::{BARE_AGAIN, DIRECT, Fleet, GATEWAY, Target, token};
use crate::json::{chat, check, exchange};
use crate::report::{Table, Verdicts};
use crate::upstream::number_after;
use crate::wire::Wire;
use crate::{Effort, Failure, machine};

/// DESIGN.md, performance budget: per open idle stream.
const STREAM_BUDGET_KIB: f64 = 64.0;
/// DESIGN.md, performance budget: above the baseline after a load of 1 MiB bodies, percent.
const AFTER_BODIES_BUDGET: f64 = 20.0;
/// An upload that is only passed on is never held: growth while 500 MB pass, MiB.
const UPLOAD_BUDGET_MIB: f64 = 20.0;

/// How long memory may take to be given back once the load is over.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
const MIB: usize = 1024 * 1024;

/// Opens streams that say one event and fall silent, and divides the growth by their number.
pub async fn idle_streams(gateway: Option<&Path>, effort: &Effort, verdicts: &mut Verdicts) -> Result<(), Failure> {
    let fleet = Fleet::start(gateway).await?;
    let streams = if effort.quick { 50 } else { 200 };
    let mut table = Table::new(&["target", "RSS before KiB", "RSS open KiB", "KiB per stream"]);
    for target in fleet.without(&[DIRECT, BARE_AGAIN]) {
        warm_up(target, 1, 200).await?;
        let before = resident(target)?;
        let request = chat(&target, "events=1;hold=1;", 1024);
        let mut open = Vec::with_capacity(streams);
        for _ in 0..streams {
            let mut wire = Wire::connect(target.address).await?;
            wire.send(&request).await?;
            let mut body = wire.head().await?.ok_or("closed without a reply")?.body;
            let mut seen = Vec::new();
            while number_after(&seen, "t=").is_none() || !seen.ends_with(b"\n\n") {
                seen.extend_from_slice(wire.piece(&mut body).await?.ok_or("an idle stream ended")?);
            }
            open.push(wire);
        }
        let during = resident(target)?;
        let each = (during - before) / streams as f64;
        table.row([target.name.to_owned(), format!("{before:.0}"), format!("{during:.0}"), format!("{each:.1}")]);
        if target.name == GATEWAY {
            verdicts.at_most("Memory per open idle stream", each, STREAM_BUDGET_KIB, " KiB");
        }
    }
    println!("Memory of {streams} open idle streams\n{table}");
    Ok(())
}

/// Sends requests of 1 MiB that are answered with 1 MiB, then waits for the memory to be given back.
pub async fn large_bodies(gateway: Option<&Path>, effort: &Effort, verdicts: &mut Verdicts) -> Result<(), Failure> {
    let fleet = Fleet::start(gateway).await?;
    let (clients, each) = (8, if effort.quick { 10 } else { 50 });
    let mut table = Table::new(&["target", "baseline KiB", "peak KiB", "after KiB", "over baseline", "settled in s"]);
    for target in fleet.without(&[DIRECT, BARE_AGAIN]) {
        warm_up(target, effort.concurrency, 200).await?;
        let baseline = resident(target)?;
        let request = chat(&target, &format!("reply_bytes={MIB};"), MIB);
        check(target, &request).await?;
        let peak = peak_during(target, requests(target, request, clients, each)).await?;
        let over = |after: f64| 100.0 * (after - baseline) / baseline;
        let (load_end, mut after) = (Instant::now(), resident(target)?);
        while over(after) > AFTER_BODIES_BUDGET && load_end.elapsed() < SETTLE_LIMIT {
            // The allocator gives memory back when it is called, and no server is left without a single request.
            warm_up(target, 1, 1).await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            after = resident(target)?;
        }
        table.row([
            target.name.to_owned(),
            format!("{baseline:.0}"),
            format!("{peak:.0}"),
            format!("{after:.0}"),
            format!("{:+.1} %", over(after)),
            format!("{:.2}", load_end.elapsed().as_secs_f64()),
        ]);
        if target.name == GATEWAY {
            verdicts.at_most("RSS over baseline after 1 MiB bodies", over(after), AFTER_BODIES_BUDGET, " %");
        }
    }
    println!("Memory after {} requests of 1 MiB, answered with 1 MiB, {clients} at a time\n{table}", clients * each);
    Ok(())
}

/// Uploads to an endpoint that is forwarded untouched, and watches the memory meanwhile.
pub async fn upload(gateway: Option<&Path>, effort: &Effort, verdicts: &mut Verdicts) -> Result<(), Failure> {
    let fleet = Fleet::start(gateway).await?;
    let size = if effort.quick { 64 * MIB } else { 500_000_000 };
    let mut table = Table::new(&["target", "RSS before KiB", "peak KiB", "growth MiB", "MB/s"]);
    for target in fleet.without(&[DIRECT, BARE_AGAIN]) {
        warm_up(target, effort.concurrency, 200).await?;
        let before = resident(target)?;
        let start = Instant::now();
        let peak = peak_during(target, upload_once(target, size)).await?;
        let growth = (peak - before) / 1024.0;
        table.row([
            target.name.to_owned(),
            format!("{before:.0}"),
            format!("{peak:.0}"),
            format!("{growth:.1}"),
            format!("{:.0}", size as f64 / 1e6 / start.elapsed().as_secs_f64()),
        ]);
        if target.name == GATEWAY {
            verdicts.at_most("RSS growth while an upload passes", growth, UPLOAD_BUDGET_MIB, " MiB");
        }
    }
    println!("Memory during one upload of {} MB to /v1/files\n{table}", size / 1_000_000);
    Ok(())
}

/// Small requests first: pools and tables that every server fills once are not the workload's doing.
async fn warm_up(target: Target, clients: usize, each: usize) -> Result<(), Failure> {
    requests(target, chat(&target, "", 1024), clients, each).await
}

/// `each` requests on each of `clients` connections; the connections are closed at the end.
async fn requests(target: Target, request: Vec<u8>, clients: usize, each: usize) -> Result<(), Failure> {
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            let request = request.clone();
            tokio::spawn(async move {
                let mut wire = Wire::connect(target.address).await?;
                for _ in 0..each {
                    if exchange(&mut wire, &request).await? {
                        wire = Wire::connect(target.address).await?;
                    }
                }
                Ok::<(), Failure>(())
            })
        })
        .collect();
    for client in clients {
        client.await?.map_err(|failure| format!("{}: {failure}", target.name))?;
    }
    Ok(())
}

async fn upload_once(target: Target, size: usize) -> Result<(), Failure> {
    let mut wire = Wire::connect(target.address).await?;
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n\
         content-type: application/octet-stream\r\ncontent-length: {size}\r\n\r\n",
        target.address,
        token()
    );
    wire.send(head.as_bytes()).await?;
    let piece = vec![b'x'; 256 * 1024];
    let mut left = size;
    while left > 0 {
        let length = left.min(piece.len());
        wire.send(&piece[..length]).await?;
        left -= length;
    }
    let head = wire.head().await?.ok_or("closed without a reply")?;
    let (mut body, mut reply) = (head.body, Vec::new());
    while let Some(piece) = wire.piece(&mut body).await? {
        reply.extend_from_slice(piece);
    }
    match number_after(&reply, "\"bytes\":") {
        Some(received) if head.status() == 200 && received == size as u64 => Ok(()),
        _ => Err(format!("{}: {} {}", target.name, head.start_line, String::from_utf8_lossy(&reply)).into()),
    }
}

/// The highest RSS seen while `work` runs.
async fn peak_during(target: Target, work: impl Future<Output = Result<(), Failure>>) -> Result<f64, Failure> {
    let mut work = std::pin::pin!(work);
    let mut peak: f64 = 0.0;
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    loop {
        tokio::select! {
            outcome = &mut work => {
                outcome?;
                return Ok(peak.max(resident(target)?));
            }
            _ = ticks.tick() => peak = peak.max(machine::resident_kib_quick(target.pid).unwrap_or(0.0)),
        }
    }
}

fn resident(target: Target) -> Result<f64, Failure> {
    machine::resident_kib(target.pid)
        .ok_or_else(|| format!("{}: cannot read its memory from /proc", target.name).into())
}
