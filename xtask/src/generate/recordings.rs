//! Asks upstream's Go code the questions in `crates/api/tests/recorded/*.jsonl` and writes its answers beside them. The
//! cases themselves are kept: to add one, add a line without an answer.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::{VERSION, workspace_root};

const CASES: &str = "crates/api/tests/recorded";
const PROGRAM: &str = include_str!("recorder.go");

pub fn run() -> anyhow::Result<()> {
    let module = std::env::temp_dir().join("portolan-recorder");
    std::fs::create_dir_all(&module).context("making a folder for the recorder")?;
    std::fs::write(module.join("main.go"), PROGRAM).context("writing the recorder")?;
    let requirements = format!(
        "module recorder\n\ngo 1.24\n\nrequire (\n\tk8s.io/api {VERSION}\n\tk8s.io/apimachinery {VERSION}\n)\n"
    );
    std::fs::write(module.join("go.mod"), requirements).context("writing go.mod")?;
    go(&module, &["mod", "tidy"])?;
    go(&module, &["build", "-o", "recorder", "."])?;
    let folder = workspace_root().join(CASES);
    for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {CASES}"))? {
        let path = entry.context("reading the folder of cases")?.path();
        if path.extension().is_some_and(|e| e == "jsonl") {
            record(&module.join("recorder"), &path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

fn go(module: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("go").args(arguments).current_dir(module).status().context("running go")?;
    ensure!(status.success(), "go {} failed", arguments.join(" "));
    Ok(())
}

/// One line in, one answer out. Keys are asked in the order in which they are kept.
fn record(recorder: &Path, path: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).context("reading the cases")?;
    let mut cases = Vec::new();
    for line in text.lines() {
        let mut case: Value = serde_json::from_str(line).context("reading a case")?;
        case["answer"] = Value::Null;
        cases.push(case);
    }
    let questions: String = cases.iter().map(|case| format!("{case}\n")).collect();
    let mut child = Command::new(recorder).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting")?;
    let mut input = child.stdin.take().context("the recorder has no input")?;
    let writer = std::thread::spawn(move || input.write_all(questions.as_bytes()));
    let output = child.wait_with_output().context("waiting for the recorder")?;
    match writer.join() {
        Ok(written) => written.context("asking the recorder")?,
        Err(_) => bail!("the thread that asks the recorder panicked"),
    }
    let answers = String::from_utf8(output.stdout).context("reading the answers")?;
    ensure!(cases.len() == answers.lines().count(), "an answer is missing");
    let mut out = String::new();
    for (mut case, answer) in cases.into_iter().zip(answers.lines()) {
        case["answer"] = serde_json::from_str(answer).context("reading an answer")?;
        out.push_str(&format!("{case}\n"));
    }
    std::fs::write(path, out).context("writing the answers")
}
