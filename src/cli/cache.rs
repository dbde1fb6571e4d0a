//! `can cache …`: shows what the cache has saved, and purges it.
//!
//! Both commands work on the database file: the requests are in the ledger, and a purge is a row that a running gateway follows.
//! Only the gateway knows what the cache holds at the moment; it is asked if there is an admin token.

use std::{path::PathBuf, process::ExitCode};

use clap::{ArgGroup, Args, Subcommand, value_parser};
use serde_json::{Value, json};

use super::{
    health,
    input::{Settings, millis, tenant},
    output::{self, Align, complain, dollars, note, percent, printable, rfc3339, say, size, thousands},
};
use crate::{
    cache::{Key, Purge, PurgeRequest},
    ledger::report::{self, CacheReport, CacheUse},
    types::{TenantId, unix_now},
};

const DAY_MS: u64 = 86_400_000;

/// The longest name of a model in the table.
const LONGEST_MODEL: usize = 60;

/// The environment variable with a token that has the scope `admin`.
const TOKEN: &str = "CAN_ADMIN_TOKEN";

/// Arguments of `can cache`.
#[derive(Args, Debug)]
pub struct CacheArgs {
    /// The configuration file, for the database and the tenants. Without it: the file of CAN_CONFIG, or else the defaults.
    #[arg(long, short, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// Show hits, misses and savings by tenant and model.
    ///
    /// With a token that has the scope `admin` in CAN_ADMIN_TOKEN, also show what the cache of a running gateway holds.
    Stats(StatsArgs),
    /// Purge answers: all, or those that match each of the other options.
    Purge(PurgeArgs),
}

#[derive(Args, Debug)]
struct StatsArgs {
    /// The number of days up to now.
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..=366), default_value = "30")]
    days: u64,
    /// Only this tenant, with the tenants below it.
    #[arg(long, short, value_name = "NAME", value_parser = tenant)]
    tenant: Option<TenantId>,
    /// Print one JSON object, with money as exact text.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").args(["all", "tenant", "model", "key"]).required(true).multiple(true))]
struct PurgeArgs {
    /// Purge all answers.
    #[arg(long, conflicts_with_all = ["tenant", "model", "key"])]
    all: bool,
    /// Purge answers that this tenant has paid for.
    #[arg(long, short, value_name = "NAME", value_parser = tenant)]
    tenant: Option<TenantId>,
    /// Purge answers of this model: the provider's name for it, alone or as `provider/model`, or the configured route.
    #[arg(long, value_name = "MODEL", value_parser = model, conflicts_with = "key")]
    model: Option<String>,
    /// Purge the answer with this key, which is in the header `x-chittycan-cache-key`; may be repeated.
    #[arg(long, value_name = "KEY")]
    key: Vec<Key>,
}

/// Runs `can cache`.
pub fn run(args: CacheArgs) -> ExitCode {
    let outcome = Settings::load(args.config).and_then(|settings| match args.command {
        CacheCommand::Stats(args) => stats(&settings, &args),
        CacheCommand::Purge(args) => purge(&settings, args),
    });
    outcome.unwrap_or_else(|message| complain(&message))
}

fn stats(settings: &Settings, args: &StatsArgs) -> Result<ExitCode, String> {
    let session = settings.open_to_read()?;
    if let Some(tenant) = &args.tenant {
        settings.note_unknown(tenant);
    }
    let now = unix_now();
    let since = now.saturating_sub(args.days * DAY_MS);
    if since < now.saturating_sub(millis(settings.config.database.retention)) {
        note(
            "older requests are kept as sums per day, which are not counted here: `can registry analytics costs` has them",
        );
    }
    let covers = |id: &TenantId| args.tenant.as_ref().is_none_or(|tenant| settings.is_below(id, tenant));
    // Requests of this millisecond are included.
    let report = report::cache(&*session, covers, since, now + 1)
        .map_err(|error| format!("the database cannot be read: {error}"))?;
    let live = std::env::var(TOKEN).ok().filter(|token| !token.is_empty()).and_then(|token| held(settings, &token));
    let text = match args.json {
        true => output::json(&as_json(&report, args.tenant.as_ref(), [since, now], live.as_ref()))?,
        false => as_text(&report, args, live.as_ref()),
    };
    Ok(say(&text))
}

/// What the cache of a running gateway holds, as the gateway reports it.
fn held(settings: &Settings, token: &str) -> Option<Value> {
    let admin = settings.config.admin?;
    let reply = match health::get(admin, "/api/v1/cache?days=1", Some(token)) {
        Ok(reply) => reply,
        Err(error) => {
            note(&format!("what the cache holds is not shown: {admin}: {error}"));
            return None;
        }
    };
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    if head.split(' ').nth(1) == Some("200") && value["object"] == "cache" {
        return Some(value);
    }
    let reason = value["error"]["message"].as_str().or(head.lines().next()).unwrap_or("no answer");
    note(&format!("what the cache holds is not shown: {admin}: {}", printable(reason, 200)));
    None
}

fn as_text(report: &CacheReport, args: &StatsArgs, live: Option<&Value>) -> String {
    use Align::{Left, Right};
    let rate = |done: &CacheUse| percent(done.hits, done.hits.saturating_add(done.misses));
    let span = if args.days == 1 { "Last day".into() } else { format!("Last {} days", args.days) };
    let whose = args.tenant.as_ref().map(|tenant| format!(", {tenant}")).unwrap_or_default();
    let total = &report.total;
    let mut text = format!(
        "{span}{whose}: {} hits, {} misses, hit rate {}, saved {}\n",
        thousands(total.hits),
        thousands(total.misses),
        rate(total),
        dollars(total.saved, 2)
    );
    if !report.lines.is_empty() {
        let heads = [
            ("TENANT", Left),
            ("MODEL", Left),
            ("HITS", Right),
            ("STALE", Right),
            ("MISSES", Right),
            ("HIT RATE", Right),
            ("BYPASSED", Right),
            ("SAVED", Right),
        ];
        let row = |line: &report::CacheLine| {
            [
                line.tenant.to_string(),
                printable(&line.model, LONGEST_MODEL),
                thousands(line.done.hits),
                thousands(line.done.stale),
                thousands(line.done.misses),
                rate(&line.done),
                thousands(line.done.bypassed),
                dollars(line.done.saved, 2),
            ]
        };
        text += &format!("\n{}", output::table(heads, &report.lines.iter().map(row).collect::<Vec<_>>()));
    }
    text + &live.map(held_text).unwrap_or_default()
}

fn held_text(live: &Value) -> String {
    let number = |place: &str| live.pointer(place).and_then(Value::as_u64).unwrap_or(0);
    let disk = match (number("/disk/limit"), live["disk"]["up"] == true) {
        (0, _) => "none".to_owned(),
        (limit, up) => {
            let down = if up { "" } else { " (down: the log says why)" };
            format!("{} of {}{down}", size(number("/disk/bytes")), size(limit))
        }
    };
    format!(
        "\nMemory: {} of {}, {} entries\nDisk:   {disk}\nBeing answered: {}\n",
        size(number("/memory/bytes")),
        size(number("/memory/limit")),
        thousands(number("/memory/entries")),
        thousands(number("/flights"))
    )
}

fn as_json(report: &CacheReport, tenant: Option<&TenantId>, [since, until]: [u64; 2], live: Option<&Value>) -> Value {
    let part = |done: &CacheUse| {
        json!({
            "hits": done.hits,
            "stale": done.stale,
            "misses": done.misses,
            "bypassed": done.bypassed,
            "hit_rate": done.hit_rate(),
            "saved_usd": done.saved.to_string(),
        })
    };
    let line = |line: &report::CacheLine| {
        let mut value = part(&line.done);
        value["tenant"] = json!(line.tenant);
        value["model"] = json!(line.model);
        value
    };
    json!({
        "since": rfc3339(since),
        "until": rfc3339(until),
        "tenant": tenant,
        "total": part(&report.total),
        "by_model": report.lines.iter().map(line).collect::<Vec<_>>(),
        "held": live.map(|live| json!({"memory": live["memory"], "disk": live["disk"], "flights": live["flights"]})),
    })
}

fn purge(settings: &Settings, args: PurgeArgs) -> Result<ExitCode, String> {
    let mut session = settings.open()?;
    if let Some(tenant) = &args.tenant {
        settings.note_unknown(tenant);
    }
    let of = args.tenant.as_ref().map(|tenant| format!(" for tenant {tenant}")).unwrap_or_default();
    let (told, what) = match (args.model, args.key) {
        (Some(model), _) => {
            let told = format!("What {} has answered{of} no longer counts.", printable(&model, LONGEST_MODEL));
            (told, vec![Purge::Model(model)])
        }
        (None, keys) if !keys.is_empty() => {
            let told = match keys.len() {
                1 => format!("The answer{of} no longer counts."),
                count => format!("{count} answers{of} no longer count."),
            };
            (told, keys.into_iter().map(Purge::Key).collect())
        }
        _ => {
            let told = match &args.tenant {
                Some(tenant) => format!("What tenant {tenant} has paid for no longer counts."),
                None => "Nothing that was answered until now counts any more.".to_owned(),
            };
            (told, vec![Purge::All])
        }
    };
    let now = unix_now();
    for request in what.iter().filter_map(|what| PurgeRequest::new(what, args.tenant.as_ref())) {
        request
            .write(&mut *session, now)
            .map_err(|error| format!("the purge could not be written to {}: {error}", settings.database().display()))?;
    }
    Ok(say(&format!("{told} A running gateway sees it within 200 ms.\n")))
}

fn model(text: &str) -> Result<String, String> {
    match PurgeRequest::new(&Purge::Model(text.into()), None) {
        Some(_) => Ok(text.to_owned()),
        None => Err("not the name of a model".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ledger::report::CacheLine, types::NanoUsd};

    fn report() -> CacheReport {
        let done = CacheUse { hits: 1_234, stale: 4, misses: 101, bypassed: 50, saved: NanoUsd(45_670_000_000) };
        let none = CacheUse { bypassed: 7, ..CacheUse::default() };
        let line = |tenant: &str, model: &str, done| CacheLine { tenant: tenant.into(), model: model.into(), done };
        let lines = vec![line("research", "gpt-4o", done), line("default", "groq/llama\u{1b}[2J", none)];
        CacheReport { total: CacheUse { bypassed: 57, ..done }, lines }
    }

    #[test]
    fn people_get_a_line_and_a_table() {
        let args = StatsArgs { days: 30, tenant: None, json: false };
        let live = json!({
            "memory": {"bytes": 1_572_864, "limit": 268_435_456, "entries": 1_200},
            "disk": {"bytes": 0, "limit": 1_073_741_824, "up": false}, "flights": 2,
        });
        let expected = "\
Last 30 days: 1,234 hits, 101 misses, hit rate 92.4%, saved $45.67

TENANT    MODEL            HITS  STALE  MISSES  HIT RATE  BYPASSED   SAVED
research  gpt-4o          1,234      4     101     92.4%        50  $45.67
default   groq/llama?[2J      0      0       0         -         7   $0.00

Memory: 1.5 MiB of 256.0 MiB, 1,200 entries
Disk:   0 B of 1.0 GiB (down: the log says why)
Being answered: 2
";
        assert_eq!(as_text(&report(), &args, Some(&live)), expected);
        let args = StatsArgs { days: 1, tenant: Some("research".into()), json: false };
        let empty = "Last day, research: 0 hits, 0 misses, hit rate -, saved $0.00\n";
        assert_eq!(as_text(&CacheReport::default(), &args, None), empty);
    }

    #[test]
    fn programs_get_exact_money() {
        let value = as_json(&report(), None, [0, 1], None);
        assert_eq!((&value["total"]["saved_usd"], &value["held"]), (&json!("45.67"), &Value::Null));
        assert_eq!(
            (&value["by_model"][0]["tenant"], &value["by_model"][1]["bypassed"]),
            (&json!("research"), &json!(7))
        );
    }
}
