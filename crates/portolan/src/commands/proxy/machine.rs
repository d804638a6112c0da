//! What a proxy has to know about the machine it is on: its name, its processors, its addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often addresses are looked for. Only NodePorts on a list of addresses depend on it.
const LOOK: Duration = Duration::from_secs(5);
/// The processors in use, as ranges: `0-3,6`.
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// The machine's name, as nodes are named after it.
pub fn hostname() -> nix::Result<String> {
    Ok(nix::unistd::gethostname()?.to_string_lossy().trim().to_lowercase())
}

/// The machine's processors, not those this process may use: connections come for the whole machine.
pub fn processors() -> u64 {
    let listed = std::fs::read_to_string(ONLINE).ok().and_then(|text| count_ranges(text.trim()));
    let usable = || std::thread::available_parallelism().map_or(1, |number| u64::try_from(number.get()).unwrap_or(1));
    listed.filter(|number| *number > 0).unwrap_or_else(usable)
}

/// The addresses of all interfaces, now and whenever they change.
pub fn follow_addresses(stop: CancellationToken) -> nix::Result<watch::Receiver<BTreeSet<IpAddr>>> {
    let (sender, receiver) = watch::channel(addresses()?);
    // Ends with the process, at the latest.
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let Ok(now) = addresses() else { continue };
            sender.send_if_modified(|before| {
                let changed = *before != now;
                *before = now;
                changed
            });
        }
    });
    Ok(receiver)
}

fn addresses() -> nix::Result<BTreeSet<IpAddr>> {
    let of_interfaces = getifaddrs()?.filter_map(|interface| interface.address);
    let addresses = of_interfaces.filter_map(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Ok(addresses.collect())
}

fn count_ranges(text: &str) -> Option<u64> {
    text.split(',').try_fold(0, |sum: u64, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)? + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_by_ranges() {
        assert_eq!((count_ranges("0"), count_ranges("0-3,6"), count_ranges("")), (Some(1), Some(5), None));
        assert!(processors() > 0);
    }
}
