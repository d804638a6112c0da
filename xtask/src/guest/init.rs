//! The first process of the small guest: this program once more, as `/init`. Mounts what programs expect, loads the modules,
//! runs the tests one after the other, says how each ended on the serial line, and switches the machine off.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};

/// What to do, one thing on a line: a word and its arguments, separated by spaces.
pub const PLAN: &str = "/plan";
const MODPROBE: &str = "/sbin/modprobe";
const MOUNTS: &[(&str, &str)] =
    &[("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp"), ("tmpfs", "/run")];

/// Whether this process is the first of a machine that was started for us.
pub fn is_wanted() -> bool {
    std::process::id() == 1 && Path::new(PLAN).exists()
}

/// Does everything, and never returns: when the first process ends, the kernel panics.
pub fn run() -> ! {
    if let Err(error) = execute() {
        eprintln!("the guest could not be prepared: {error:#}");
    }
    // "o": off, at once. Nothing is written anywhere that would have to be saved.
    let off = fs::write("/proc/sysrq-trigger", "o");
    loop {
        if let Err(error) = &off {
            eprintln!("the guest could not be switched off: {error}");
        }
        std::thread::park();
    }
}

fn execute() -> Result<()> {
    for (kind, at) in MOUNTS {
        fs::create_dir_all(at)?;
        mount(Some(*kind), *at, Some(*kind), MsFlags::empty(), None::<&str>).with_context(|| format!("mount {at}"))?;
    }
    // What the kernel itself has to say is of no interest unless it is an emergency.
    fs::write("/proc/sys/kernel/printk", "1")?;
    let mut environment = Vec::new();
    for line in fs::read_to_string(PLAN).context("read the plan")?.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["modules", names @ ..] => load(names)?,
            ["set", path, value] => fs::write(path, value).with_context(|| format!("set {path}"))?,
            ["env", name, value] => environment.push(((*name).to_owned(), (*value).to_owned())),
            ["test", name, program, arguments @ ..] => test(name, program, arguments, &environment),
            _ => bail!("no line of a plan: {line:?}"),
        }
    }
    Ok(())
}

fn load(names: &[&str]) -> Result<()> {
    let status = Command::new(MODPROBE).arg("-a").args(names).status().context("start modprobe")?;
    if !status.success() {
        bail!("modprobe ended with {status}");
    }
    Ok(())
}

/// A line that begins with RESULT says how it ended: 0 is well.
fn test(name: &str, program: &str, arguments: &[&str], environment: &[(String, String)]) {
    let begun = Instant::now();
    let ended: io::Result<ExitStatus> = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/tmp")
        .env("PORTOLAN_TEST_PATIENCE", super::SLOWNESS.to_string())
        .env("PROPTEST_RNG_SEED", "20")
        .env("PROPTEST_CASES", "8")
        .envs(environment.iter().cloned())
        .current_dir("/tmp")
        .status();
    let status = match ended {
        Ok(status) => status.code().unwrap_or(-1),
        Err(error) => {
            eprintln!("{program}: {error}");
            -1
        }
    };
    eprintln!("RESULT {name} {status} {}", begun.elapsed().as_secs());
}
