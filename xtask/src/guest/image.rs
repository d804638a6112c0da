//! The guest's disk: Debian with systemd and its cloud kernel, made once by debootstrap and kept in the user's cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{peers, step};

const RELEASE: &str = "bookworm";
/// The system, its kernel, and the programs the tests run.
const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "systemd-resolved",
    "dbus",
    "udev",
    "kmod",
    "initramfs-tools",
    "linux-image-cloud-amd64",
    "iproute2",
    "netbase",
    "nftables",
    "iptables",
    "conntrack",
    "curl",
    "bind9-dnsutils",
    "iputils-ping",
    "procps",
    "git",
    "gcc",
];
/// Bytes of the root disk; what isn't written takes no space.
const SIZE: u64 = 1500 << 20;
/// Grows with what is put into the image beside the packages.
const REVISION: u32 = 2;

/// The second disk says what to do; the machine goes off when that is done, whatever comes of it.
const UNIT: &str = "\
[Unit]
Description=What the second disk asks for
After=basic.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'mount -o ro /dev/vdb /mnt && exec /bin/sh /mnt/run'
ExecStopPost=/sbin/poweroff -f
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
";
/// What would talk on the console, or wait for a network that isn't there.
const MASKED: &[&str] =
    &["serial-getty@ttyS0.service", "getty@tty1.service", "apt-daily.timer", "e2scrub_reap.service"];

/// What QEMU boots.
pub struct Image {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub root: PathBuf,
}

/// The image, made if it isn't there: a few minutes once, from Debian's packages.
pub fn prepare() -> Result<Image> {
    let home = peers::cache("portolan-guest")?.join(format!("{RELEASE}-{REVISION}"));
    let image = Image { kernel: home.join("vmlinuz"), initrd: home.join("initrd.img"), root: home.join("root.img") };
    if home.is_dir() {
        return Ok(image);
    }
    let parent = home.parent().context("a cache folder has a parent")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let work = tempfile::Builder::new().prefix("making-").tempdir_in(parent).context("a folder beside the image")?;
    let (tree, made) = (work.path().join("tree"), work.path().join("made"));
    let mut bootstrap = Command::new("debootstrap");
    bootstrap.args(["--variant=minbase", "--include", &PACKAGES.join(","), RELEASE]).arg(&tree);
    // Its output is long and says nothing while it goes well.
    eprintln!("── debootstrap {RELEASE}: a few minutes, once");
    step::output(&mut bootstrap)?;
    furnish(&tree)?;
    fs::create_dir(&made)?;
    fs::copy(newest(&tree.join("boot"), "vmlinuz-")?, made.join("vmlinuz"))?;
    fs::copy(newest(&tree.join("boot"), "initrd.img-")?, made.join("initrd.img"))?;
    file_system(&tree, &made.join("root.img"), SIZE)?;
    fs::rename(&made, &home).with_context(|| format!("cannot put the image at {}", home.display()))?;
    Ok(image)
}

/// Makes an ext4 file system of a folder, in a file of this many bytes.
pub fn file_system(from: &Path, to: &Path, size: u64) -> Result<()> {
    fs::File::create(to)
        .and_then(|file| file.set_len(size))
        .with_context(|| format!("cannot make {}", to.display()))?;
    step::output(Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).arg(from).arg(to))?;
    Ok(())
}

fn furnish(tree: &Path) -> Result<()> {
    let units = tree.join("etc/systemd/system");
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    fs::write(units.join("guest.service"), UNIT)?;
    std::os::unix::fs::symlink("/etc/systemd/system/guest.service", wants.join("guest.service"))?;
    for name in MASKED {
        std::os::unix::fs::symlink("/dev/null", units.join(name)).with_context(|| format!("cannot mask {name}"))?;
    }
    fs::write(tree.join("etc/hostname"), "guest\n")?;
    fs::write(tree.join("etc/fstab"), "")?;
    for cache in ["var/cache/apt/archives", "var/lib/apt/lists"] {
        fs::remove_dir_all(tree.join(cache)).with_context(|| format!("cannot empty {cache}"))?;
    }
    Ok(())
}

fn newest(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found.pop().with_context(|| format!("no {prefix}… in {}", folder.display()))
}
