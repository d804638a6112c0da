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
    parse(text, "2006-01-02T15:04:05Z07:00").map(format)
}

/// A client's `MicroTime` in canonical form; otherwise Go's complaint.
pub fn canonical_micro(text: &str) -> Result<String, String> {
    parse(text, "2006-01-02T15:04:05.000000Z07:00").map(format_micro)
}

/// RFC 3339 wants the `T` and an offset; the general parser would take less.
fn parse(text: &str, layout: &str) -> Result<Timestamp, String> {
    let bytes = text.as_bytes();
    let shaped = bytes.len() >= 20 && bytes[4] == b'-' && bytes[10] == b'T' && bytes[13] == b':' && !text.contains('[');
    match text.parse::<Timestamp>() {
        Ok(time) if shaped => Ok(time),
        _ => {
            let part = if bytes.first().is_some_and(u8::is_ascii_digit) { layout } else { "2006" };
            Err(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as {part:?}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        assert_eq!(canonical("2026-01-01T02:00:00.5+02:00").unwrap(), "2026-01-01T00:00:00Z");
        assert_eq!(canonical_micro("2026-01-01T00:00:00Z").unwrap(), "2026-01-01T00:00:00.000000Z");
        assert_eq!(canonical_micro("2026-01-01T00:00:00.1234567Z").unwrap(), "2026-01-01T00:00:00.123456Z");
    }

    #[test]
    fn complaints_are_gos() {
        assert_eq!(
            canonical("x").unwrap_err(),
            r#"parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006""#
        );
        assert!(canonical("2026-01-01").is_err());
        assert!(canonical("2026-01-01 00:00:00Z").is_err());
    }
}
