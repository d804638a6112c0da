//! Server-side Tables: the columns every kind has, and how ages and the like are written.

use serde_json::Value;

use crate::resource::Column;

/// The columns of a kind that defines none.
pub const NAME_AND_AGE: &[Column] = &[NAME, AGE];

/// The column that identifies a row.
pub const NAME: Column =
    Column { name: "Name", kind: "string", format: "name", description: "The object's name.", priority: 0 };

/// The column most kinds end with.
pub const AGE: Column = Column::text("Age", "Time since the object was created.");

/// The cells of `NAME_AND_AGE`.
pub fn name_and_age(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    vec![object["metadata"]["name"].clone(), age(object, now).into()]
}

/// Time since creation in kubectl's short form, `<unknown>` without a creationTimestamp.
pub fn age(object: &Value, now: jiff::Timestamp) -> String {
    since(&object["metadata"]["creationTimestamp"], now)
}

/// Time since an RFC 3339 field in kubectl's short form, `<unknown>` without one.
pub fn since(time: &Value, now: jiff::Timestamp) -> String {
    let time = time.as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    time.map_or_else(|| "<unknown>".to_owned(), |t| human_duration(now.as_second() - t.as_second()))
}

/// `text`, or `instead` when it is empty.
pub fn or<'a>(text: &'a str, instead: &'a str) -> &'a str {
    if text.is_empty() { instead } else { text }
}

/// Names and images of a pod template's containers, as `-o wide` shows them.
pub fn containers(containers: &Value) -> (String, String) {
    let joined = |field: &str| {
        let values = containers.as_array().into_iter().flatten().map(|c| c[field].as_str().unwrap_or_default());
        values.collect::<Vec<_>>().join(",")
    };
    (joined("name"), joined("image"))
}

/// Seconds as `45s`, `3m20s`, `5h`, `2d3h`, `3y40d` (apimachinery `duration.HumanDuration`).
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    };
    match seconds {
        s if s < -1 => "<invalid>".to_owned(),
        s if s < 0 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let cases = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600 + 60, "8h"),
            (48 * 3600, "2d"),
            (49 * 3600, "2d1h"),
            (8 * 86400 + 3600, "8d"),
            (2 * 365 * 86400 + 86400, "2y1d"),
            (8 * 365 * 86400 + 86400, "8y"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(human_duration(seconds), expected, "{seconds}");
        }
    }
}
