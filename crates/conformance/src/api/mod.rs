//! Generated requests to the original and to ours: the same verdict, the same words, the same object after defaulting.

mod generate;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use futures::{StreamExt, stream};
use serde_json::json;

use crate::cases::{self, Case, Verdict};
use crate::difference::{Table, differences};
use crate::{Originals, Ours};

/// How many cases are under way at once.
const AT_ONCE: usize = 8;

/// `conformance api`.
#[derive(clap::Args)]
pub struct Options {
    /// Which of the possible histories are drawn; the same number draws the same.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many histories.
    #[arg(long, default_value_t = 1500)]
    cases: usize,
    /// `table`, or `json`: each difference on a line.
    #[arg(short, long, default_value = "table")]
    output: String,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Play the hand-written cases of a file instead.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Write the original's answers to the cases that differ here, one case a line: for the suite's recorded ones.
    #[arg(long)]
    record: Option<PathBuf>,
    /// Record every case, not only those that differ.
    #[arg(long)]
    record_all: bool,
}

/// Flags of the original that make it comparable: we have no ServiceAccounts of pods yet.
const FLAGS: &[&str] = &["--disable-admission-plugins=ServiceAccount", "--allow-privileged=true"];

/// Plays every case on both; answers whether they agree.
pub async fn run(options: &Options, originals: &Originals) -> Result<bool> {
    let ours = Ours::start().await?;
    let clients = (originals.client().await?, ours.client().await?);
    cases::prepare(&clients.0).await?;
    cases::prepare(&clients.1).await?;
    let mut all = match &options.file {
        Some(path) => cases::read(path)?,
        None => generate::cases(options.seed, options.cases),
    };
    all.retain(|case| case.name.contains(&options.only));
    let played = stream::iter(all.into_iter().map(|case| play(case, &clients)));
    let played: Vec<Result<Played>> = played.buffered(AT_ONCE).collect().await;
    let played: Vec<Played> = played.into_iter().collect::<Result<_>>()?;
    report(options, &played)
}

pub fn flags() -> &'static [&'static str] {
    FLAGS
}

struct Played {
    case: Case,
    original: Vec<crate::step::Answer>,
    ours: Vec<crate::step::Answer>,
}

async fn play(case: Case, clients: &(kube::Client, kube::Client)) -> Result<Played> {
    let original = case.play(&clients.0).await.with_context(|| format!("{} on the original", case.name))?;
    let ours = case.play(&clients.1).await.with_context(|| format!("{} on ours", case.name))?;
    Ok(Played { case, original, ours })
}

fn report(options: &Options, played: &[Played]) -> Result<bool> {
    let (mut table, mut out) = (Table::default(), std::io::stdout().lock());
    let mut codes: BTreeMap<u16, usize> = BTreeMap::new();
    let (mut requests, mut differing) = (0, Vec::new());
    for one in played {
        let mut agrees = true;
        for (step, (original, ours)) in one.case.steps.iter().zip(one.original.iter().zip(&one.ours)) {
            requests += 1;
            *codes.entry(original.code).or_default() += 1;
            for difference in differences(original, ours) {
                agrees = false;
                table.add(one.case.about(), &format!("{}: {} {}", one.case.name, step.method, step.path), &difference);
                if options.output == "json" {
                    let line = json!({"case": one.case.name, "request": step, "difference": difference});
                    writeln!(out, "{line}")?;
                }
            }
        }
        if !agrees {
            differing.push(one);
        }
    }
    if options.output != "json" {
        write!(out, "{table}")?;
    }
    let codes: Vec<String> = codes.iter().map(|(code, count)| format!("{count} × {code}")).collect();
    let agreeing = played.len() - differing.len();
    writeln!(out, "{requests} requests in {} cases (the original answered {})", played.len(), codes.join(", "))?;
    writeln!(out, "{agreeing} cases agree, {} differ", differing.len())?;
    if let Some(path) = &options.record {
        let kept: Vec<&Played> = if options.record_all { played.iter().collect() } else { differing };
        let verdicts = kept.iter().map(|one| Verdict { case: one.case.clone(), answers: one.original.clone() });
        cases::write(path, verdicts)?;
    }
    Ok(table.is_empty())
}
