//! A guest that is there in seconds: Debian's cloud kernel with a file system in memory that holds the test binaries, the
//! few programs they run, and the modules of the kernel's network. For what this machine's kernel may lack: IPVS, SCTP,
//! dummy devices, and limits that can't be set inside a namespace.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::cpio::Archive;
use super::{LockedUp, Machine, Outcome, init, payload};
use crate::{machine, peers, step};

/// Whose tests are for this guest: those that are ignored anywhere else.
const PACKAGES: &[&str] = &["ipvs", "proxy-ipvs", "proxy-nftables", "proxy-iptables", "proxy-userspace"];
/// And those for which there isn't the time always: a whole proxy's life.
const MORE: &[&str] = &["portolan"];
/// The metapackage that leads to the current kernel of the machine's own Debian release.
const KERNEL: &str = "linux-image-cloud-amd64";
/// What is kept of a kernel's modules: a few megabytes.
const MODULES: &[&str] =
    &["kernel/net", "kernel/lib", "kernel/crypto", "kernel/drivers/net/veth.ko", "kernel/drivers/net/dummy.ko"];
/// Loaded before the tests; whatever else they need the kernel loads by itself. The schedulers are here because Linux (6.1
/// for one) locks itself up when `ip_vs_lblc` is loaded for a new virtual server while a network namespace ends.
pub const LOADED: &[&str] = &[
    "veth",
    "dummy",
    "nf_conntrack",
    "nf_tables",
    "sctp",
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_wrr",
    "ip_vs_lc",
    "ip_vs_wlc",
    "ip_vs_lblc",
    "ip_vs_lblcr",
    "ip_vs_dh",
    "ip_vs_sh",
    "ip_vs_mh",
    "ip_vs_sed",
    "ip_vs_nq",
    "ip_vs_fo",
    "ip_vs_ovf",
];
/// What the host needs for it, and what the tests run inside.
pub const PROGRAMS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("dpkg-deb", "dpkg"),
    ("depmod", "kmod"),
    ("modprobe", "kmod"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables-nft-restore", "iptables"),
];
const INSIDE: &[(&str, &str)] = &[
    ("ip", "/sbin/ip"),
    ("nft", "/sbin/nft"),
    ("modprobe", "/sbin/modprobe"),
    ("iptables-nft", "/usr/sbin/iptables-nft"),
    ("iptables-nft-restore", "/usr/sbin/iptables-nft-restore"),
    ("iptables-nft-save", "/usr/sbin/iptables-nft-save"),
    ("ip6tables-nft", "/usr/sbin/ip6tables-nft"),
    ("ip6tables-nft-restore", "/usr/sbin/ip6tables-nft-restore"),
    ("ip6tables-nft-save", "/usr/sbin/ip6tables-nft-save"),
];
/// Where iptables has a library for each match and target.
const EXTENSIONS: &str = "/usr/lib/x86_64-linux-gnu/xtables";
/// What such a processor has the time for.
const PROBES: &str = "env PORTOLAN_TEST_PROBES 100\n";
/// Where there isn't much of it: one in so many cases of the packet table, and of each kind one.
const SHORT: &str = "env PORTOLAN_TEST_ONE_IN 4\n";
const PRODUCT: &str = "portolan";
const INITRD: &str = "initrd.img";
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 no_timer_check";
const MEMORY: u32 = 1024;
/// It takes two or three minutes if it has a processor for itself.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// Linux 6.1 was seen to lock itself up with two processors, in one of some ten runs on a very busy host.
const BOOTS: u32 = 3;
/// Grows with what is kept of the kernel's package.
const REVISION: u32 = 1;

/// Which of the small guest's tests to run.
#[derive(Default)]
pub struct Choice {
    /// Only the tests of these packages.
    pub package: Vec<String>,
    /// Only test binaries of these names.
    pub test: Vec<String>,
    /// Only tests whose names contain this.
    pub filter: Option<String>,
    /// All cases of the packet table, and a whole proxy's life.
    pub whole: bool,
}

/// A guest that is made and may boot.
pub struct Guest {
    kernel: PathBuf,
    /// With the file system in memory.
    folder: TempDir,
    /// How many test binaries it runs.
    binaries: usize,
    patience: Duration,
}

/// What a guest that had nobody's attention said, and how it ended.
pub struct Said {
    lines: Vec<String>,
    outcomes: Result<Vec<Outcome>>,
    binaries: usize,
}

/// Gets the kernel unless it is there, builds the tests, and boots.
pub fn run(choice: &Choice) -> Result<()> {
    machine::prepare_for("the small guest", PROGRAMS)?;
    let packages: Vec<&str> = match choice.package.as_slice() {
        [] if choice.whole => [PACKAGES, MORE].concat(),
        [] => PACKAGES.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    };
    let guest = Guest::new(payload::build(&packages, &choice.test)?, choice.filter.as_deref(), choice.whole)?;
    eprintln!("── the small guest: {} test binaries", guest.binaries);
    super::report(&guest.boot(|line| eprintln!("{line}"))?, guest.binaries)
}

/// The guest for all that needs it of what was built for everything.
pub fn whole(mut binaries: payload::Binaries) -> Result<Guest> {
    binaries.tests.retain(|test| PACKAGES.contains(&test.package.as_str()));
    Guest::new(binaries, None, false)
}

impl Guest {
    fn new(binaries: payload::Binaries, filter: Option<&str>, whole: bool) -> Result<Guest> {
        let payload::Binaries { mut tests, programs } = binaries;
        let counts = tests.iter().map(|test| ignored(test, filter)).collect::<Result<Vec<usize>>>()?;
        let mut counts = counts.into_iter();
        tests.retain(|_| counts.next().is_some_and(|count| count > 0));
        if tests.is_empty() {
            bail!("no test of these names waits for this guest");
        }
        let plan = plan(&tests, filter, whole);
        Ok(Guest { binaries: tests.len(), ..Guest::with(&plan, &product(programs), PATIENCE)? })
    }

    /// One that does what a plan says, in so much time.
    pub fn with(plan: &Plan, product: &[PathBuf], patience: Duration) -> Result<Guest> {
        let kernel = kernel()?;
        let folder = tempfile::Builder::new().prefix("portolan-guest-").tempdir().context("a temporary folder")?;
        fs::write(folder.path().join(INITRD), archive(&kernel, product, plan)?.finish())?;
        Ok(Guest { kernel, folder, binaries: 1, patience })
    }

    pub(super) fn boot(&self, mut show: impl FnMut(&str) + Send) -> Result<Vec<Outcome>> {
        let machine = Machine {
            kernel: &self.kernel.join("vmlinuz"),
            initrd: &self.folder.path().join(INITRD),
            command_line: COMMAND_LINE,
            drives: &[],
            memory: MEMORY,
            patience: self.patience,
        };
        for _ in 1..BOOTS {
            match machine.boot(&mut show) {
                Err(error) if error.is::<LockedUp>() => show(&format!("── {error}: it boots once more")),
                done => return done,
            }
        }
        machine.boot(show)
    }

    /// Boots beside something else, and keeps what the guest says. It has the same priority: with a lower one it would miss
    /// its own deadlines whenever the processors are busy.
    pub fn boot_behind(&self) -> Said {
        let mut lines = Vec::new();
        let outcomes = self.boot(|line| lines.push(line.to_owned()));
        Said { lines, outcomes, binaries: self.binaries }
    }
}

impl Said {
    /// Repeats all of it; fails if something failed there.
    pub fn show(self) -> Result<()> {
        eprintln!("── the small guest, beside the tests: {} test binaries", self.binaries);
        self.lines.iter().for_each(|line| eprintln!("{line}"));
        super::report(&self.outcomes?, self.binaries)
    }
}

/// The product, of all programs that were built: tests start it where it was built.
fn product(programs: Vec<PathBuf>) -> Vec<PathBuf> {
    programs.into_iter().filter(|program| program.file_name().is_some_and(|name| name == PRODUCT)).collect()
}

/// How many tests of a binary are ignored here.
fn ignored(test: &payload::Test, filter: Option<&str>) -> Result<usize> {
    let mut list = Command::new(&test.path);
    list.args(["--list", "--ignored", "--format=terse"]).args(filter);
    Ok(step::output(&mut list)?.lines().filter(|line| line.ends_with(": test")).count())
}

/// The folder with the kernel and its modules, from Debian's package if it isn't there.
fn kernel() -> Result<PathBuf> {
    let package = kernel_package()?;
    let home = peers::cache("portolan-guest")?.join(format!("{package}-{REVISION}"));
    if home.is_dir() {
        return Ok(home);
    }
    let parent = home.parent().context("a cache folder has a parent")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let work = tempfile::Builder::new().prefix("making-").tempdir_in(parent).context("a folder beside the kernel")?;
    // Whoever downloads it may not be root inside.
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o777))?;
    step::run("the guest's kernel", Command::new("apt-get").args(["-qq", "download", &package]).current_dir(&work))?;
    let tree = work.path().join("tree");
    let archive = only_entry(work.path())?;
    step::output(Command::new("dpkg-deb").arg("-x").arg(archive).arg(&tree))?;
    let version = package.strip_prefix("linux-image-").context("a kernel's package")?;
    let (made, release) = (work.path().join("made"), Path::new("lib/modules").join(version));
    for part in MODULES {
        copy(&tree.join(&release).join(part), &made.join(&release).join(part))?;
    }
    for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        copy(&tree.join(&release).join(list), &made.join(&release).join(list))?;
    }
    step::output(Command::new(machine::find("depmod").context("depmod")?).arg("-b").arg(&made).arg(version))?;
    fs::copy(tree.join(format!("boot/vmlinuz-{version}")), made.join("vmlinuz")).context("the kernel's image")?;
    fs::rename(&made, &home).with_context(|| format!("cannot put the kernel at {}", home.display()))?;
    Ok(home)
}

/// The package that the metapackage leads to now.
fn kernel_package() -> Result<String> {
    let look = || -> Result<Option<String>> {
        let listed = Command::new("apt-cache").args(["depends", KERNEL]).output().context("cannot start apt-cache")?;
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        Ok(text.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-")).map(str::to_owned))
    };
    let found = match look()? {
        None => {
            step::run("apt-get update", Command::new("apt-get").args(["-qq", "update"]))?;
            look()?
        }
        found => found,
    };
    match found {
        Some(version) => Ok(format!("linux-image-{version}")),
        None => bail!("the small guest: apt knows no {KERNEL}: this machine needs Debian's package lists for amd64"),
    }
}

/// What to do in there, and the programs that takes, each with its place.
#[derive(Default)]
pub struct Plan {
    pub text: String,
    pub programs: Vec<(String, PathBuf)>,
    /// Those that come with libraries.
    pub linked: Vec<(String, PathBuf)>,
    /// Files by their place.
    pub files: Vec<(&'static str, &'static str)>,
}

fn plan(tests: &[payload::Test], filter: Option<&str>, whole: bool) -> Plan {
    let mut plan = Plan { text: format!("modules {}\n", LOADED.join(" ")), ..Plan::default() };
    plan.text.push_str(PROBES);
    if !whole {
        plan.text.push_str(SHORT);
    }
    let filter = filter.map(|filter| format!(" {filter}")).unwrap_or_default();
    for (number, payload::Test { package, name, path, .. }) in tests.iter().enumerate() {
        let at = format!("/tests/{number}-{name}");
        let flags = "--ignored --test-threads=1 --color=never";
        plan.text.push_str(&format!("test {package}/{name} {at} {flags}{filter}\n"));
        plan.programs.push((at, path.clone()));
    }
    plan
}

fn archive(kernel: &Path, product: &[PathBuf], plan: &Plan) -> Result<Archive> {
    let mut archive = Archive::default();
    archive.program("/init", &fs::read(std::env::current_exe()?)?);
    for folder in ["/proc", "/sys", "/dev", "/tmp", "/run"] {
        archive.folder(folder);
    }
    archive.tree(&kernel.join("lib"), "/lib")?;
    let mut libraries = BTreeSet::new();
    let inside = INSIDE.iter().map(|(program, at)| Ok(((*at).to_owned(), found(program)?)));
    for (at, path) in inside.chain(plan.linked.iter().cloned().map(Ok)).collect::<Result<Vec<_>>>()? {
        archive.program(&at, &fs::read(&path)?);
        libraries.extend(libraries_of(&path)?);
    }
    for entry in fs::read_dir(EXTENSIONS).with_context(|| format!("cannot list {EXTENSIONS}"))? {
        let path = entry?.path();
        // Some need more than the tool does.
        libraries.extend(libraries_of(&path)?);
        libraries.insert(path);
    }
    for library in libraries {
        let path = library.to_str().context("a library's path")?.to_owned();
        archive.program(&path, &fs::read(&library).with_context(|| format!("cannot read {path}"))?);
    }
    for program in product {
        let path = program.to_str().context("a program's path")?;
        archive.program(path, &fs::read(program).with_context(|| format!("cannot read {path}"))?);
    }
    for (at, path) in &plan.programs {
        archive.program(at, &fs::read(path)?);
    }
    for (at, content) in &plan.files {
        archive.file(at, content.as_bytes());
    }
    archive.file(init::PLAN, plan.text.as_bytes());
    Ok(archive)
}

/// A program of this machine, by name.
pub fn found(program: &str) -> Result<PathBuf> {
    Ok(fs::canonicalize(machine::find(program).with_context(|| format!("no {program}"))?)?)
}

/// The shared objects a program is started with, by what its loader says.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = step::output(Command::new("ldd").arg(program))?;
    let paths = listed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

fn only_entry(folder: &Path) -> Result<PathBuf> {
    let mut found = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    found.find(|path| path.extension().is_some_and(|ext| ext == "deb")).context("apt-get download brought no package")
}

/// Copies a file or a folder with all that is in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("cannot copy {}", from.display());
    fs::create_dir_all(to.parent().context("a file's folder")?)?;
    if !from.is_dir() {
        fs::copy(from, to).with_context(failed)?;
        return Ok(());
    }
    for entry in fs::read_dir(from).with_context(failed)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}
