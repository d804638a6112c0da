//! What Prometheus' clients tell of the process they are in, from proc(5). What can't be read is left out.

use std::path::Path;

use super::{CPU_SECONDS, Family, MAX_FDS, Metrics, OPEN_FDS, RESIDENT, START_TIME, VIRTUAL};

const SELF: &str = "/proc/self";
/// USER_HZ, in which proc(5) counts; the same on every architecture Linux runs on today.
const TICKS_PER_SECOND: f64 = 100.0;

/// Sets the gauges to what is now.
pub(crate) fn measure(metrics: &Metrics) {
    let text = |file: &str| std::fs::read_to_string(Path::new(SELF).join(file)).unwrap_or_default();
    let set = |family: &Family, value: Option<f64>| {
        if let Some(value) = value {
            metrics.set(family, &[], value);
        }
    };
    let stat = text("stat");
    // The program's name, in brackets, may have spaces.
    let fields: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    // Counted from the third one, the state.
    let field = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<f64>().ok());
    let seconds = |number| field(number).map(|ticks| ticks / TICKS_PER_SECOND);
    set(&CPU_SECONDS, seconds(14).zip(seconds(15)).map(|(user, system)| user + system));
    set(&VIRTUAL, field(23));
    let page = rustix::param::page_size();
    set(&RESIDENT, field(24).map(|pages| pages * u32::try_from(page).map_or(4096.0, f64::from)));
    let booted = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let booted = booted.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<f64>().ok());
    set(&START_TIME, booted.zip(seconds(22)).map(|(booted, after)| booted + after));
    let open = std::fs::read_dir(Path::new(SELF).join("fd")).ok().map(Iterator::count);
    set(&OPEN_FDS, open.and_then(|open| u32::try_from(open).ok()).map(f64::from));
    let limits = text("limits");
    let most = limits.lines().find(|line| line.starts_with("Max open files"));
    set(&MAX_FDS, most.and_then(|line| line.split_whitespace().nth(3)?.parse().ok()));
}
