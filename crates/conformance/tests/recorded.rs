//! What the real kube-apiserver 1.36.3 answered, asked of ours. The cases of `recorded/` are written by
//! `cargo xtask conformance api --record`; those of `broken.jsonl` end in a request that must change nothing.

use std::path::Path;

use conformance::Ours;
use conformance::cases::{self, Verdict};
use conformance::difference::differences;
use conformance::step::{Content, Step};

/// Where ours says it better, or in other words of the same sense: `docs/conformance.md` tells them.
const OTHER_WORDS: &[&str] =
    &["configmap not YAML", "configmap no object", "configmap nested ten thousand deep", "configmap patch of no kind"];

fn read(file: &str) -> Vec<Verdict> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded").join(file);
    let text = std::fs::read_to_string(&path).expect("the recorded cases");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Our answers to a case that aren't the original's.
async fn mistakes(client: &kube::Client, verdict: &Verdict) -> Vec<String> {
    let ours = verdict.case.play(client).await.expect("an answer");
    let mut found = Vec::new();
    for ((step, original), ours) in verdict.case.steps.iter().zip(&verdict.answers).zip(&ours) {
        let mut different = differences(original, ours);
        // Of what leads there only the verdict counts, and a message says what its causes are.
        different.retain(|d| d.what == "code" || !original.body.is_null() && d.what != "details");
        if OTHER_WORDS.contains(&verdict.case.name.as_str()) {
            different.retain(|d| !matches!(d.what.as_str(), "message" | "reason"));
        }
        for d in different {
            let (name, what, path) = (&verdict.case.name, d.what, &step.path);
            found.push(format!(
                "{name}\n  {} {path}\n  {what}: original {}\n  {what}: ours     {}",
                step.method, d.original, d.ours
            ));
        }
    }
    found
}

#[tokio::test]
async fn what_once_differed_from_the_original_does_so_no_more() {
    let client = Ours::in_process().await.expect("a server");
    cases::prepare(&client).await.expect("the namespace");
    let mut found = Vec::new();
    for verdict in read("api.jsonl") {
        found.extend(mistakes(&client, &verdict).await);
        // Addresses and ports that this case took are the next one's.
        if let Some(path) = verdict.case.steps[0].object_path() {
            Step::new("DELETE", path, Content::None).send(&client).await.expect("an answer");
        }
    }
    assert!(found.is_empty(), "{} answers differ:\n{}", found.len(), found.join("\n"));
}

#[tokio::test]
async fn broken_manifests_are_refused_in_the_originals_words_and_change_nothing() {
    let client = Ours::in_process().await.expect("a server");
    cases::prepare(&client).await.expect("the namespace");
    let broken = read("broken.jsonl");
    assert!(broken.len() >= 40, "only {} broken manifests", broken.len());
    let mut found = Vec::new();
    for verdict in &broken {
        let (last, before) = verdict.case.steps.split_last().expect("a step");
        found.extend(mistakes(&client, verdict).await);
        // The same once more: the revision of the whole store stays.
        let revision = revision(&client).await;
        let again = last.send(&client).await.expect("an answer");
        assert!(again.code >= 400, "{}: {}", verdict.case.name, again.code);
        assert_eq!(revision, self::revision(&client).await, "{} changed something", verdict.case.name);
        assert!(before.len() < 3, "{}", verdict.case.name);
    }
    assert!(found.is_empty(), "{} answers differ:\n{}", found.len(), found.join("\n"));
}

/// The store's, which lists tell.
async fn revision(client: &kube::Client) -> String {
    let list = kube::Api::<k8s_openapi::api::core::v1::Node>::all(client.clone());
    let list = list.list(&kube::api::ListParams::default()).await.expect("the nodes");
    list.metadata.resource_version.expect("a revision")
}
