//! Timestamps as the API writes them: RFC 3339 in UTC, whole seconds (`Time`) or microseconds (`MicroTime`).
//! Not a clock.

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

/// `2026-01-01T00:00:00Z`
pub fn format(time: Timestamp) -> String {
    let whole = Timestamp::from_second(time.as_second()).unwrap_or(time);
    DateTimePrinter::new().precision(Some(0)).timestamp_to_string(&whole)
}

/// `2026-01-01T00:00:00.000000Z`
pub fn format_micro(time: Timestamp) -> String {
    DateTimePrinter::new().precision(Some(6)).timestamp_to_string(&time)
}

/// A client's `Time` in canonical form; otherwise Go's complaint.
pub fn canonical(text: &str) -> Result<String, String> {
    parse(text, TIME_LAYOUT, Fraction::Optional).map(format)
}

/// A client's `MicroTime` in canonical form; otherwise Go's complaint. The six digits must be there.
pub fn canonical_micro(text: &str) -> Result<String, String> {
    parse(text, MICRO_TIME_LAYOUT, Fraction::SixDigits).map(format_micro)
}

const TIME_LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
const MICRO_TIME_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fraction {
    Optional,
    SixDigits,
}

/// Go names the part of the layout at which reading stopped; the general parser would also take other spellings.
fn parse(text: &str, layout: &str, fraction: Fraction) -> Result<Timestamp, String> {
    let complaint =
        |rest: &str, part: &str| format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {part:?}");
    let mut rest = text;
    for part in ["2006", "-", "01", "-", "02", "T", "15", ":", "04", ":", "05"] {
        let fits = |head: &str| match part {
            "-" | "T" | ":" => head == part,
            _ => head.bytes().all(|b| b.is_ascii_digit()),
        };
        rest = match rest.split_at_checked(part.len()) {
            Some((head, tail)) if fits(head) => tail,
            _ => return Err(complaint(rest, part)),
        };
    }
    let digits = rest.strip_prefix('.').map_or(0, |f| f.bytes().take_while(u8::is_ascii_digit).count());
    if fraction == Fraction::SixDigits && digits != 6 {
        return Err(complaint(rest, ".000000"));
    }
    let offset = if digits > 0 { &rest[digits + 1..] } else { rest };
    if !is_offset(offset) {
        return Err(complaint(offset, "Z07:00"));
    }
    text.parse().map_err(|_| format!("parsing time {text:?}: out of range"))
}

/// `Z` or `+02:00`
fn is_offset(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    matches!(shape.as_str(), "Z" | "+00:00" | "-00:00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        assert_eq!(canonical("2026-01-01T02:00:00.5+02:00").unwrap(), "2026-01-01T00:00:00Z");
        assert_eq!(canonical_micro("2026-01-01T02:00:00.123456+02:00").unwrap(), "2026-01-01T00:00:00.123456Z");
    }

    #[test]
    fn complaints_are_gos() {
        assert_eq!(
            canonical("x").unwrap_err(),
            r#"parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006""#
        );
        assert!(canonical("2026-01-01").unwrap_err().ends_with(r#"cannot parse "" as "T""#));
        assert!(canonical("2026-01-01T00:00:00").unwrap_err().ends_with(r#"cannot parse "" as "Z07:00""#));
        assert!(canonical_micro("2026-01-01T00:00:00Z").unwrap_err().ends_with(r#"cannot parse "Z" as ".000000""#));
        assert!(canonical("2026-13-01T00:00:00Z").unwrap_err().ends_with("out of range"));
        assert!(canonical("2026-01-01 00:00:00Z").is_err());
    }
}
