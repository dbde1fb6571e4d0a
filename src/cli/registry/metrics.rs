//! `can registry metrics show`: a box with the summary of a span of time.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde_json::json;

use super::unreadable;
use crate::{
    cli::{
        input::{Settings, When, millis, tenant},
        output::{self, date, dollars, note, percent, printable, rfc3339, say, thousands},
    },
    ledger::report::{self, Latency, Summary},
    types::{TenantId, unix_now},
};

/// The width between the frame's lines, without the spaces beside them. A longer name makes the box wider.
const WIDTH: usize = 51;
/// The column where values begin.
const VALUES: usize = 23;
/// How many models get a line of their own. Their names are cut to [`LONGEST_MODEL`].
const MODELS: usize = 10;
const LONGEST_MODEL: usize = 60;

#[derive(Args, Debug)]
pub struct ShowArgs {
    /// The beginning: a span before now (`24h`, `7d`), a date (its beginning, UTC) or `2026-12-31T18:00:00Z`.
    #[arg(long, value_name = "WHEN", value_parser = When::parse, default_value = "24h")]
    since: When,
    /// Only this tenant, with the tenants below it.
    #[arg(long, short, value_name = "NAME", value_parser = tenant)]
    tenant: Option<TenantId>,
    /// Print one JSON object, with money as exact text.
    #[arg(long)]
    json: bool,
}

/// Prints the summary.
///
/// # Errors
/// The database cannot be read.
pub fn show(settings: &Settings, args: &ShowArgs) -> Result<ExitCode, String> {
    let session = settings.open_to_read()?;
    let now = unix_now();
    let since = args.since.before(now);
    if since >= now {
        return Err("--since lies in the future".into());
    }
    if let Some(tenant) = &args.tenant {
        settings.note_unknown(tenant);
    }
    let covers = |id: &TenantId| args.tenant.as_ref().is_none_or(|tenant| settings.is_below(id, tenant));
    // Requests of this millisecond are included.
    let summary = report::summary_of(&*session, covers, since, now + 1).map_err(unreadable)?;
    let database = &settings.config.database;
    let older = if since < now.saturating_sub(millis(database.retention)) {
        Some("older requests")
    } else if since < now.saturating_sub(millis(database.refusal_retention)) {
        Some("older requests that were refused")
    } else {
        None
    };
    if let Some(older) = older {
        note(&format!(
            "{older} are kept as sums per day, which are not counted here: `can registry analytics costs` has them"
        ));
    }
    if args.json {
        return Ok(say(&output::json(&as_json(&summary, args.tenant.as_ref(), since, now))?));
    }
    let span = match &args.since {
        When::Span(_, text) => format!("Last {text}"),
        When::Moment(at) => format!("Since {}", date(*at)),
    };
    let whose = args.tenant.as_ref().map(|tenant| format!(", {tenant}")).unwrap_or_default();
    let text = render(&format!("ChittyCan Proxy Metrics ({span}{whose})"), &summary);
    if summary.unpriced > 0 {
        let count = requests(summary.unpriced);
        note(&format!(
            "{count} went to models without a price and cost $0 here: `prices.file` of the configuration can name one"
        ));
    }
    Ok(say(&text))
}

/// The box and the line below it.
fn render(title: &str, summary: &Summary) -> String {
    let row = |label: &str, value: String| format!("{label:<VALUES$}{value}");
    let each = |amount| dollars(amount, 3);
    let latency =
        |of: fn(&Latency) -> Duration| summary.latency.as_ref().map_or_else(|| "-".into(), |found| whole_ms(of(found)));
    let hit_rate = percent(summary.hits, (summary.hits + summary.misses).max(1));
    let sections = [
        vec![title.to_owned()],
        vec![
            row("Total Requests:", thousands(summary.requests)),
            row("Cache Hit Rate:", hit_rate),
            row("Total Cost:", dollars(summary.cost, 2)),
            row("Cost per Request:", format!("{} avg", each(summary.average()))),
            row("", format!("{} uncached", each(summary.average_uncached()))),
            row("", format!("{} cached", each(summary.average_cached()))),
        ],
        vec![
            "Latency:".to_owned(),
            format!("  P50:  {}", latency(|found| found.p50)),
            format!("  P95:  {}", latency(|found| found.p95)),
            format!("  P99:  {}", latency(|found| found.p99)),
        ],
        distribution(summary),
    ];
    let length = |line: &String| line.chars().count();
    let width = sections.iter().flatten().map(length).max().unwrap_or(0).max(WIDTH);
    let rule = "─".repeat(width + 2);
    let framed = sections.iter().map(|lines| {
        lines.iter().map(|line| format!("│ {line}{} │\n", " ".repeat(width - length(line)))).collect::<String>()
    });
    let inner = framed.collect::<Vec<_>>().join(&format!("├{rule}┤\n"));
    let savings = dollars(summary.savings_month, 2);
    format!("┌{rule}┐\n{inner}└{rule}┘\n\nCost Savings: {savings} this month (cache hits)\n")
}

/// One line for each of the most requested models, and one for all others.
fn distribution(summary: &Summary) -> Vec<String> {
    let shown = summary.models.iter().take(MODELS).map(|(model, n)| (printable(model, LONGEST_MODEL), *n));
    let mut models: Vec<_> = shown.collect();
    let others = summary.models.iter().skip(MODELS);
    match others.len() {
        0 => {}
        count => models.push((format!("{count} others"), others.map(|(_, n)| n).sum())),
    }
    let mut lines = vec!["Model Distribution:".to_owned()];
    if models.is_empty() {
        lines.push("  -".into());
    }
    // Two spaces before the name, a colon and a space after it.
    let column = models.iter().map(|(model, _)| model.chars().count() + 4).max().unwrap_or(0).max(VALUES);
    lines.extend(models.iter().map(|(model, n)| {
        let share = whole_percent(*n, summary.requests);
        format!("{:<column$}{share} ({})", format!("  {model}:"), requests(*n))
    }));
    lines
}

fn requests(n: u64) -> String {
    format!("{} request{}", thousands(n), if n == 1 { "" } else { "s" })
}

fn whole_percent(part: u64, whole: u64) -> String {
    let (part, whole) = (u128::from(part), u128::from(whole));
    match (part * 200 + whole).checked_div(whole * 2) {
        Some(0) if part > 0 => "<1%".into(),
        rounded => format!("{}%", rounded.unwrap_or(0)),
    }
}

fn whole_ms(time: Duration) -> String {
    match (time.as_micros() + 500) / 1_000 {
        0 if time > Duration::ZERO => "<1ms".into(),
        ms => format!("{}ms", thousands(u64::try_from(ms).unwrap_or(u64::MAX))),
    }
}

fn as_json(summary: &Summary, tenant: Option<&TenantId>, since: u64, until: u64) -> serde_json::Value {
    let ms = |time: Duration| time.as_micros() as f64 / 1_000.0;
    let latency =
        summary.latency.map(|found| json!({"p50": ms(found.p50), "p95": ms(found.p95), "p99": ms(found.p99)}));
    let model = |(model, n): &(String, u64)| json!({"model": model, "requests": n, "share": *n as f64 / summary.requests as f64});
    json!({
        "since": rfc3339(since),
        "until": rfc3339(until),
        "tenant": tenant,
        "requests": summary.requests,
        "cache": {"hits": summary.hits, "misses": summary.misses, "hit_rate": summary.hit_rate()},
        "cost_usd": summary.cost.to_string(),
        "cost_per_request_usd": {
            "average": summary.average().to_string(),
            "uncached": summary.average_uncached().to_string(),
            "cached": summary.average_cached().to_string(),
        },
        "latency_ms": latency,
        "models": summary.models.iter().map(model).collect::<Vec<_>>(),
        "savings_month_usd": summary.savings_month.to_string(),
        "recovered": summary.recovered,
        "counted": summary.counted,
        "unpriced": summary.unpriced,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NanoUsd;

    /// The playbook's numbers. The playbook's percentages do not match its counts (567 of 1,234 are 46 %); those here do.
    #[test]
    fn the_box_is_that_of_the_playbook() {
        let summary = Summary {
            requests: 1_234,
            hits: 697,
            misses: 101,
            cost: NanoUsd(12_450_000_000),
            latency: Some(Latency {
                p50: Duration::from_micros(45_400),
                p95: Duration::from_micros(233_500),
                p99: Duration::from_millis(890),
            }),
            models: vec![("gpt-4o".into(), 567), ("claude-sonnet".into(), 378), ("groq/llama-3-70b".into(), 289)],
            savings_month: NanoUsd(45_670_000_000),
            ..Summary::default()
        };
        let expected = "\
┌─────────────────────────────────────────────────────┐
│ ChittyCan Proxy Metrics (Last 24h)                  │
├─────────────────────────────────────────────────────┤
│ Total Requests:        1,234                        │
│ Cache Hit Rate:        87.3%                        │
│ Total Cost:            $12.45                       │
│ Cost per Request:      $0.010 avg                   │
│                        $0.023 uncached              │
│                        $0.000 cached                │
├─────────────────────────────────────────────────────┤
│ Latency:                                            │
│   P50:  45ms                                        │
│   P95:  234ms                                       │
│   P99:  890ms                                       │
├─────────────────────────────────────────────────────┤
│ Model Distribution:                                 │
│   gpt-4o:              46% (567 requests)           │
│   claude-sonnet:       31% (378 requests)           │
│   groq/llama-3-70b:    23% (289 requests)           │
└─────────────────────────────────────────────────────┘

Cost Savings: $45.67 this month (cache hits)
";
        assert_eq!(render("ChittyCan Proxy Metrics (Last 24h)", &summary), expected);
    }

    #[test]
    fn an_empty_box_has_its_shape() {
        let text = render("ChittyCan Proxy Metrics (Last 24h)", &Summary::default());
        let lines: Vec<_> = text.lines().collect();
        for line in [
            "│ Total Requests:        0                            │",
            "│ Cache Hit Rate:        0.0%                         │",
            "│ Total Cost:            $0.00                        │",
            "│ Cost per Request:      $0.000 avg                   │",
            "│   P99:  -                                           │",
            "│   -                                                 │",
            "Cost Savings: $0.00 this month (cache hits)",
        ] {
            assert!(lines.contains(&line), "{line} in\n{text}");
        }
    }

    #[test]
    fn long_names_widen_the_box_and_many_models_share_a_line() {
        let mut models: Vec<_> = (0..12).map(|n| (format!("lab/model-{n}"), 100 - n)).collect();
        models[0].0 = format!("openrouter/{}\u{1b}[2J", "x".repeat(100));
        models[11].1 = 1;
        let requests = models.iter().map(|(_, n)| n).sum();
        let text = render("ChittyCan Proxy Metrics (Last 24h)", &Summary { requests, models, ..Summary::default() });
        let frame: Vec<_> = text.lines().take_while(|line| !line.is_empty()).map(|line| line.chars().count()).collect();
        assert!(frame.iter().all(|length| *length == frame[0] && *length > 55), "{text}");
        assert!(text.contains("  2 others: ") && !text.contains('\u{1b}'), "{text}");
        let shares =
            [(1, 1_000), (4_546, 10_000), (455, 1_000), (1, 1), (0, 0)].map(|(part, whole)| whole_percent(part, whole));
        assert_eq!(shares, ["<1%", "45%", "46%", "100%", "0%"]);
        assert_eq!(
            (whole_ms(Duration::from_micros(400)), whole_ms(Duration::from_secs(12))),
            ("<1ms".into(), "12,000ms".into())
        );
    }

    #[test]
    fn json_is_exact() {
        let summary =
            Summary { requests: 3, cost: NanoUsd(1_000_000_001), models: vec![("m".into(), 3)], ..Summary::default() };
        let value = as_json(&summary, None, 0, 1);
        assert_eq!(value["cost_usd"], "1.000000001");
        assert_eq!(value["cost_per_request_usd"]["average"], "0.333333334");
        assert_eq!((&value["latency_ms"], &value["tenant"]), (&json!(null), &json!(null)));
        assert_eq!(value["models"], json!([{"model": "m", "requests": 3, "share": 1.0}]));
    }
}
