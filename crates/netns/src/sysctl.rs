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

fn path(name: &str) -> PathBuf {
    let relative = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    PathBuf::from("/proc/sys").join(relative)
}

#[cfg(test)]
mod tests {
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
}
