//! Server-side Tables: the columns every kind has, and how ages and the like are written.

use serde_json::Value;

use crate::resource::Column;

/// The columns of a kind that defines none.
pub const NAME_AND_AGE: &[Column] = &[
    Column { name: "Name", kind: "string", format: "name", description: "The object's name.", priority: 0 },
    Column { name: "Age", kind: "string", format: "", description: "Time since the object was created.", priority: 0 },
];

/// The cells of `NAME_AND_AGE`.
pub fn name_and_age(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    vec![object["metadata"]["name"].clone(), age(object, now).into()]
}

/// Time since creation in kubectl's short form, `<unknown>` without a creationTimestamp.
pub fn age(object: &Value, now: jiff::Timestamp) -> String {
    let created = object["metadata"]["creationTimestamp"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    created.map_or_else(|| "<unknown>".to_owned(), |t| human_duration(now.as_second() - t.as_second()))
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
