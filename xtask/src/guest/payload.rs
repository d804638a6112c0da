//! The guest's second disk: the test binaries and the tree at their own paths, the kubectls, and a script that runs all.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::image;
use crate::step;

/// A test binary. Several packages may have one of the same name.
pub struct Test {
    pub package: String,
    pub name: String,
    pub path: PathBuf,
    /// Those of its tests whose names contain this are left out.
    pub skip: Option<&'static str>,
}

/// What cargo built.
pub struct Binaries {
    pub tests: Vec<Test>,
    /// The product and other programs that tests start.
    pub programs: Vec<PathBuf>,
}

/// Builds the tests of these packages; `only` keeps the binaries of some names.
pub fn build(packages: &[&str], only: &[String]) -> Result<Binaries> {
    let mut cargo = step::cargo();
    cargo.args(["test", "--release", "--tests"]).args(packages.iter().flat_map(|package| ["--package", package]));
    let mut binaries = built(cargo)?;
    if !only.is_empty() {
        binaries.tests.retain(|test| only.contains(&test.name));
    }
    if binaries.tests.is_empty() {
        bail!("no test binary of these names: {}", only.join(", "));
    }
    Ok(binaries)
}

/// What a `cargo test` runs: it is built and not run.
pub fn built(mut cargo: Command) -> Result<Binaries> {
    cargo.args(["--no-run", "--message-format=json-render-diagnostics"]);
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("building the tests ended with {}", output.status);
    }
    let mut binaries = Binaries { tests: Vec::new(), programs: Vec::new() };
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's messages")?;
        let Some(executable) = message["executable"].as_str() else { continue };
        let (name, is_test) = (message["target"]["name"].as_str(), message["profile"]["test"] == true);
        let name = name.context("a target's name")?.to_owned();
        if is_test {
            let package = package(&message).context("a target's package")?.to_owned();
            binaries.tests.push(Test { package, name, path: executable.into(), skip: None });
        } else {
            binaries.programs.push(executable.into());
        }
    }
    Ok(binaries)
}

/// The package of cargo's message, by its folder, which bears its name.
fn package(message: &Value) -> Option<&str> {
    Path::new(message["manifest_path"].as_str()?).parent()?.file_name()?.to_str()
}

/// Makes the disk in `folder`.
pub fn pack(
    folder: &Path,
    binaries: &Binaries,
    kubectls: &[PathBuf],
    filter: Option<&str>,
    slowness: u32,
) -> Result<PathBuf> {
    let (content, disk) = (folder.join("content"), folder.join("payload.img"));
    let files = content.join("files");
    for path in binaries.programs.iter().chain(binaries.tests.iter().map(|test| &test.path)).chain(kubectls) {
        let to = files.join(path.strip_prefix("/").context("an absolute path")?);
        fs::create_dir_all(to.parent().context("a file's folder")?)?;
        fs::copy(path, &to).with_context(|| format!("cannot copy {}", path.display()))?;
    }
    tree(&files)?;
    fs::write(content.join("run"), script(binaries, kubectls, filter, slowness)?)?;
    let bytes = size(&content)?;
    image::file_system(&content, &disk, bytes + bytes / 4 + (64 << 20))?;
    fs::remove_dir_all(&content)?;
    Ok(disk)
}

/// The committed tree and what is changed in it, where the tests look for it.
fn tree(files: &Path) -> Result<()> {
    let root = std::env::current_dir()?;
    let to = files.join(root.strip_prefix("/").context("an absolute path")?);
    let listed =
        step::output(Command::new("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]))?;
    for name in listed.split('\0').filter(|name| !name.is_empty() && Path::new(name).is_file()) {
        let to = to.join(name);
        fs::create_dir_all(to.parent().context("a file's folder")?)?;
        fs::copy(name, &to).with_context(|| format!("cannot copy {name}"))?;
    }
    Ok(())
}

/// Runs each binary and says how it ended, on lines that begin with RESULT.
fn script(binaries: &Binaries, kubectls: &[PathBuf], filter: Option<&str>, slowness: u32) -> Result<String> {
    let kubectls = std::env::join_paths(kubectls)?;
    let mut script = String::from("exec 2>&1\ncp -a /mnt/files/. /\ncd /root\n");
    script.push_str("export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n");
    writeln!(script, "export PORTOLAN_TEST_KUBECTLS='{}'", kubectls.to_string_lossy())?;
    // A few random cases: what differs from kernel to kernel shows in the first.
    script.push_str("export PROPTEST_RNG_SEED=20 PROPTEST_CASES=8\n");
    writeln!(script, "export PORTOLAN_TEST_PATIENCE={slowness}")?;
    script.push_str("uname -r\necho \"cgroups: $(stat -fc %T /sys/fs/cgroup)\"\n");
    for Test { name, path, skip, .. } in &binaries.tests {
        let filter = filter.map(|filter| format!("'{filter}'")).unwrap_or_default();
        let skip = skip.map(|skip| format!("--skip '{skip}'")).unwrap_or_default();
        writeln!(script, "begun=$(date +%s)\n'{}' --color=never {skip} {filter}", path.display())?;
        writeln!(script, "echo \"RESULT {name} $? $(($(date +%s) - begun))\"")?;
    }
    Ok(script)
}

fn size(path: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_of_one_name_are_told_apart_by_their_packages() {
        let of = |folder: &str| serde_json::json!({"manifest_path": format!("/w/crates/{folder}/Cargo.toml")});
        assert_eq!((package(&of("nft")), package(&of("iptables"))), (Some("nft"), Some("iptables")));
    }
}
