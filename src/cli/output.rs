//! The output of commands: printing, tables, and formats of values.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use jiff::Timestamp;
use serde::Serialize;

use crate::types::NanoUsd;

/// Writes to standard output. A reader that has closed the pipe (`can … | head`) is no error.
pub fn say(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Writes a line to standard error, and returns the exit code of a failure.
pub fn complain(text: &str) -> ExitCode {
    note(text);
    ExitCode::FAILURE
}

/// Writes a line to standard error, for people.
pub fn note(text: &str) {
    // If standard error fails, there is nowhere left to report that.
    let _ = writeln!(io::stderr(), "{text}");
}

/// A value as indented JSON.
///
/// # Errors
/// The value cannot be written as JSON.
pub fn json(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| error.to_string())
}

/// The alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// To the left, for text.
    Left,
    /// To the right, for numbers.
    Right,
}

/// A table: columns under their heads, two spaces apart, without spaces at the end of a line.
pub fn table<const N: usize>(heads: [(&str, Align); N], rows: &[[String; N]]) -> String {
    let length = |cell: &str| cell.chars().count();
    let widths: [usize; N] = std::array::from_fn(|at| {
        rows.iter().map(|row| length(&row[at])).chain([length(heads[at].0)]).max().unwrap_or(0)
    });
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        let begin = text.len();
        for (at, cell) in cells.into_iter().enumerate() {
            if at > 0 {
                text.push_str("  ");
            }
            let blanks = " ".repeat(widths[at].saturating_sub(length(cell)));
            match heads[at].1 {
                Align::Left => text.extend([cell, &blanks]),
                Align::Right => text.extend([&*blanks, cell]),
            }
        }
        text.truncate(begin + text[begin..].trim_end().len());
        text.push('\n');
    };
    line(heads.map(|(head, _)| head));
    rows.iter().for_each(|row| line(std::array::from_fn(|at| &*row[at])));
    text
}

/// A moment for people: `2026-11-24 12:30 UTC`.
pub fn moment(unix_ms: u64) -> String {
    timestamp(unix_ms).map_or_else(|| "beyond the calendar".into(), |at| at.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

/// A moment for programs, in RFC 3339 format; `None` beyond the calendar.
pub fn rfc3339(unix_ms: u64) -> Option<String> {
    timestamp(unix_ms).map(|at| at.to_string())
}

/// The day of a moment: `2026-11-24`.
pub fn date(unix_ms: u64) -> String {
    timestamp(unix_ms).map_or_else(|| "-".into(), |at| at.strftime("%Y-%m-%d").to_string())
}

fn timestamp(unix_ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?).ok()
}

/// A number with separated thousands: `1,234`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Dollars rounded to `places` decimal places (at most nine): `$1,234.50`. An amount that would be rounded to zero gets as
/// many places as its first two digits need.
pub fn dollars(amount: NanoUsd, places: u32) -> String {
    let rounded = |places: u32| {
        let unit = 10_u64.pow(9 - places);
        (amount.0 / unit) + u64::from(amount.0 % unit >= unit.div_ceil(2))
    };
    let mut places = places.min(9);
    if amount > NanoUsd::ZERO && rounded(places) == 0 {
        places = (places..9).find(|places| rounded(*places) >= 10).unwrap_or(9);
    }
    let (number, scale) = (rounded(places), 10_u64.pow(places));
    let whole = thousands(number / scale);
    match places {
        0 => format!("${whole}"),
        _ => format!("${whole}.{:0width$}", number % scale, width = places as usize),
    }
}

/// A number of bytes: `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    let unit = [("GiB", 30), ("MiB", 20), ("KiB", 10)].into_iter().find(|(_, shift)| bytes >= 1 << shift);
    match unit {
        Some((unit, shift)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

/// How many thousandths of `whole` `part` is, rounded; `None` if `whole` is 0.
pub fn permille(part: u64, whole: u64) -> Option<u64> {
    let rounded = (u128::from(part) * 1_000 + u128::from(whole) / 2).checked_div(u128::from(whole))?;
    Some(u64::try_from(rounded).unwrap_or(u64::MAX))
}

/// A percentage with one decimal place: `87.3%`; `-` if `whole` is 0.
pub fn percent(part: u64, whole: u64) -> String {
    permille(part, whole).map_or_else(|| "-".into(), |permille| format!("{}.{}%", permille / 10, permille % 10))
}

/// Foreign text made safe for a terminal: printable ASCII, and at most `longest` characters.
pub fn printable(text: &str, longest: usize) -> String {
    let shown = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    match text.chars().count() > longest {
        true => text.chars().take(longest.saturating_sub(1)).map(shown).chain(['…']).collect(),
        false => text.chars().map(shown).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [["a".into(), "1,000".into(), String::new()], ["äöü".into(), "7".into(), "end".into()]];
        let text = table([("NAME", Align::Left), ("N", Align::Right), ("", Align::Left)], &rows);
        assert_eq!(text, "NAME      N\na     1,000\näöü       7  end\n");
    }

    #[test]
    fn numbers_are_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
        for (bytes, text) in [(0, "0 B"), (1_023, "1023 B"), (1_536, "1.5 KiB"), (5 << 30, "5.0 GiB")] {
            assert_eq!(size(bytes), text);
        }
        for (part, whole, text) in
            [(873, 1_000, "87.3%"), (1, 3, "33.3%"), (2, 3, "66.7%"), (3, 2, "150.0%"), (0, 5, "0.0%"), (1, 0, "-")]
        {
            assert_eq!(percent(part, whole), text);
        }
        assert_eq!(permille(u64::MAX, 1), Some(u64::MAX));
    }

    #[test]
    fn small_money_never_looks_like_nothing() {
        for (nano, places, text) in [
            (0, 2, "$0.00"),
            (0, 3, "$0.000"),
            (12_450_000_000, 2, "$12.45"),
            (12_455_000_000, 2, "$12.46"),
            (10_000_000, 3, "$0.010"),
            (999_999_999, 2, "$1.00"),
            (1_234_567_000_000_000, 2, "$1,234,567.00"),
            (5_000_000, 2, "$0.01"),
            (4_999_999, 2, "$0.0050"),
            (4_900_000, 2, "$0.0049"),
            (23_400, 3, "$0.000023"),
            (1, 2, "$0.000000001"),
            (u64::MAX, 9, "$18,446,744,073.709551615"),
            (1_500_000_000, 0, "$2"),
        ] {
            assert_eq!(dollars(NanoUsd(nano), places), text, "{nano}");
        }
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(moment(1_795_523_400_000), "2026-11-24 12:30 UTC");
        assert_eq!(rfc3339(1_795_523_400_123).as_deref(), Some("2026-11-24T12:30:00.123Z"));
        assert_eq!(date(0), "1970-01-01");
        assert_eq!((moment(u64::MAX).as_str(), rfc3339(u64::MAX)), ("beyond the calendar", None));
    }

    #[test]
    fn a_terminal_is_told_nothing() {
        assert_eq!(printable("a\u{1b}[31m\u{202e}b", 40), "a?[31m?b");
        assert_eq!(printable("abcdef", 4), "abc…");
        assert_eq!(printable("abcd", 4), "abcd");
    }
}
