//! Durations as Kubernetes' files and flags spell them: `1h0m0s`, `250ms`, `1.5s`. They may be negative, so that checks
//! can refuse them by name. Not responsible for what is sensible.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};

/// A number of nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(i64);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    #[error("time: missing unit in duration {0:?}")]
    NoUnit(String),
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit { unit: String, text: String },
}

const MICROSECOND: i64 = 1_000;
const MILLISECOND: i64 = 1_000_000;
const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

impl GoDuration {
    pub const ZERO: GoDuration = GoDuration(0);

    pub const fn nanoseconds(nanoseconds: i64) -> GoDuration {
        GoDuration(nanoseconds)
    }

    pub const fn seconds(seconds: i64) -> GoDuration {
        GoDuration(seconds * SECOND)
    }

    pub const fn hours(hours: i64) -> GoDuration {
        GoDuration(hours * HOUR)
    }

    pub fn is_positive(self) -> bool {
        self.0 > 0
    }

    pub fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Whole seconds, as sysctls take them.
    pub fn whole_seconds(self) -> i64 {
        self.0 / SECOND
    }

    /// A time that can be waited for; a negative one has passed already.
    pub fn elapsing(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || DurationError::Invalid(text.to_owned());
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(GoDuration::ZERO);
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut sum = 0_i128;
        while !rest.is_empty() {
            let number = number_of(rest);
            if number.trim_matches('.').is_empty() {
                return Err(invalid());
            }
            let unit = prefix(&rest[number.len()..], |c| !c.is_ascii_digit() && c != '.');
            rest = &rest[number.len() + unit.len()..];
            sum += in_nanoseconds(number, unit_of(unit, text)?).ok_or_else(invalid)?;
        }
        let signed = if negative { -sum } else { sum };
        i64::try_from(signed).map(GoDuration).map_err(|_| invalid())
    }
}

/// The digits it begins with, which may have one point.
fn number_of(text: &str) -> &str {
    let whole = prefix(text, |c| c.is_ascii_digit()).len();
    let fraction = match text[whole..].strip_prefix('.') {
        Some(rest) => 1 + prefix(rest, |c| c.is_ascii_digit()).len(),
        None => 0,
    };
    &text[..whole + fraction]
}

fn prefix(text: &str, belongs: impl Fn(char) -> bool) -> &str {
    &text[..text.find(|c| !belongs(c)).unwrap_or(text.len())]
}

fn unit_of(unit: &str, text: &str) -> Result<i64, DurationError> {
    match unit {
        "ns" => Ok(1),
        // Micro sign and Greek mu.
        "us" | "\u{b5}s" | "\u{3bc}s" => Ok(MICROSECOND),
        "ms" => Ok(MILLISECOND),
        "s" => Ok(SECOND),
        "m" => Ok(MINUTE),
        "h" => Ok(HOUR),
        "" => Err(DurationError::NoUnit(text.to_owned())),
        unit => Err(DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() }),
    }
}

/// `number` has at least a digit and at most one point. `None` if it is too large for any duration.
fn in_nanoseconds(number: &str, unit: i64) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = if whole.is_empty() { 0 } else { whole.parse::<i64>().ok()? };
    // Digits beyond a nanosecond's share of an hour make no difference.
    let digits = &fraction[..fraction.len().min(18)];
    let numerator: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let denominator = 10_i128.checked_pow(u32::try_from(digits.len()).ok()?)?;
    Some(i128::from(whole) * i128::from(unit) + numerator * i128::from(unit) / denominator)
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let all = self.0.unsigned_abs();
        let [micro, milli, second, minute, hour] =
            [MICROSECOND, MILLISECOND, SECOND, MINUTE, HOUR].map(i64::unsigned_abs);
        match all {
            0 => f.write_str("0s"),
            _ if all < micro => write!(f, "{all}ns"),
            _ if all < milli => write!(f, "{}\u{b5}s", decimal(all, micro)),
            _ if all < second => write!(f, "{}ms", decimal(all, milli)),
            _ if all < minute => write!(f, "{}s", decimal(all, second)),
            _ if all < hour => write!(f, "{}m{}s", all / minute, decimal(all % minute, second)),
            _ => write!(f, "{}h{}m{}s", all / hour, all % hour / minute, decimal(all % minute, second)),
        }
    }
}

/// `value / unit` without trailing zeros; `unit` is a power of ten.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let width = usize::try_from(unit.ilog10()).unwrap_or(0);
    let digits = format!("{rest:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_printed_as_it_is_written() {
        for text in ["0s", "30s", "1m0s", "15m0s", "1h0m0s", "24h0m0s", "1.5s", "1h0m1.5s", "250ms", "1.25ms", "7ns"] {
            assert_eq!(text.parse::<GoDuration>().unwrap().to_string(), text);
            assert_eq!(format!("-{text}").parse::<GoDuration>().unwrap().is_negative(), text != "0s");
        }
        for (text, printed) in
            [("0", "0s"), ("+90s", "1m30s"), ("1500ms", "1.5s"), ("100us", "100\u{b5}s"), (".5h", "30m0s")]
        {
            assert_eq!(text.parse::<GoDuration>().unwrap().to_string(), printed);
        }
        assert_eq!("36h0m5s".parse::<GoDuration>().unwrap().whole_seconds(), 129_605);
    }

    #[test]
    fn what_is_none_is_refused_in_the_known_words() {
        let said = |text: &str| text.parse::<GoDuration>().unwrap_err().to_string();
        for text in ["", "-", "x", "s", ".s", "1s.", "9999999h"] {
            assert_eq!(said(text), format!("time: invalid duration {text:?}"), "{text}");
        }
        assert_eq!(said("5"), r#"time: missing unit in duration "5""#);
        assert_eq!(said("1.2.3s"), r#"time: missing unit in duration "1.2.3s""#);
        assert_eq!(said("1s-"), r#"time: unknown unit "s-" in duration "1s-""#);
        assert_eq!(said("1d"), r#"time: unknown unit "d" in duration "1d""#);
    }
}
