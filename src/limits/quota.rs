//! What is left of a limit, and how long until all of it is free again.

use std::time::Duration;

/// The largest number of seconds in a duration of Go, which is an `i64` of nanoseconds.
const GO_MAX_SECONDS: u64 = i64::MAX as u64 / 1_000_000_000;

/// The state of one limit, for the `x-ratelimit-*` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The limit per window, in its unit.
    pub limit: u64,
    /// What is left now, in the unit of the limit.
    pub remaining: u64,
    /// The time until all of the limit is free, if nothing more is counted.
    pub reset: Duration,
}

impl Quota {
    /// The tighter of two quotas: the one with less remaining; if they are equal, the one whose limit is free again later.
    pub(super) fn tighter(self, other: Self) -> Self {
        let key = |quota: &Self| (quota.remaining, std::cmp::Reverse(quota.reset));
        if key(&other) < key(&self) { other } else { self }
    }
}

/// A duration in Go's format, which OpenAI's `x-ratelimit-reset-*` headers use: `20ms`, `1s`, `6m0s`, `1h0m0s`.
///
/// Rounded up, to milliseconds below one second and to seconds above. A duration too long for Go (292 years) is cut.
pub fn go_duration(duration: Duration) -> String {
    let mut text = String::with_capacity(16);
    push_go_duration(&mut text, duration);
    text
}

/// Appends a duration to a text, in the format of [`go_duration`]. Written by hand for speed: each reply has two durations.
pub fn push_go_duration(text: &mut String, duration: Duration) {
    // A millisecond has 1,000,000 ns; a duration of more than 584 years is cut below.
    let millis = u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    if (1..1_000).contains(&millis) {
        text.push_str(itoa::Buffer::new().format(millis));
        text.push_str("ms");
        return;
    }
    let seconds = millis.div_ceil(1_000).min(GO_MAX_SECONDS);
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        text.push_str(itoa::Buffer::new().format(hours));
        text.push('h');
    }
    if hours > 0 || minutes > 0 {
        text.push_str(itoa::Buffer::new().format(minutes));
        text.push('m');
    }
    text.push_str(itoa::Buffer::new().format(seconds));
    text.push('s');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prints_as_go_does() {
        let cases = [
            (Duration::ZERO, "0s"),
            (Duration::from_nanos(1), "1ms"),
            (Duration::from_millis(20), "20ms"),
            (Duration::from_micros(20_001), "21ms"),
            (Duration::from_millis(999), "999ms"),
            (Duration::from_micros(999_001), "1s"),
            (Duration::from_secs(1), "1s"),
            (Duration::from_nanos(1_000_000_001), "2s"),
            (Duration::from_millis(59_001), "1m0s"),
            (Duration::from_secs(119), "1m59s"),
            (Duration::from_secs(360), "6m0s"),
            (Duration::from_secs(3_600), "1h0m0s"),
            (Duration::from_secs(90_061), "25h1m1s"),
            (Duration::MAX, "2562047h47m16s"),
        ];
        for (duration, text) in cases {
            assert_eq!(go_duration(duration), text);
        }
    }

    #[test]
    fn the_tighter_quota_has_less_remaining_then_the_later_reset() {
        let quota = |remaining, secs| Quota { limit: 9, remaining, reset: Duration::from_secs(secs) };
        assert_eq!(quota(1, 1).tighter(quota(2, 5)), quota(1, 1));
        assert_eq!(quota(2, 5).tighter(quota(1, 1)), quota(1, 1));
        assert_eq!(quota(1, 1).tighter(quota(1, 5)), quota(1, 5));
    }

    /// The sum of the parts, as Go's `time.ParseDuration` computes it.
    fn parse(text: &str) -> Duration {
        let mut sum = Duration::ZERO;
        let mut rest = text;
        while !rest.is_empty() {
            let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap());
            let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
            let unit = match unit {
                "h" => Duration::from_secs(3_600),
                "m" => Duration::from_secs(60),
                "s" => Duration::from_secs(1),
                "ms" => Duration::from_millis(1),
                unit => panic!("no unit of Go: {unit}"),
            };
            sum += unit * number.parse::<u32>().unwrap();
            rest = tail;
        }
        sum
    }

    proptest! {
        #[test]
        fn never_prints_less_and_never_a_unit_more(nanos in 0..10_u64.pow(15)) {
            let duration = Duration::from_nanos(nanos);
            let unit = if nanos < 1_000_000_000 { Duration::from_millis(1) } else { Duration::from_secs(1) };
            let printed = parse(&go_duration(duration));
            prop_assert!(printed >= duration && printed - duration < unit, "{duration:?} as {printed:?}");
        }
    }
}
