//! Kernel parameters under `/proc/sys/net`, which belong to the namespace of the thread that opens them.

use std::path::PathBuf;

use crate::{Error, NetNs};

/// Writes `value` to a parameter by its dotted name (`net.ipv4.ip_forward`) in a namespace. Parts may hold a link's
/// name with dots when written with slashes (`net/ipv4/conf/eth0.1/rp_filter`).
pub fn set(namespace: &NetNs, name: &str, value: &str) -> Result<(), Error> {
    let path = path(name);
    let failed = |source| Error::Io { step: "set sysctl", subject: name.to_owned(), source };
    namespace.run(|| std::fs::write(&path, value))?.map_err(failed)
}

/// Reads a parameter, without the trailing newline.
pub fn get(namespace: &NetNs, name: &str) -> Result<String, Error> {
    let path = path(name);
    let failed = |source| Error::Io { step: "read sysctl", subject: name.to_owned(), source };
    let text = namespace.run(|| std::fs::read_to_string(&path))?.map_err(failed)?;
    Ok(text.trim_end().to_owned())
}

/// Lets a namespace pass packets on between its links, those to come included.
///
/// The one parameter for all is not enough when two write it at once: a write that finds the kernel's lock taken takes
/// itself back and begins anew, what the other reads meanwhile is for it no change, and in the end it can say 1 and every
/// link 0 (`devinet_sysctl_forward`, seen on Linux 6.18). So each link is looked at after it.
pub fn forward(namespace: &NetNs, v6: bool) -> Result<(), Error> {
    let version = if v6 { "ipv6" } else { "ipv4" };
    let all = format!("/proc/sys/net/{version}/conf");
    let failed = |source| Error::Io { step: "set sysctl", subject: format!("{version} forwarding"), source };
    let write = || {
        std::fs::write(format!("{all}/all/forwarding"), "1")?;
        for link in std::fs::read_dir(&all)? {
            let path = link?.path().join("forwarding");
            match std::fs::read_to_string(&path) {
                Ok(value) if value.trim() == "0" => std::fs::write(&path, "1")?,
                // It may have gone.
                _ => {}
            }
        }
        Ok(())
    };
    namespace.run(write)?.map_err(failed)
}

fn path(name: &str) -> PathBuf {
    let relative = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    PathBuf::from("/proc/sys").join(relative)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_parameter_changes_in_its_namespace_only() {
        let namespace = NetNs::new().unwrap();
        let here = NetNs::current().unwrap();
        let before = get(&here, "net.ipv4.ip_forward").unwrap();
        let other = if before == "1" { "0" } else { "1" };
        set(&namespace, "net.ipv4.ip_forward", other).unwrap();
        assert_eq!(get(&namespace, "net.ipv4.ip_forward").unwrap(), other);
        assert_eq!(get(&here, "net.ipv4.ip_forward").unwrap(), before);
    }

    #[test]
    fn two_who_let_a_namespace_forward_at_once_leave_no_link_out() {
        let (namespace, elsewhere) = (NetNs::new().unwrap(), NetNs::new().unwrap());
        let (namespace, start, done) = (&namespace, Barrier::new(2), AtomicBool::new(false));
        /// However the turns end, who waits for it does too.
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        std::thread::scope(|scope| {
            let _done = Done(&done);
            // That takes the kernel's lock for long enough.
            scope.spawn(|| {
                let come_and_go = "ip link add here type veth peer name there && ip link del here";
                while !done.load(Ordering::Relaxed) {
                    let status = elsewhere.run(|| Command::new("sh").args(["-c", come_and_go]).status().unwrap());
                    assert!(status.unwrap().success());
                }
            });
            let turn = || {
                set(namespace, "net.ipv4.ip_forward", "0").unwrap();
                let other = scope.spawn(|| {
                    start.wait();
                    forward(namespace, false).unwrap();
                });
                start.wait();
                forward(namespace, false).unwrap();
                other.join().unwrap();
                ["all", "default", "lo"]
                    .map(|link| get(namespace, &format!("net.ipv4.conf.{link}.forwarding")).unwrap())
            };
            let turned_out: Vec<_> = (0..3_000).map(|_| turn()).filter(|values| *values != ["1", "1", "1"]).collect();
            assert_eq!(turned_out, [[""; 3]; 0], "all, default, lo");
        });
    }
}
