//! Streams of paced events: how long each takes from the upstream's write to the client's read.

use std::path::Path;
use std::time::Duration;

use memchr::memmem;

use crate::children::{BARE_AGAIN, DIRECT, Fleet, GATEWAY, TRANSLATED, Target};
use crate::report::{Table, Verdicts, spread};
use crate::stats::{Rounds, quantile, sorted_ms};
use crate::upstream::number_after;
use crate::wire::{Wire, now_ns};
use crate::{Effort, Failure, json, machine};

const STREAMS: u32 = 8;
const GAP: Duration = Duration::from_millis(5);

/// DESIGN.md, performance budget: added p50 per event over direct, milliseconds.
const ADDED_BUDGET_MS: f64 = 0.15;

/// What a translation may add to that, milliseconds.
const TRANSLATION_BUDGET_MS: f64 = 0.05;

pub async fn measure(gateway: Option<&Path>, effort: &Effort, verdicts: &mut Verdicts) -> Result<(), Failure> {
    let fleet = Fleet::start(gateway).await?;
    let mut targets = fleet.without(&[BARE_AGAIN]);
    let gateways = targets.iter().filter(|target| target.name == GATEWAY);
    let translated: Vec<_> = gateways.map(|target| Target { name: TRANSLATED, ..*target }).collect();
    targets.extend(translated);
    let events = if effort.quick { 60 } else { 300 };
    let mut results: Vec<Vec<Sample>> = vec![Vec::new(); targets.len()];
    for round in 0..effort.rounds {
        for turn in 0..targets.len() {
            let at = (turn + round) % targets.len();
            results[at].push(run(targets[at], events).await?);
        }
    }
    println!("SSE, {STREAMS} streams of {events} events, {} ms apart, {} rounds", GAP.as_millis(), effort.rounds);
    println!("{}", render(&targets, &results));
    if let Some(at) = targets.iter().position(|target| target.name == GATEWAY) {
        let added = added(&results[at], &results[0]).median();
        verdicts.at_most("SSE: added p50 per event over direct", added, ADDED_BUDGET_MS, " ms");
        if let Some(translated) = targets.iter().position(|target| target.name == TRANSLATED) {
            let more = self::added(&results[translated], &results[at]).median();
            verdicts.at_most("SSE: added p50 per event by a translation", more, TRANSLATION_BUDGET_MS, " ms");
        }
    }
    Ok(())
}

/// All events of one target in one round.
#[derive(Clone, Debug)]
struct Sample {
    /// Upstream write to client read, sorted, milliseconds.
    latency: Vec<f64>,
    /// Between the arrivals of two events of one stream, sorted, milliseconds.
    gaps: Vec<f64>,
    /// Events per read of the client's socket: 1 means that no event waited for another.
    per_read: f64,
    /// CPU of the target's process per event, microseconds.
    cpu_us: f64,
}

async fn run(target: Target, events: u64) -> Result<Sample, Failure> {
    let model = if target.name == TRANSLATED { "claude-sonnet-4-5" } else { json::MODEL };
    let request = json::chat_with(model, &target, &format!("events={events};gap_us={};", GAP.as_micros()), 1024);
    let before = machine::cpu_time(target.pid);
    let streams: Vec<_> = (0..STREAMS)
        .map(|nth| {
            let request = request.clone();
            tokio::spawn(async move {
                // Spread over the gap: the streams of real clients do not tick together.
                tokio::time::sleep(GAP * nth / STREAMS).await;
                follow(target, &request).await
            })
        })
        .collect();
    let (mut latency, mut gaps, mut reads) = (Vec::new(), Vec::new(), 0);
    for stream in streams {
        let arrivals = stream.await?.map_err(|failure| format!("{}: {failure}", target.name))?;
        if arrivals.times.len() as u64 != events {
            return Err(format!("{}: {} of {events} events arrived", target.name, arrivals.times.len()).into());
        }
        latency.extend(arrivals.times.iter().map(|(sent, received)| received.saturating_sub(*sent)));
        gaps.extend(arrivals.times.windows(2).map(|pair| pair[1].1 - pair[0].1));
        reads += arrivals.reads;
    }
    let cpu = before.zip(machine::cpu_time(target.pid)).map(|(before, after)| after.saturating_sub(before));
    Ok(Sample {
        per_read: latency.len() as f64 / reads as f64,
        cpu_us: cpu.map_or(f64::NAN, |cpu| cpu.as_secs_f64() * 1e6 / latency.len() as f64),
        latency: sorted_ms(&latency),
        gaps: sorted_ms(&gaps),
    })
}

/// The events of one stream.
struct Arrivals {
    /// When each was written and when it was read, in nanoseconds of the system's monotonic clock.
    times: Vec<(u64, u64)>,
    /// Reads that brought them.
    reads: u64,
}

async fn follow(target: Target, request: &[u8]) -> Result<Arrivals, Failure> {
    let mut wire = Wire::connect(target.address).await?;
    wire.send(request).await?;
    let head = wire.head().await?.ok_or("closed without a reply")?;
    if head.status() != 200 {
        return Err(head.start_line.into());
    }
    let (mut body, mut times, mut partial) = (head.body, Vec::new(), Vec::new());
    // The reads that bring a timed event: the end of the stream is no batch.
    let (mut reads, mut last_read) = (0, 0);
    let mut done = false;
    while let Some(piece) = wire.piece(&mut body).await? {
        let received = now_ns();
        partial.extend_from_slice(piece);
        while let Some(length) = memmem::find(&partial, b"\n\n") {
            let event = &partial[..length];
            done |= event == b"data: [DONE]";
            if let Some(sent) = number_after(event, "t=") {
                times.push((sent, received));
                reads += u64::from(wire.reads != last_read);
                last_read = wire.reads;
            }
            partial.drain(..length + 2);
        }
    }
    if !done {
        return Err("a stream ended without [DONE]".into());
    }
    Ok(Arrivals { times, reads })
}

fn render(targets: &[Target], results: &[Vec<Sample>]) -> Table {
    let mut table = Table::new(&[
        "target",
        "p50 ms",
        "p99 ms",
        "p50 - direct (quartiles)",
        "gap p50 / p99 / max ms",
        "events/read",
        "CPU us/event",
    ]);
    for (target, samples) in targets.iter().zip(results) {
        let over = |figure: &dyn Fn(&Sample) -> f64| samples.iter().map(figure).collect::<Rounds>();
        let gap = |q: f64| over(&move |sample| quantile(&sample.gaps, q));
        let added = if target.name == DIRECT {
            "-".to_owned()
        } else {
            spread(&added(samples, &results[0]), Rounds::quartiles, 3)
        };
        table.row([
            target.name.to_owned(),
            format!("{:.3}", over(&|sample| quantile(&sample.latency, 0.5)).median()),
            format!("{:.3}", over(&|sample| quantile(&sample.latency, 0.99)).median()),
            added,
            format!("{:.2} / {:.2} / {:.2}", gap(0.5).median(), gap(0.99).median(), gap(1.0).range().1),
            format!("{:.2}", over(&|sample| sample.per_read).median()),
            format!("{:.1}", over(&|sample| sample.cpu_us).median()),
        ]);
    }
    table
}

/// Added p50 over direct, round by round.
fn added(samples: &[Sample], direct: &[Sample]) -> Rounds {
    let p50 = |sample: &Sample| quantile(&sample.latency, 0.5);
    samples.iter().zip(direct).map(|(sample, direct)| p50(sample) - p50(direct)).collect()
}
