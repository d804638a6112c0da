//! How long a proxy says that each of its syncs took. Both say it themselves, ours and kube-proxy, so that a figure holds
//! what happens between an event and the commit and nothing else.

use std::time::Duration;

/// The syncs of the IPv4 rules, in order, by our proxy's log.
pub fn ours(log: &str) -> Vec<Duration> {
    let lines = log.lines().filter(|line| line.contains("rules are in force") && line.contains("family=IPv4"));
    lines.filter_map(|line| Some(Duration::from_micros(after(line, "took_us=")?.parse().ok()?))).collect()
}

/// The same by kube-proxy's.
pub fn kube_proxy(log: &str) -> Vec<Duration> {
    let lines = log.lines().filter(|line| line.contains("SyncProxyRules complete") && line.contains("IPv4"));
    lines.filter_map(|line| go_duration(after(line, "elapsed=\"")?)).collect()
}

fn after<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(key)?;
    rest.split(['"', ' ']).next()
}

/// A duration as Go prints it: `1m2.5s`, `123.4ms`, `56µs`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let number: f64 = rest[..unit_at].parse().ok()?;
        let unit_end = rest[unit_at..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| unit_at + at);
        let seconds = match &rest[unit_at..unit_end] {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "µs" | "us" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += Duration::from_secs_f64(number * seconds);
        rest = &rest[unit_end..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_logs_are_read() {
        let log = "x INFO proxy: something\n\
                   2026-01-01T00:00:00Z DEBUG proxy::syncer: rules are in force family=IPv4 steps=9 took_us=1500\n\
                   2026-01-01T00:00:00Z DEBUG proxy::syncer: rules are in force family=IPv6 steps=1 took_us=7\n";
        assert_eq!(ours(log), [Duration::from_micros(1_500)]);
        let log = "I0101 00:00:00.000000  1 proxier.go:1] \"SyncProxyRules complete\" ipFamily=\"IPv4\" elapsed=\"1m2.5s\"\n\
                   I0101 00:00:00.000000  1 proxier.go:1] \"SyncProxyRules complete\" ipFamily=\"IPv4\" elapsed=\"87.5ms\"\n";
        assert_eq!(kube_proxy(log), [Duration::from_millis(62_500), Duration::from_micros(87_500)]);
    }
}
