//! Real kubectls: where they are, and running one against a system.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Ran, Running, System, run};

/// The folder-mates of `kubectl`, or `kubectl` of the peers' folder: the versions the scripted runs are for.
const OLD: &str = "kubectl.1.33";
const LIST: &str = "PORTOLAN_TEST_KUBECTLS";

/// A kubectl.
#[derive(Clone, Debug)]
pub struct Kubectl(PathBuf);

impl Kubectl {
    /// The kubectls of the scripted runs, oldest first: those of `PORTOLAN_TEST_KUBECTLS` (a list like PATH), else those
    /// found on this machine. Fails when one is missing.
    pub fn all() -> Vec<Kubectl> {
        let found: Vec<PathBuf> = match std::env::var_os(LIST) {
            Some(list) => std::env::split_paths(&list).collect(),
            None => [beside_kubectl(OLD), built()].into_iter().flatten().collect(),
        };
        let missing: Vec<&PathBuf> = found.iter().filter(|path| !path.is_file()).collect();
        assert!(
            found.len() >= 2 && missing.is_empty(),
            "two kubectls (1.33 and 1.36) are needed, found {found:?}, of which {missing:?} are not there: run the tests \
             by `cargo xtask test`, which gets them, or list them in {LIST}"
        );
        found.into_iter().map(Kubectl).collect()
    }

    /// What it calls itself: `v1.36.3`.
    pub fn version(&self) -> String {
        let output = Command::new(&self.0).args(["version", "--client"]).output();
        let output = output.unwrap_or_else(|e| panic!("cannot run {}: {e}", self.0.display()));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().find_map(|l| l.strip_prefix("Client Version: ")).unwrap_or_default().to_owned()
    }

    /// Runs it on the system's host with the system's kubeconfig.
    #[track_caller]
    pub fn run(&self, system: &System, args: &[&str]) -> Ran {
        run(system.host().namespace(), self.command(system, args))
    }

    /// Starts it in the background.
    #[track_caller]
    pub fn start(&self, system: &System, args: &[&str]) -> Running {
        Running::start(system.host().namespace(), self.command(system, args))
    }

    /// To be changed before it's run.
    pub fn command(&self, system: &System, args: &[&str]) -> Command {
        let mut command = Command::new(&self.0);
        command.args(args).env("KUBECONFIG", system.data_dir().join("kubeconfig"));
        // Its discovery cache would otherwise be that of another test's server at the same address.
        command.env("KUBECACHEDIR", system.scratch().join("kubectl-cache")).env("HOME", system.scratch());
        command
    }
}

/// Some distributions of kubectl carry several versions in one folder.
fn beside_kubectl(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let find = |name: &str| std::env::split_paths(&path).map(|d| d.join(name)).find(|p| p.is_file());
    let beside = || Some(find("kubectl")?.canonicalize().ok()?.parent()?.join(name)).filter(|p: &PathBuf| p.is_file());
    find(name).or_else(beside)
}

/// Where `cargo xtask peers kubectl` puts the newest.
fn built() -> Option<PathBuf> {
    let home = std::env::var_os("PORTOLAN_PEERS").map(PathBuf::from).or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")));
        Some(cache?.join("portolan-peers"))
    });
    Some(home?.join("bin/kubectl")).filter(|p| p.is_file())
}
