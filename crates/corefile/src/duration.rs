//! Durations as Go writes them: `1h30m`, `2.5s`, `500ms`.

use std::fmt::{Display, Formatter};
use std::time::Duration;

use serde::{Serialize, Serializer};

/// Nanoseconds, also negative ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct GoDuration(i64);

const NANOS: i64 = 1_000_000_000;

impl GoDuration {
    pub const ZERO: GoDuration = GoDuration(0);

    pub const fn from_secs(seconds: i64) -> Self {
        GoDuration(seconds.saturating_mul(NANOS))
    }

    pub const fn from_millis(millis: i64) -> Self {
        GoDuration(millis.saturating_mul(NANOS / 1000))
    }

    pub const fn from_nanos(nanos: i64) -> Self {
        GoDuration(nanos)
    }

    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// As the standard library has it; negative ones are nothing.
    pub fn to_std(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// Reads one: numbers with a unit each (ns, us, µs, ms, s, m, h), or 0.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, mut rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Some(GoDuration(0));
        }
        if rest.is_empty() {
            return None;
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (nanos, after) = part(rest)?;
            total = total.checked_add(nanos).filter(|total| *total <= 1 << 63)?;
            rest = after;
        }
        match (negative, i64::try_from(total)) {
            (true, Ok(total)) => Some(GoDuration(-total)),
            (true, Err(_)) => Some(GoDuration(i64::MIN)),
            (false, total) => total.ok().map(GoDuration),
        }
    }
}

/// The nanoseconds of the first number with its unit, and what follows.
fn part(text: &str) -> Option<(u64, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let whole_length = digits(text);
    let (whole, mut rest) = text.split_at(whole_length);
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix('.') {
        (fraction, rest) = after.split_at(digits(after));
    }
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let unit_length = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_length);
    let unit: u64 = match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => NANOS as u64,
        "m" => 60 * NANOS as u64,
        "h" => 3600 * NANOS as u64,
        _ => return None,
    };
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok().filter(|whole| *whole <= 1 << 63)? };
    // Digits beyond the eighteenth are less than a nanosecond of an hour.
    let fraction = &fraction[..fraction.len().min(18)];
    let part = fraction.parse::<u128>().unwrap_or(0) * u128::from(unit) / 10u128.pow(fraction.len() as u32);
    let nanos = whole.checked_mul(unit)?.checked_add(u64::try_from(part).ok()?)?;
    (nanos <= 1 << 63).then_some((nanos, rest))
}

impl Display for GoDuration {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let nanos = self.0.unsigned_abs();
        let sign = if self.0 < 0 { "-" } else { "" };
        let decimal = |value: u64, unit: u64| {
            let fraction = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
            let fraction = fraction.trim_end_matches('0');
            let whole = value / unit;
            if fraction.is_empty() || unit == 1 { whole.to_string() } else { format!("{whole}.{fraction}") }
        };
        match nanos {
            0 => write!(f, "0s"),
            1..1_000 => write!(f, "{sign}{nanos}ns"),
            1_000..1_000_000 => write!(f, "{sign}{}\u{b5}s", decimal(nanos, 1_000)),
            1_000_000..1_000_000_000 => write!(f, "{sign}{}ms", decimal(nanos, 1_000_000)),
            _ => {
                let second = NANOS as u64;
                let (minutes, rest) = (nanos / second / 60, nanos % (60 * second));
                write!(f, "{sign}")?;
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                write!(f, "{}s", decimal(rest, second))
            }
        }
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
