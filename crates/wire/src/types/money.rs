//! Money, as integers.
//!
//! Amounts are counted in billionths and prices in trillionths of a US dollar, so that sums are exact and compare
//! exactly. Text becomes an integer digit by digit: no amount is ever a binary fraction.

use std::{fmt, iter::Sum, str::FromStr};

/// An amount of money in billionths of a US dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NanoUsd(pub u64);

/// A price in trillionths of a US dollar per unit (token, image, character, second).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PicoUsd(pub u64);

/// Why a text is not an amount of money or a price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoneyError {
    /// Not a decimal number such as `12`, `0.5` or `1.25e-6`.
    NotANumber,
    /// Below zero.
    Negative,
    /// Has more decimal places than the unit can hold.
    TooFine,
    /// More than the unit can hold.
    TooLarge,
}

const NANO_PLACES: u32 = 9;
const PICO_PLACES: u32 = 12;
const PICO_PER_NANO: u128 = 1_000;

impl NanoUsd {
    /// The amount zero.
    pub const ZERO: Self = Self(0);
    /// The largest amount, about 18.4 billion dollars.
    pub const MAX: Self = Self(u64::MAX);

    /// The sum, or [`Self::MAX`] where it would not fit.
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or zero where `other` is larger.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The sum, or `None` where it would not fit.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference, or `None` where `other` is larger.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// Rounds trillionths of a dollar to the nearest amount, halves up; [`Self::MAX`] where it would not fit.
    pub fn from_pico(pico: u128) -> Self {
        let half_up = u128::from(pico % PICO_PER_NANO >= PICO_PER_NANO / 2);
        Self(u64::try_from(pico / PICO_PER_NANO + half_up).unwrap_or(u64::MAX))
    }
}

impl PicoUsd {
    /// Free of charge.
    pub const ZERO: Self = Self(0);

    /// Trillionths of a dollar for this many units; cannot overflow.
    pub const fn times(self, units: u64) -> u128 {
        self.0 as u128 * units as u128
    }

    /// Reads a price per *million* units in US dollars, as price lists print it: `"2.50"` is 2 500 000
    /// trillionths per unit.
    ///
    /// # Errors
    /// As [`NanoUsd::from_str`], with six decimal places.
    pub fn from_usd_per_million(text: &str) -> Result<Self, MoneyError> {
        parse(text, PICO_PLACES - 6).map(Self)
    }
}

impl FromStr for NanoUsd {
    type Err = MoneyError;

    /// Reads US dollars exactly: `"12"`, `"0.002"`, `"1.5e-6"`.
    ///
    /// # Errors
    /// [`MoneyError`] for a text that is not a decimal number, is negative, has more than nine decimal places, or exceeds
    /// [`NanoUsd::MAX`].
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        parse(text, NANO_PLACES).map(Self)
    }
}

impl FromStr for PicoUsd {
    type Err = MoneyError;

    /// Reads US dollars per unit exactly: `"0.00000125"`, `"1.25e-6"`.
    ///
    /// # Errors
    /// As [`NanoUsd::from_str`], with twelve decimal places.
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        parse(text, PICO_PLACES).map(Self)
    }
}

impl Sum for NanoUsd {
    /// Saturates like [`NanoUsd::saturating_add`].
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Self::saturating_add)
    }
}

impl fmt::Display for NanoUsd {
    /// Plain decimal US dollars without trailing zeros: `0.002`, `0`, `12.5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(self.0, NANO_PLACES, f)
    }
}

impl fmt::Display for PicoUsd {
    /// Plain decimal US dollars per unit without trailing zeros: `0.0000025`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(self.0, PICO_PLACES, f)
    }
}

impl fmt::Display for MoneyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotANumber => "is not a decimal number",
            Self::Negative => "is below zero",
            Self::TooFine => "has more decimal places than can be counted",
            Self::TooLarge => "is too large",
        })
    }
}

impl std::error::Error for MoneyError {}

/// `text` times ten to the power of `places`; the product must be a whole number.
fn parse(text: &str, places: u32) -> Result<u64, MoneyError> {
    let (unsigned, negative) = match text.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let (number, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, parse_exponent(exponent)?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => return Err(MoneyError::NotANumber),
        Some(parts) => parts,
        None => (number, ""),
    };
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) {
        return Err(MoneyError::NotANumber);
    }

    // The significant digits without trailing zeros, which only move the point: `1.50` is 15 with one place.
    // `None` once they exceed what a u128 holds; by then they are too many for any unit here.
    let mut mantissa = Some(0_u128);
    let mut zeros = 0_u32;
    for byte in whole.bytes().chain(fraction.bytes()) {
        if byte == b'0' {
            zeros = zeros.saturating_add(1);
            continue;
        }
        mantissa = mantissa.and_then(|sum| {
            let shifted = if sum == 0 { 0 } else { sum.checked_mul(10_u128.checked_pow(zeros.checked_add(1)?)?)? };
            shifted.checked_add(u128::from(byte - b'0'))
        });
        zeros = 0;
    }
    if mantissa == Some(0) {
        return Ok(0);
    }
    if negative {
        return Err(MoneyError::Negative);
    }
    let shift = i64::from(places) + exponent - fraction.len() as i64 + i64::from(zeros);
    if shift < 0 {
        return Err(MoneyError::TooFine);
    }
    u32::try_from(shift)
        .ok()
        .and_then(|shift| 10_u128.checked_pow(shift))
        .and_then(|factor| mantissa?.checked_mul(factor))
        .and_then(|value| u64::try_from(value).ok())
        .ok_or(MoneyError::TooLarge)
}

/// The signed whole number behind `e`. Its magnitude is limited to a million, which is out of range in either direction.
fn parse_exponent(text: &str) -> Result<i64, MoneyError> {
    let (digits, sign) = match text.as_bytes() {
        [b'-', digits @ ..] => (digits, -1),
        [b'+', digits @ ..] => (digits, 1),
        digits => (digits, 1),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(MoneyError::NotANumber);
    }
    let size = digits.iter().fold(0_i64, |sum, digit| (sum * 10 + i64::from(digit - b'0')).min(1_000_000));
    Ok(sign * size)
}

/// Prints `value` divided by ten to the power of `places`, without allocating; width and fill are honoured.
fn print(value: u64, places: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // A u64 has at most 20 digits; a point and a leading zero make 22.
    let mut text = [b'0'; 24];
    let places = places as usize;
    let mut at = text.len();
    let mut end = at;
    let mut rest = value;
    let mut written = 0;
    while rest > 0 || written <= places {
        if written == places {
            // Trailing zeros behind the point are left out, and the point too where no digits are left.
            while end > at && text[end - 1] == b'0' {
                end -= 1;
            }
            if end > at {
                at -= 1;
                text[at] = b'.';
            } else {
                (at, end) = (text.len(), text.len());
            }
        }
        at -= 1;
        text[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        written += 1;
    }
    f.pad(std::str::from_utf8(&text[at..end]).map_err(|_| fmt::Error)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prints_plain_decimals() {
        let cases = [
            (0, "0"),
            (1, "0.000000001"),
            (2_000_000, "0.002"),
            (1_000_000_000, "1"),
            (12_500_000_000, "12.5"),
            (10_000_000_000, "10"),
            (100_000_000_001, "100.000000001"),
            (u64::MAX, "18446744073.709551615"),
        ];
        for (nano, text) in cases {
            assert_eq!(NanoUsd(nano).to_string(), text);
        }
        assert_eq!(PicoUsd(2_500_000).to_string(), "0.0000025");
        assert_eq!(PicoUsd(u64::MAX).to_string(), "18446744.073709551615");
        assert_eq!(format!("[{:>8}]", NanoUsd(500_000_000)), "[     0.5]");
    }

    #[test]
    fn reads_decimals_exactly() {
        assert_eq!("0.00000125".parse(), Ok(PicoUsd(1_250_000)));
        assert_eq!("1.25e-6".parse(), Ok(PicoUsd(1_250_000)));
        assert_eq!("4e-08".parse(), Ok(PicoUsd(40_000)));
        assert_eq!("1E+2".parse(), Ok(NanoUsd(100_000_000_000)));
        assert_eq!("100.000".parse(), Ok(NanoUsd(100_000_000_000)));
        assert_eq!("-0.0".parse(), Ok(NanoUsd(0)));
        assert_eq!("18446744073.709551615".parse(), Ok(NanoUsd::MAX));
        assert_eq!("0.0000000010000000000000000000000000000000000000000000000000000".parse(), Ok(NanoUsd(1)));
        assert_eq!(PicoUsd::from_usd_per_million("2.50"), Ok(PicoUsd(2_500_000)));
        assert_eq!(PicoUsd::from_usd_per_million("0.3125"), Ok(PicoUsd(312_500)));
        assert_eq!(PicoUsd::from_usd_per_million("0.0000001"), Err(MoneyError::TooFine));
    }

    #[test]
    fn refuses_what_it_cannot_hold() {
        for text in
            ["", "-", ".", "5.", ".5", "1,5", "1_000", "0x1", "inf", "NaN", "1e", "1e-", "1e1.5", " 1", "$1", "+1"]
        {
            assert_eq!(text.parse::<NanoUsd>(), Err(MoneyError::NotANumber), "{text}");
        }
        let digits = "9".repeat(60);
        let cases = [
            ("-1".to_owned(), MoneyError::Negative),
            ("0.0000000001".to_owned(), MoneyError::TooFine),
            ("1e-999999999999999999999".to_owned(), MoneyError::TooFine),
            (format!("0.{digits}"), MoneyError::TooFine),
            ("18446744073.709551616".to_owned(), MoneyError::TooLarge),
            ("1e999999999999999999999".to_owned(), MoneyError::TooLarge),
            (digits, MoneyError::TooLarge),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<NanoUsd>(), Err(error), "{text}");
        }
    }

    #[test]
    fn adds_and_subtracts_without_wrapping() {
        assert_eq!(NanoUsd::MAX.saturating_add(NanoUsd(1)), NanoUsd::MAX);
        assert_eq!(NanoUsd::MAX.checked_add(NanoUsd(1)), None);
        assert_eq!(NanoUsd(1).checked_sub(NanoUsd(2)), None);
        assert_eq!(NanoUsd(1).saturating_sub(NanoUsd(2)), NanoUsd::ZERO);
        assert_eq!([NanoUsd(1), NanoUsd(2), NanoUsd(3)].into_iter().sum::<NanoUsd>(), NanoUsd(6));
        assert_eq!([NanoUsd::MAX, NanoUsd::MAX].into_iter().sum::<NanoUsd>(), NanoUsd::MAX);
    }

    #[test]
    fn rounds_halves_up() {
        for (pico, nano) in [(0, 0), (499, 0), (500, 1), (1_499, 1), (1_500, 2), (u128::MAX, u64::MAX)] {
            assert_eq!(NanoUsd::from_pico(pico), NanoUsd(nano));
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(value: u64) {
            prop_assert_eq!(NanoUsd(value).to_string().parse(), Ok(NanoUsd(value)));
            prop_assert_eq!(PicoUsd(value).to_string().parse(), Ok(PicoUsd(value)));
        }

        #[test]
        fn the_exponent_only_moves_the_point(mantissa in 0_u64..1_000_000, places in 0_u32..=9) {
            let moved = format!("{mantissa}e-{places}");
            prop_assert_eq!(moved.parse(), Ok(NanoUsd(mantissa * 10_u64.pow(9 - places))));
        }

        #[test]
        fn no_text_panics(text in "[-+0-9.eE ]{0,40}|\\PC{0,20}") {
            if let Ok(amount) = text.parse::<NanoUsd>() {
                prop_assert_eq!(amount.to_string().parse(), Ok(amount));
            }
        }

        #[test]
        fn rounding_is_off_by_at_most_half(pico in 0..u128::from(u64::MAX)) {
            let back = u128::from(NanoUsd::from_pico(pico).0) * 1_000;
            prop_assert!(back.abs_diff(pico) <= 500);
        }
    }
}
