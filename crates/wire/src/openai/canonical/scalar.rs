//! The canonical spelling of strings and numbers, written while their syntax is checked.

use std::io::Write as _;

/// Writes the string that opens at `at`; returns the offset behind it.
pub(super) fn string(json: &[u8], at: usize, out: &mut Vec<u8>) -> Option<usize> {
    let (mut copied, mut at) = (at, at + 1);
    loop {
        at = special(json, at)?;
        match (json[at], json.get(at + 1)) {
            (b'"', _) => {
                out.extend_from_slice(&json[copied..=at]);
                return Some(at + 1);
            }
            // This escape is canonical as it is.
            (b'\\', Some(b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't')) => at += 2,
            (b'\\', Some(b'/')) => {
                out.extend_from_slice(&json[copied..at]);
                (copied, at) = (at + 1, at + 2);
            }
            (b'\\', Some(b'u')) => {
                out.extend_from_slice(&json[copied..at]);
                at = escaped(json, at, out)?;
                copied = at;
            }
            // A control character, or an escape that JSON does not have.
            _ => return None,
        }
    }
}

/// The first quote, backslash or control character. Strings are mostly short, so that looking at eight bytes at once is
/// faster than calling a vectorised search.
fn special(json: &[u8], from: usize) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    let mut at = from;
    while let Some(eight) = json.get(at..).and_then(<[u8]>::first_chunk) {
        let word = u64::from_le_bytes(*eight);
        // Sets the high bit of each byte that is less than `limit`, and perhaps of later bytes above such a byte.
        let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & (ONES << 7);
        let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
        let found = below(word, 0x20) | equal(b'"') | equal(b'\\');
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = json.get(at..)?;
    rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).map(|length| at + length)
}

/// Writes the character that `\uXXXX` at `at` spells, alone or as half of a surrogate pair; returns the offset behind it.
fn escaped(json: &[u8], at: usize, out: &mut Vec<u8>) -> Option<usize> {
    let unit = |at: usize| {
        let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
        digits.iter().try_fold(0, |unit, digit| Some(unit * 16 + char::from(*digit).to_digit(16)?))
    };
    let first = unit(at)?;
    if let (0xd800..0xdc00, Some(second @ 0xdc00..0xe000)) = (first, unit(at + 6)) {
        let character = char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00))?;
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        return Some(at + 12);
    }
    match char::from_u32(first) {
        Some(character @ ('"' | '\\')) => out.extend_from_slice(&[b'\\', character as u8]),
        Some('\u{8}') => out.extend_from_slice(b"\\b"),
        Some('\u{c}') => out.extend_from_slice(b"\\f"),
        Some('\n') => out.extend_from_slice(b"\\n"),
        Some('\r') => out.extend_from_slice(b"\\r"),
        Some('\t') => out.extend_from_slice(b"\\t"),
        Some(character @ ' '..) => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        _ => out.extend_from_slice(format!("\\u{first:04x}").as_bytes()),
    }
    Some(at + 6)
}

/// Writes the number at `at`; returns the offset behind it.
pub(super) fn number(json: &[u8], at: usize, out: &mut Vec<u8>) -> Option<usize> {
    let digits = |at: usize| {
        let rest = json.get(at..)?;
        let length = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        (length > 0).then(|| &rest[..length])
    };
    let negative = json.get(at) == Some(&b'-');
    let whole = digits(at + usize::from(negative))?;
    if whole.len() > 1 && whole[0] == b'0' {
        return None;
    }
    let mut end = at + usize::from(negative) + whole.len();
    let next = json.get(end).copied();
    if !matches!(next, Some(b'.' | b'e' | b'E')) && !whole.ends_with(b"0") {
        out.extend_from_slice(&json[at..end]);
        return Some(end);
    }
    let mut fraction: &[u8] = &[];
    if next == Some(b'.') {
        fraction = digits(end + 1)?;
        end += 1 + fraction.len();
    }
    let (mut exponent, mut down): (&[u8], bool) = (&[], false);
    if let Some(b'e' | b'E') = json.get(end) {
        let sign = json.get(end + 1);
        down = sign == Some(&b'-');
        end += 1 + usize::from(down || sign == Some(&b'+'));
        exponent = digits(end)?;
        end += exponent.len();
    }

    let start = out.len();
    out.extend_from_slice(if negative { b"-" } else { b"" });
    let mut leading = true;
    out.extend(whole.iter().chain(fraction).skip_while(|digit| {
        leading &= **digit == b'0';
        leading
    }));
    let full = out.len();
    while out.len() > start && out.ends_with(b"0") {
        out.pop();
    }
    if matches!(&out[start..], b"" | b"-") {
        out.truncate(start);
        out.push(b'0');
    } else {
        power(exponent, down, (full - out.len()) as i64 - fraction.len() as i64, out);
    }
    Some(end)
}

/// Writes a power of ten: the sum of an exponent, which may have any number of digits, and of `shift`, which is less than
/// 2^32 either way.
fn power(exponent: &[u8], down: bool, shift: i64, out: &mut Vec<u8>) {
    const DIGITS: usize = 18;
    const LIMIT: i64 = 10_i64.pow(DIGITS as u32);
    let exponent = without_zeros(exponent);
    let (head, tail) = exponent.split_at(exponent.len().saturating_sub(DIGITS));
    let tail = tail.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    // Writing into a Vec cannot fail.
    if head.is_empty() {
        let sum = if down { shift - tail } else { shift + tail };
        if sum != 0 {
            let _ = write!(out, "e{sum}");
        }
        return;
    }
    // The exponent is far beyond the shift, so its sign stays, and at most 1 is carried or borrowed.
    let tail = if down { tail - shift } else { tail + shift };
    let (mut carry, tail) = (tail.div_euclid(LIMIT), tail.rem_euclid(LIMIT));
    let mut head = head.to_vec();
    for digit in head.iter_mut().rev() {
        let sum = i64::from(*digit - b'0') + carry;
        (carry, *digit) = (sum.div_euclid(10), b'0' + sum.rem_euclid(10) as u8);
    }
    if carry > 0 {
        head.insert(0, b'1');
    }
    let head = String::from_utf8_lossy(without_zeros(&head));
    let _ = match (down, head.is_empty()) {
        (false, false) => write!(out, "e{head}{tail:018}"),
        (true, false) => write!(out, "e-{head}{tail:018}"),
        (false, true) => write!(out, "e{tail}"),
        (true, true) => write!(out, "e-{tail}"),
    };
}

fn without_zeros(digits: &[u8]) -> &[u8] {
    &digits[digits.iter().position(|digit| *digit != b'0').unwrap_or(digits.len())..]
}
