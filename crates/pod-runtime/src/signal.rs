//! Signals by name: pods and images name what ends them, runtimes send numbers.

/// Linux's numbers (signal(7)), the same on every architecture we build for.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];
const REALTIME: std::ops::RangeInclusive<i32> = 34..=64;

/// The number of `SIGTERM`, `term`, `SIGRTMIN+3` or `SIGRTMAX-1`.
pub fn number(name: &str) -> Option<i32> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return i32::try_from(index + 1).ok();
    }
    let offset = |text: &str, sign: char| match text {
        "" => Some(0),
        text => text.strip_prefix(sign)?.parse::<u8>().ok().map(i32::from),
    };
    let number = match name.strip_prefix("RTMIN") {
        Some(text) => REALTIME.start() + offset(text, '+')?,
        None => REALTIME.end() - offset(name.strip_prefix("RTMAX")?, '-')?,
    };
    REALTIME.contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn names_are_numbers() {
        let table = [("SIGHUP", 1), ("quit", 3), ("SIGSYS", 31), ("SIGRTMIN", 34), ("RTMIN+3", 37), ("SIGRTMAX-1", 63)];
        for (name, expected) in table {
            assert_eq!(number(name), Some(expected), "{name}");
        }
        for bad in ["", "SIG", "nonsense", "SIGRTMIN+31", "SIGRTMIN3", "SIGRTMAX+1", "RTMAX-999"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}
