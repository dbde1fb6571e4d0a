//! When a budget's period begins and ends.

use jiff::{Timestamp, ToSpan, civil::Weekday, tz::TimeZone};

use crate::config::Period;

/// The first millisecond of the period that contains `now_ms`, and the first millisecond after the period, all counted since
/// 1970. Days, weeks (from Monday) and months follow the time zone, including its daylight-saving changes.
pub fn bounds(period: Period, zone: &TimeZone, now_ms: u64) -> (u64, u64) {
    let whole = (0, u64::MAX);
    if period == Period::Total {
        return whole;
    }
    // A moment beyond the calendar has no month; only a broken clock shows such a moment.
    let Ok(now) = Timestamp::from_millisecond(i64::try_from(now_ms).unwrap_or(i64::MAX)) else { return whole };
    let today = now.to_zoned_datetime(zone.clone()).date();
    let (first, span) = match period {
        Period::Daily => (Some(today), 1.day()),
        Period::Weekly => {
            let since_monday = today.weekday().since(Weekday::Monday);
            (today.checked_sub(i64::from(since_monday).days()).ok(), 1.week())
        }
        Period::Monthly | Period::Total => (Some(today.first_of_month()), 1.month()),
    };
    let start_of = |date: jiff::civil::Date| {
        let at = date.to_zoned_datetime(zone.clone()).ok()?.timestamp().as_millisecond();
        Some(u64::try_from(at).unwrap_or(0))
    };
    let both = first.and_then(|first| Some((start_of(first)?, start_of(first.checked_add(span).ok()?)?)));
    both.unwrap_or(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> u64 {
        text.parse::<Timestamp>().unwrap().as_millisecond() as u64
    }

    fn check(period: Period, zone: &str, now: &str, start: &str, end: &str) {
        let found = bounds(period, &TimeZone::get(zone).unwrap(), at(now));
        assert_eq!(found, (at(start), at(end)), "{period:?} {zone} {now}");
    }

    #[test]
    fn periods_follow_the_calendar_of_their_zone() {
        use Period::{Daily, Monthly, Weekly};
        check(Monthly, "UTC", "2026-11-24T12:00:00Z", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z");
        check(Monthly, "UTC", "2028-02-29T23:59:59.999Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z");
        check(Weekly, "UTC", "2026-11-22T12:00:00Z", "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z");
        check(Weekly, "UTC", "2026-11-23T00:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z");
        // In Berlin, one hour ahead of UTC, it is December already.
        check(Monthly, "Europe/Berlin", "2026-11-30T23:30:00Z", "2026-11-30T23:00:00Z", "2026-12-31T23:00:00Z");
        // The day on which the clock goes back has 25 hours, the one on which it goes forward 23.
        check(Daily, "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z");
        check(Daily, "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z");
        check(Daily, "Asia/Kolkata", "2026-11-24T20:00:00Z", "2026-11-24T18:30:00Z", "2026-11-25T18:30:00Z");
    }

    #[test]
    fn every_moment_lies_in_its_own_period_and_the_next_begins_at_its_end() {
        for zone in ["UTC", "America/Sao_Paulo", "Pacific/Apia", "Africa/Casablanca"] {
            let zone = TimeZone::get(zone).unwrap();
            for period in [Period::Daily, Period::Weekly, Period::Monthly] {
                for step in 0..2_000 {
                    let now = at("2010-01-01T00:00:00Z") + step * 86_400_000 * 3 + step * 7_919_001;
                    let (start, end) = bounds(period, &zone, now);
                    assert!(start <= now && now < end);
                    assert_eq!(bounds(period, &zone, end).0, end);
                    assert_eq!(bounds(period, &zone, end - 1).0, start);
                }
            }
        }
        assert_eq!(bounds(Period::Total, &TimeZone::UTC, 5), (0, u64::MAX));
    }
}
