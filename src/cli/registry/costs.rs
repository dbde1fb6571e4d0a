//! `can registry analytics costs`: the cost of each day, and the state of the monthly budget.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::unreadable;
use crate::{
    cli::{
        input::{Settings, When, millis, tenant},
        output::{self, Align, date, dollars, percent, permille, rfc3339, say, thousands},
    },
    config::{Budget, Period},
    ledger::report::{self, Day, Month},
    types::{NanoUsd, TenantId, unix_now},
};

const DAY_MS: u64 = 86_400_000;

#[derive(Args, Debug)]
pub struct CostsArgs {
    /// Only this tenant, with the tenants below it, and its own budget. Without it: all tenants, and the budget of the default
    /// tenant.
    #[arg(long, short, value_name = "NAME", value_parser = tenant)]
    tenant: Option<TenantId>,
    /// The first day: a number of days up to today (`30d`), or a date. Days begin at midnight UTC.
    #[arg(long, value_name = "WHEN", value_parser = When::parse, default_value = "30d")]
    since: When,
    /// Print one JSON object, with money as exact text.
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print comma-separated values under a line of names.
    #[arg(long)]
    csv: bool,
}

/// Prints the costs by day.
///
/// # Errors
/// The database cannot be read.
pub fn show(settings: &Settings, args: &CostsArgs) -> Result<ExitCode, String> {
    let session = settings.open_to_read()?;
    let now = unix_now();
    let first = first_day(&args.since, now);
    if first > now {
        return Err("--since lies in the future".into());
    }
    if let Some(tenant) = &args.tenant {
        settings.note_unknown(tenant);
    }
    let shown = |id: &TenantId| args.tenant.as_ref().is_none_or(|tenant| settings.is_below(id, tenant));
    let payer = args.tenant.as_ref().unwrap_or(&settings.config.auth.default_tenant);
    let budget = settings.config.tenant(payer).and_then(|tenant| monthly(&tenant.budgets));
    let charged = |id: &TenantId| if budget.is_some() { settings.is_below(id, payer) } else { shown(id) };

    // The first line contains the sum of its month, so the days since the beginning of that month are read, too.
    let days = report::costs_of(&*session, shown, month_start(first), now + 1).map_err(unreadable)?;
    let spent = match budget {
        Some(_) => report::costs_of(&*session, charged, month_start(first), now + 1).map_err(unreadable)?,
        None => Vec::new(),
    };
    let timezone = budget.map_or("UTC", |budget| budget.timezone.as_str());
    let month = report::month(&*session, charged, timezone, now).map_err(unreadable)?;
    let costs = Costs { lines: lines(&days, &spent, budget, first), month, budget, payer };

    // The owner of the budget is named only if there are other tenants.
    let others = settings.config.tenants.len() > 1 || settings.config.other_tenants.is_some();
    let text = match (args.json, args.csv) {
        (true, _) => output::json(&costs.as_json(args.tenant.as_ref(), first, now))?,
        (_, true) => costs.as_csv(),
        _ => costs.as_text(args.tenant.is_none() && others),
    };
    Ok(say(&text))
}

struct Costs<'a> {
    lines: Vec<Line>,
    month: Month,
    budget: Option<&'a Budget>,
    /// The tenant that owns the budget.
    payer: &'a TenantId,
}

#[derive(Debug, PartialEq, Eq)]
struct Line {
    day: Day,
    /// The cost of the day's month so far.
    month: NanoUsd,
    /// The part of `month` that counts in the budget, and the budget's limit.
    budget: Option<(NanoUsd, NanoUsd)>,
}

impl Line {
    /// The spent part of the budget, in percent.
    fn percent(&self) -> Option<f64> {
        self.budget.and_then(|(spent, limit)| tenths(spent, limit))
    }
}

fn tenths(spent: NanoUsd, limit: NanoUsd) -> Option<f64> {
    permille(spent.0, limit.0).map(|permille| permille as f64 / 10.0)
}

/// The days from `first` on, each with the sum since the first of its month. `spent` has the same days with the costs that count
/// in the budget; it is empty if there is no budget.
fn lines(days: &[Day], spent: &[Day], budget: Option<&Budget>, first: u64) -> Vec<Line> {
    let (mut month, mut charged) = (NanoUsd::ZERO, NanoUsd::ZERO);
    let mut lines = Vec::new();
    for (at, day) in days.iter().enumerate() {
        if day.day == month_start(day.day) {
            (month, charged) = (NanoUsd::ZERO, NanoUsd::ZERO);
        }
        month = month.saturating_add(day.cost);
        charged = charged.saturating_add(spent.get(at).map_or(NanoUsd::ZERO, |spent| spent.cost));
        if day.day >= first {
            lines.push(Line { day: *day, month, budget: budget.map(|budget| (charged, budget.limit)) });
        }
    }
    lines
}

impl Costs<'_> {
    fn as_text(&self, name_payer: bool) -> String {
        use Align::{Left, Right};
        let heads = [
            ("DAY", Left),
            ("CALLS", Right),
            ("HITS", Right),
            ("TOKENS", Right),
            ("COST", Right),
            ("MONTH TO DATE", Right),
            ("BUDGET", Right),
        ];
        let row = |line: &Line| {
            let Line { day, month, budget } = line;
            [
                date(day.day),
                thousands(day.calls),
                thousands(day.hits),
                thousands(day.prompt_tokens.saturating_add(day.completion_tokens)),
                dollars(day.cost, 2),
                dollars(*month, 2),
                budget.map_or_else(|| "-".into(), |(spent, limit)| percent(spent.0, limit.0)),
            ]
        };
        let table = output::table(heads, &self.lines.iter().map(row).collect::<Vec<_>>());
        let spent = dollars(self.month.spent, 2);
        let of = self.budget.map(|budget| {
            format!(" of {} ({})", dollars(budget.limit, 2), percent(self.month.spent.0, budget.limit.0))
        });
        let projected = self.month.projected.map_or_else(|| "-".into(), |amount| dollars(amount, 2));
        let whose = match self.budget.is_some() && name_payer {
            true => format!(" (tenant {})", self.payer),
            false => String::new(),
        };
        format!("{table}\nThis month: {spent}{}, projected {projected}{whose}\n", of.unwrap_or_default())
    }

    fn as_csv(&self) -> String {
        let mut text = "date,calls,cache_hits,prompt_tokens,completion_tokens,cost_usd,saved_usd,month_to_date_usd,\
                        budget_percent\n"
            .to_owned();
        for line in &self.lines {
            let Day { day, calls, hits, prompt_tokens, completion_tokens, cost, saved } = &line.day;
            let percent = line.percent().map(|percent| percent.to_string()).unwrap_or_default();
            text += &format!(
                "{},{calls},{hits},{prompt_tokens},{completion_tokens},{cost},{saved},{},{percent}\n",
                date(*day),
                line.month
            );
        }
        text
    }

    fn as_json(&self, tenant: Option<&TenantId>, since: u64, until: u64) -> serde_json::Value {
        let day = |line: &Line| {
            let Line { day, month, .. } = line;
            json!({
                "date": date(day.day),
                "calls": day.calls,
                "cache_hits": day.hits,
                "prompt_tokens": day.prompt_tokens,
                "completion_tokens": day.completion_tokens,
                "cost_usd": day.cost.to_string(),
                "saved_usd": day.saved.to_string(),
                "month_to_date_usd": month.to_string(),
                "budget_percent": line.percent(),
            })
        };
        let budget = self.budget.map(|budget| {
            json!({
                "tenant": self.payer,
                "limit_usd": budget.limit.to_string(),
                "hard": budget.hard,
                "timezone": budget.timezone,
                "spent_percent": tenths(self.month.spent, budget.limit),
            })
        });
        json!({
            "since": rfc3339(since),
            "until": rfc3339(until),
            "tenant": tenant,
            "days": self.lines.iter().map(day).collect::<Vec<_>>(),
            "this_month": {
                "start": rfc3339(self.month.start),
                "end": rfc3339(self.month.end),
                "spent_usd": self.month.spent.to_string(),
                "projected_usd": self.month.projected.map(|amount| amount.to_string()),
                "budget": budget,
            },
        })
    }
}

/// The monthly budget; the hard one if there are two.
fn monthly(budgets: &[Budget]) -> Option<&Budget> {
    budgets.iter().filter(|budget| budget.period == Period::Monthly).min_by_key(|budget| !budget.hard)
}

/// The first day to show; today is the last of a number of days.
fn first_day(since: &When, now: u64) -> u64 {
    let from = match since {
        When::Span(span, _) => now.saturating_sub((millis(*span).div_ceil(DAY_MS).max(1) - 1).saturating_mul(DAY_MS)),
        When::Moment(at) => *at,
    };
    from / DAY_MS * DAY_MS
}

/// The first millisecond of the UTC month of a moment.
fn month_start(at: u64) -> u64 {
    let first = i64::try_from(at).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok()).and_then(|at| {
        let date = at.to_zoned_datetime(jiff::tz::TimeZone::UTC).date().first_of_month();
        date.to_zoned_datetime(jiff::tz::TimeZone::UTC).ok()
    });
    first.and_then(|first| u64::try_from(first.timestamp().as_millisecond()).ok()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> u64 {
        text.parse::<jiff::Timestamp>().unwrap().as_millisecond() as u64
    }

    fn usd(cents: u64) -> NanoUsd {
        NanoUsd(cents * 10_000_000)
    }

    fn budget(hard: bool) -> Budget {
        Budget { limit: usd(10_000), period: Period::Monthly, timezone: "UTC".into(), hard, alert_at: Vec::new() }
    }

    fn days(from: &str, cents: &[u64]) -> Vec<Day> {
        let start = at(from);
        let day = |(n, cents): (u64, &u64)| Day {
            day: start + n * DAY_MS,
            calls: 1_000 * (n + 1),
            prompt_tokens: 1_000,
            completion_tokens: 234,
            cost: usd(*cents),
            ..Day::default()
        };
        (0..).zip(cents).map(day).collect()
    }

    fn costs<'a>(budget: Option<&'a Budget>, payer: &'a TenantId) -> Costs<'a> {
        let mut cents = vec![0; 30];
        cents[..3].copy_from_slice(&[1_000, 250, 0]);
        cents.extend([100, 50]);
        // From the 1st of November to the 2nd of December.
        let days = days("2026-11-01T00:00:00Z", &cents);
        let month = Month {
            start: at("2026-12-01T00:00:00Z"),
            end: at("2027-01-01T00:00:00Z"),
            spent: usd(150),
            projected: Some(usd(2_325)),
        };
        Costs { lines: lines(&days, &days, budget, at("2026-11-29T00:00:00Z")), month, budget, payer }
    }

    #[test]
    fn a_line_has_its_month_before_it() {
        let rule = budget(true);
        let payer = TenantId::from("default");
        let expected = "\
DAY          CALLS  HITS  TOKENS   COST  MONTH TO DATE  BUDGET
2026-11-29  29,000     0   1,234  $0.00         $12.50   12.5%
2026-11-30  30,000     0   1,234  $0.00         $12.50   12.5%
2026-12-01  31,000     0   1,234  $1.00          $1.00    1.0%
2026-12-02  32,000     0   1,234  $0.50          $1.50    1.5%

This month: $1.50 of $100.00 (1.5%), projected $23.25
";
        assert_eq!(costs(Some(&rule), &payer).as_text(false), expected);
        let named = costs(Some(&rule), &payer).as_text(true);
        assert!(named.ends_with("projected $23.25 (tenant default)\n"), "{named}");
        let without = costs(None, &payer).as_text(true);
        assert!(without.ends_with("   $1.50       -\n\nThis month: $1.50, projected $23.25\n"), "{without}");
    }

    #[test]
    fn programs_get_exact_amounts() {
        let rule = budget(false);
        let payer = TenantId::from("default");
        let csv = costs(Some(&rule), &payer).as_csv();
        let lines: Vec<_> = csv.lines().collect();
        assert_eq!((lines.len(), lines[4]), (5, "2026-12-02,32000,0,1000,234,0.5,0,1.5,1.5"));
        assert!(lines.iter().all(|line| line.split(',').count() == 9), "{csv}");
        assert!(costs(None, &payer).as_csv().ends_with(",1.5,\n"));
        let value = costs(Some(&rule), &payer).as_json(None, 0, 1);
        assert_eq!((&value["days"][0]["cost_usd"], &value["days"][0]["budget_percent"]), (&json!("0"), &json!(12.5)));
        assert_eq!(value["this_month"]["projected_usd"], "23.25");
        assert_eq!(value["this_month"]["budget"]["limit_usd"], "100");
        assert_eq!(costs(None, &payer).as_json(None, 0, 1)["this_month"]["budget"], json!(null));
    }

    #[test]
    fn the_hard_monthly_budget_counts() {
        let daily = Budget { period: Period::Daily, ..budget(true) };
        let (soft, hard) = (budget(false), budget(true));
        assert_eq!(monthly(std::slice::from_ref(&daily)), None);
        assert_eq!(monthly(&[daily.clone(), soft.clone(), hard.clone()]), Some(&hard));
        assert_eq!(monthly(&[daily, soft.clone()]), Some(&soft));
    }

    #[test]
    fn so_many_days_end_today() {
        let now = at("2026-11-24T12:30:00Z");
        for (since, first) in [
            ("30d", "2026-10-26"),
            ("1d", "2026-11-24"),
            ("24h", "2026-11-24"),
            ("25h", "2026-11-23"),
            ("0s", "2026-11-24"),
        ] {
            assert_eq!(first_day(&When::parse(since).unwrap(), now), at(&format!("{first}T00:00:00Z")), "{since}");
        }
        assert_eq!(first_day(&When::parse("2026-11-02T23:00:00Z").unwrap(), now), at("2026-11-02T00:00:00Z"));
        assert_eq!(month_start(at("2026-12-01T00:00:00Z") - 1), at("2026-11-01T00:00:00Z"));
        assert_eq!(month_start(at("2026-12-01T00:00:00Z")), at("2026-12-01T00:00:00Z"));
    }
}
