//! Scripted kubectls against the original and against ours: the same words on both outputs, the same exit code.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::{Originals, Ours};

/// One command a line; `#` begins a comment. Both servers run the same script from the start, without controllers.
const SCRIPT: &str = include_str!("../scripts/kubectl.txt");
/// Files of the script, below a line `=== NAME`.
const FILES: &str = include_str!("../scripts/files.yaml");
/// The original runs without the plugin that fills these in.
const ACCOUNT: &[&str] = &["serviceAccount: default", "serviceAccountName: default", "Service Account: default"];
/// An argument list like PATH.
const KUBECTLS: &str = "PORTOLAN_TEST_KUBECTLS";

/// `conformance kubectl`.
#[derive(clap::Args)]
pub struct Options {
    /// Only kubectls whose path ends so.
    #[arg(long, default_value = "")]
    only: String,
}

/// Runs the script by every kubectl on both; answers whether they agree.
pub async fn run(options: &Options, originals: &Originals) -> Result<bool> {
    let list = std::env::var_os(KUBECTLS).with_context(|| format!("{KUBECTLS} is not set"))?;
    let kubectls: Vec<PathBuf> =
        std::env::split_paths(&list).filter(|path| path.to_string_lossy().ends_with(&options.only)).collect();
    let mut agree = true;
    let mut totals = BTreeMap::new();
    for (number, kubectl) in kubectls.iter().enumerate() {
        let namespace = format!("case-{number}");
        let ours = Ours::start().await?;
        let side = |name: &str, kubeconfig| Side::new(name, kubeconfig, &namespace);
        let (a, b) = (side("original", originals.kubeconfig())?, side("ours", ours.kubeconfig())?);
        let program = kubectl.clone();
        let differing = tokio::task::spawn_blocking(move || compare(&program, &a, &b)).await??;
        agree &= differing == 0;
        totals.insert(kubectl.clone(), differing);
    }
    let mut out = std::io::stdout().lock();
    for (kubectl, differing) in totals {
        writeln!(out, "{}: {} commands, {differing} differ", kubectl.display(), commands().count())?;
    }
    Ok(agree)
}

fn commands() -> impl Iterator<Item = &'static str> {
    SCRIPT.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn compare(kubectl: &Path, original: &Side, ours: &Side) -> Result<usize> {
    let mut differing = 0;
    for command in commands() {
        let (a, b) = std::thread::scope(|scope| {
            let a = scope.spawn(|| original.run(kubectl, command));
            let b = ours.run(kubectl, command);
            (a.join(), b)
        });
        let (a, b) = (a.map_err(|_| anyhow::anyhow!("a thread panicked"))??, b?);
        if a != b {
            differing += 1;
            let mut out = std::io::stdout().lock();
            writeln!(out, "{}: kubectl {command}\n── original ──\n{a}\n── ours ──\n{b}\n", kubectl.display())?;
        }
    }
    Ok(differing)
}

/// One of the two servers, as a kubectl sees it.
struct Side {
    home: PathBuf,
    namespace: String,
    kubeconfig: PathBuf,
}

impl Side {
    fn new(name: &str, kubeconfig: PathBuf, namespace: &str) -> Result<Self> {
        let home = kubeconfig.parent().context("a folder")?.join(format!("home-{name}-{namespace}"));
        std::fs::create_dir_all(&home)?;
        for file in FILES.split("=== ").skip(1) {
            let (name, content) = file.split_once('\n').context("a file's name")?;
            std::fs::write(
                home.join(name.trim()),
                content.replace("namespace: NS", &format!("namespace: {namespace}")),
            )?;
        }
        Ok(Side { home, namespace: namespace.to_owned(), kubeconfig })
    }

    /// Exit code and both outputs, masked.
    fn run(&self, kubectl: &Path, line: &str) -> Result<String> {
        let mut command = Command::new(kubectl);
        let words = shlex::split(line).with_context(|| format!("a quote is open in {line:?}"))?;
        command
            .args(words.into_iter().map(|word| {
                if word == "NS" {
                    self.namespace.clone()
                } else {
                    word.replace("/NS/", &format!("/{}/", self.namespace))
                }
            }))
            .current_dir(&self.home)
            .env("HOME", &self.home)
            .env("KUBECONFIG", &self.kubeconfig);
        command.env("KUBE_EDITOR", "sed -i -e s/edited:.no/edited:\\ yes/").stdin(Stdio::null());
        let output = command.output().with_context(|| format!("running {}", kubectl.display()))?;
        let text = |bytes: &[u8]| {
            let lines = String::from_utf8_lossy(bytes).lines().map(masked).collect::<Vec<_>>();
            lines.into_iter().filter(|line| !ACCOUNT.contains(&line.as_str())).collect::<Vec<_>>().join("\n")
        };
        let code = output.status.code().unwrap_or(-1);
        Ok(format!("[{code}] {}\n{}", text(&output.stdout), text(&output.stderr)))
    }
}

/// Ages, times, uids, revisions, random addresses and ports, and how wide columns are.
fn masked(line: &str) -> String {
    let words: Vec<String> = line.split_whitespace().map(masked_word).collect();
    words.join(" ")
}

fn masked_word(word: &str) -> String {
    let plain = word.trim_matches(|c: char| matches!(c, '"' | ',' | '(' | ')' | '\'' | ':'));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let age = |text: &str| {
        text.split_inclusive(['s', 'm', 'h', 'd']).all(|part| part.len() > 1 && digits(&part[..part.len() - 1]))
            && text.ends_with(['s', 'm', 'h', 'd'])
    };
    let what = if age(plain) {
        "<age>"
    } else if plain.len() == 36 && plain.matches('-').count() == 4 {
        "<uid>"
    } else if plain.contains("X509SHA256=") {
        "<hash>"
    } else if plain.len() >= 20 && plain.starts_with("20") && plain.contains('T') && plain.ends_with('Z') {
        "<time>"
    } else if plain.starts_with("10.96.") && !plain.starts_with("10.96.0.") {
        "<address>"
    } else if plain.len() == 8 && plain.split(':').all(|part| part.len() == 2 && digits(part)) {
        "<clock>"
    } else if let Some((port, protocol)) = plain.split_once('/')
        && digits(port)
        && port.len() == 5
        && port.starts_with('3')
    {
        return word.replace(plain, &format!("<port>/{protocol}"));
    } else if digits(plain) && plain.len() < 7 && plain.len() > 1 {
        // Revisions, ports: too like each other to tell apart.
        "<number>"
    } else if plain.starts_with("https://127.0.0.1") {
        "<server>"
    } else if let Some((port, rest)) = plain.split_once(':')
        && digits(port)
        && rest.split('/').next().is_some_and(digits)
    {
        return word.replace(rest.split('/').next().unwrap_or_default(), "<port>");
    } else {
        return word.to_owned();
    };
    word.replace(plain, what)
}
