//! Chat requests of 1 KiB with JSON replies, over keep-alive connections: added latency with one connection at a
//! time, throughput and CPU per request with many.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use crate::children::{BARE, BARE_AGAIN, DIRECT, Fleet, GATEWAY, Target, token};
use crate::report::{Table, Verdicts, spread};
use crate::stats::{Rounds, quantile, sorted_ms};
use crate::wire::Wire;
use crate::{Effort, Failure, machine};

/// DESIGN.md, performance budget: CPU per request over that of the bare pass-through.
const CPU_BUDGET: f64 = 1.25;

/// The model that is asked for.
pub const MODEL: &str = "gpt-4o-mini";

/// The same for a reply from the cache.
const HIT_BUDGET: f64 = 0.6;

/// What the gateway does with the requests.
#[derive(Clone, Copy, PartialEq)]
pub enum Replies {
    /// It asks the provider.
    Proxied,
    /// It asks once, and answers from its cache then. The others go on asking.
    Cached,
}

pub async fn measure(
    gateway: Option<&Path>,
    effort: &Effort,
    replies: Replies,
    verdicts: &mut Verdicts,
) -> Result<(), Failure> {
    let fleet = Fleet::start(gateway).await?;
    let (what, verdict, budget) = match replies {
        Replies::Proxied => ("JSON", "CPU per request over bare Pingora", CPU_BUDGET),
        Replies::Cached => ("JSON from the cache", "CPU per hit over bare Pingora", HIT_BUDGET),
    };
    let request = match replies {
        Replies::Proxied => chat(&fleet.targets[0], "", 1024),
        Replies::Cached => chat(&fleet.targets[0], FIXED, 1024),
    };
    for target in &fleet.targets {
        check(*target, &request).await?;
    }
    let mut levels = vec![1, effort.concurrency];
    levels.dedup();
    for concurrency in levels {
        let mut results: Vec<Vec<Sample>> = vec![Vec::new(); fleet.targets.len()];
        for round in 0..effort.rounds {
            for turn in 0..fleet.targets.len() {
                let at = (turn + round) % fleet.targets.len();
                let window = Duration::from_secs_f64(effort.seconds);
                results[at].push(load(fleet.targets[at], &request, concurrency, window).await?);
            }
        }
        let table = Results { targets: &fleet.targets, samples: &results };
        println!(
            "{what}, 1 KiB request, 0.7 KiB reply, {concurrency} connection(s), {} rounds of {} s\n{}",
            effort.rounds,
            effort.seconds,
            table.render()
        );
        if concurrency == effort.concurrency && gateway.is_some() {
            verdicts.at_most(verdict, table.cpu_ratio(GATEWAY).median(), budget, "x");
        }
    }
    Ok(())
}

/// What one target did in one window.
#[derive(Clone, Debug)]
struct Sample {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// CPU of the target's process per request, microseconds.
    cpu_us: f64,
}

/// The marker of a request that the cache may answer.
const FIXED: &str = "fixed";

/// A chat request as bytes: `marker` orders the reply, see `upstream.rs`; the body has `size` bytes.
pub fn chat(target: &Target, marker: &str, size: usize) -> Vec<u8> {
    chat_with(MODEL, target, marker, size)
}

/// The same for another model.
pub fn chat_with(model: &str, target: &Target, marker: &str, size: usize) -> Vec<u8> {
    let stream = if marker.contains("events=") { r#""stream":true,"# } else { "" };
    let start = format!(r#"{{"model":"{model}",{stream}"messages":[{{"role":"user","content":"bench:{marker} "#);
    let end = if marker == FIXED { r#""}],"temperature":0,"max_tokens":256}"# } else { r#""}],"max_tokens":256}"# };
    let filler = size.saturating_sub(start.len() + end.len());
    let body = format!("{start}{}{end}", &"the quick brown fox ".repeat(filler / 20 + 1)[..filler]);
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\naccept: application/json\r\nuser-agent: bench\r\n\
         content-length: {}\r\n\r\n{body}",
        target.address,
        token(),
        body.len()
    )
    .into_bytes()
}

/// One request before anything is measured, so that a wrong reply is not measured as a fast one.
pub async fn check(target: Target, request: &[u8]) -> Result<(), Failure> {
    let connected = Wire::connect(target.address).await;
    let mut wire = connected.map_err(|error| format!("{} at {}: {error}", target.name, target.address))?;
    wire.send(request).await?;
    let head = wire.head().await?.ok_or("closed without a reply")?;
    let (mut body, mut text) = (head.body, Vec::new());
    while let Some(piece) = wire.piece(&mut body).await? {
        text.extend_from_slice(piece);
    }
    let text = String::from_utf8_lossy(&text);
    if head.status() != 200 || !text.contains("\"usage\"") {
        let start: String = text.chars().take(300).collect();
        return Err(format!("{}: {} {start}", target.name, head.start_line).into());
    }
    Ok(())
}

/// Load for a short warm-up and then for `window`; what ends inside the window counts.
async fn load(target: Target, request: &[u8], concurrency: usize, window: Duration) -> Result<Sample, Failure> {
    let phase = Rc::new(Cell::new(Phase::WarmUp));
    let latencies = Rc::new(RefCell::new(Vec::with_capacity(1 << 16)));
    let local = LocalSet::new();
    let clients: Vec<_> = (0..concurrency)
        .map(|_| local.spawn_local(client(target, request.to_vec(), phase.clone(), latencies.clone())))
        .collect();
    let (elapsed, cpu) = local
        .run_until(async {
            tokio::time::sleep((window / 5).min(Duration::from_millis(200))).await;
            // One thread runs all clients: nothing happens between these lines.
            let (start, before) = (Instant::now(), machine::cpu_time(target.pid));
            phase.set(Phase::Measure);
            tokio::time::sleep(window).await;
            phase.set(Phase::End);
            let after = machine::cpu_time(target.pid);
            (start.elapsed(), before.zip(after).map(|(before, after)| after.saturating_sub(before)))
        })
        .await;
    local.await;
    for client in clients {
        client.await?.map_err(|failure| format!("{}: {failure}", target.name))?;
    }
    let sorted = sorted_ms(&latencies.borrow());
    if sorted.is_empty() {
        return Err(format!("{}: no request ended within {window:?}", target.name).into());
    }
    Ok(Sample {
        per_second: sorted.len() as f64 / elapsed.as_secs_f64(),
        p50_ms: quantile(&sorted, 0.5),
        p99_ms: quantile(&sorted, 0.99),
        cpu_us: cpu.map_or(f64::NAN, |cpu| cpu.as_secs_f64() * 1e6 / sorted.len() as f64),
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    WarmUp,
    Measure,
    End,
}

/// One connection, one request after another.
async fn client(
    target: Target,
    request: Vec<u8>,
    phase: Rc<Cell<Phase>>,
    latencies: Rc<RefCell<Vec<u64>>>,
) -> Result<(), Failure> {
    let mut wire = Wire::connect(target.address).await?;
    while phase.get() != Phase::End {
        let start = Instant::now();
        if exchange(&mut wire, &request).await? {
            wire = Wire::connect(target.address).await?;
        }
        if phase.get() == Phase::Measure {
            latencies.borrow_mut().push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
    }
    Ok(())
}

/// One request and its whole reply, which must be a 200. True when the server closes the connection after it.
pub async fn exchange(wire: &mut Wire, request: &[u8]) -> Result<bool, Failure> {
    wire.send(request).await?;
    let head = wire.head().await?.ok_or("closed without a reply")?;
    if head.status() != 200 {
        return Err(head.start_line.into());
    }
    let mut body = head.body;
    while wire.piece(&mut body).await?.is_some() {}
    Ok(head.close)
}

/// All samples of one concurrency: for each target, one per round.
struct Results<'a> {
    targets: &'a [Target],
    samples: &'a [Vec<Sample>],
}

impl Results<'_> {
    fn render(&self) -> String {
        let mut table = Table::new(&[
            "target",
            "req/s",
            "p50 ms",
            "p99 ms",
            "p50 - direct",
            "CPU us/req (range)",
            "CPU / bare (quartiles)",
        ]);
        for (target, samples) in self.targets.iter().zip(self.samples) {
            let over = |figure: fn(&Sample) -> f64| samples.iter().map(figure).collect::<Rounds>();
            let ratio = if target.name == DIRECT {
                "-".to_owned()
            } else {
                spread(&self.cpu_ratio(target.name), Rounds::quartiles, 2)
            };
            table.row([
                target.name.to_owned(),
                format!("{:.0}", over(|sample| sample.per_second).median()),
                format!("{:.3}", over(|sample| sample.p50_ms).median()),
                format!("{:.3}", over(|sample| sample.p99_ms).median()),
                format!("{:+.3}", self.added_p50(target.name).median()),
                spread(&over(|sample| sample.cpu_us), Rounds::range, 1),
                ratio,
            ]);
        }
        table.to_string()
    }

    /// CPU per request over that of the pass-throughs in the same round. The two pass-throughs are compared with
    /// each other, everything else with their mean.
    fn cpu_ratio(&self, name: &str) -> Rounds {
        let yardstick: Vec<&str> = match name {
            BARE => vec![BARE_AGAIN],
            BARE_AGAIN => vec![BARE],
            _ => vec![BARE, BARE_AGAIN],
        };
        let mean = |round: usize| {
            yardstick.iter().map(|bare| self.of(bare)[round].cpu_us).sum::<f64>() / yardstick.len() as f64
        };
        self.of(name).iter().enumerate().map(|(round, sample)| sample.cpu_us / mean(round)).collect()
    }

    fn added_p50(&self, name: &str) -> Rounds {
        self.of(name).iter().zip(self.of(DIRECT)).map(|(sample, direct)| sample.p50_ms - direct.p50_ms).collect()
    }

    fn of(&self, name: &str) -> &[Sample] {
        self.targets.iter().position(|target| target.name == name).map_or(&[], |at| &self.samples[at])
    }
}
