//! What the system needs the kernel to allow: asked for by capability, not by user.

use anyhow::{Context, Result, bail};

/// Capabilities (capabilities(7)) and what each is for.
const NEEDED: &[(u32, &str, &str)] = &[
    (12, "CAP_NET_ADMIN", "links, routes and rules"),
    (21, "CAP_SYS_ADMIN", "namespaces and mounts"),
    (18, "CAP_SYS_CHROOT", "containers' root directories"),
];

/// Fails with the names of what is missing.
pub fn check() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read our capabilities")?;
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap_or_default();
    let effective = u64::from_str_radix(effective.trim(), 16).context("cannot read our capabilities")?;
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(bit, ..)| effective & (1 << bit) == 0)
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if !missing.is_empty() {
        bail!("this needs {}: run it as root, for example by sudo", missing.join(", "));
    }
    Ok(())
}
