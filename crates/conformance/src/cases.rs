//! Cases as data: a few requests about objects of their own, and what the original answered to them.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::step::{Answer, Content, Step};

/// Where the objects of cases are.
pub const NAMESPACE: &str = "cases";

/// Requests that belong together, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Begins with what it is about: `service`.
    pub name: String,
    pub steps: Vec<Step>,
}

/// A case with the original's answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    pub case: Case,
    pub answers: Vec<Answer>,
}

impl Case {
    pub fn about(&self) -> &str {
        self.name.split(' ').next().unwrap_or_default()
    }

    /// Sends the requests one after the other.
    pub async fn play(&self, client: &kube::Client) -> Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for step in &self.steps {
            answers.push(step.send(client).await?);
        }
        Ok(answers)
    }
}

/// Makes the namespace that cases use.
pub async fn prepare(client: &kube::Client) -> Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let made = Step::new("POST", "/api/v1/namespaces", Content::Json(namespace)).send(client).await?;
    ensure!(made.code == 201, "the namespace can't be made: {}", made.body);
    // Some of them name it: ours wants a Pod's account to be there, the original runs without the plugin that does.
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sa"}});
    let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
    let made = Step::new("POST", accounts, Content::Json(account)).send(client).await?;
    ensure!(made.code == 201, "the account can't be made: {}", made.body);
    Ok(())
}

/// Cases from a file, one a line.
pub fn read(path: &Path) -> Result<Vec<Case>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| match serde_json::from_str::<Verdict>(line) {
            Ok(verdict) => Ok(verdict.case),
            Err(_) => serde_json::from_str(line).with_context(|| format!("in {}: {line}", path.display())),
        })
        .collect()
}

/// Writes verdicts, one a line.
pub fn write(path: &Path, verdicts: impl Iterator<Item = Verdict>) -> Result<()> {
    let lines: Vec<String> = verdicts.map(|verdict| serde_json::to_string(&verdict)).collect::<Result<_, _>>()?;
    std::fs::write(path, lines.join("\n") + "\n").with_context(|| format!("writing {}", path.display()))
}
