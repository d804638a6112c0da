//! Lists: at which revisions, in pages and whole, and what is refused.

use anyhow::Result;
use futures::future::try_join_all;
use serde_json::{Value, json};

use super::history::{CONFIG_MAPS, KINDS, Kind, Stage};
use super::probes::{JSON, PARTIAL, TABLE};
use super::record::{Record, Told};
use super::stream::get;

/// How many pages are followed at most.
const PAGES: usize = 60;

const PARTIAL_LIST: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";

/// With revisions of the history in place of PAST and NOW.
const WHOLE: &[&str] = &[
    "",
    "resourceVersion=0",
    "resourceVersion=PAST",
    "resourceVersion=PAST&resourceVersionMatch=NotOlderThan",
    "resourceVersion=PAST&resourceVersionMatch=Exact",
    "resourceVersion=PAST&resourceVersionMatch=Exact&labelSelector=tier%3Dfront",
    "resourceVersion=PAST&limit=500",
    "resourceVersion=0&resourceVersionMatch=NotOlderThan",
    "labelSelector=tier%3Dfront",
    "labelSelector=tier+notin+(front,back)",
    "fieldSelector=metadata.name%3Dbase",
    "fieldSelector=metadata.name%3Dbase&resourceVersion=0",
    "fieldSelector=metadata.name!%3Dbase,metadata.name!%3Dgone",
];

const PAGED: &[&str] = &[
    "limit=1",
    "limit=2",
    "limit=3&resourceVersion=0",
    "limit=3&resourceVersion=0&resourceVersionMatch=NotOlderThan",
    "limit=2&resourceVersion=PAST",
    "limit=2&resourceVersion=PAST&resourceVersionMatch=Exact",
    "limit=2&resourceVersion=PAST&resourceVersionMatch=NotOlderThan",
    "limit=1&labelSelector=tier%3Dfront",
    "limit=2&fieldSelector=metadata.name!%3Dbase",
    "limit=1&fieldSelector=metadata.name%3Dbase",
];

/// `TOKEN` is a good one.
const REFUSED: &[&str] = &[
    "resourceVersionMatch=Exact",
    "resourceVersionMatch=NotOlderThan",
    "resourceVersionMatch=Odd",
    "resourceVersionMatch=Odd&resourceVersion=PAST",
    "resourceVersionMatch=Exact&resourceVersion=0",
    "resourceVersionMatch=Exact&resourceVersion=0&continue=TOKEN",
    "resourceVersionMatch=Exact&continue=TOKEN",
    "resourceVersion=PAST&continue=TOKEN",
    "resourceVersion=0&continue=TOKEN&limit=2",
    "resourceVersion=FUTURE",
    "resourceVersion=FUTURE&resourceVersionMatch=NotOlderThan",
    "resourceVersion=FUTURE&resourceVersionMatch=Exact",
    "resourceVersion=FUTURE&limit=1",
    "resourceVersion=abc",
    "resourceVersion=-1",
    "resourceVersion=1.5",
    "resourceVersion=99999999999999999999",
    "limit=abc",
    "limit=-1",
    "limit=99999999999999999999",
    "timeoutSeconds=abc",
    "continue=garbage",
    "continue=e30",
    "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MCwic3RhcnQiOiJhIn0",
    "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiIifQ",
    "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjIiLCJydiI6NSwic3RhcnQiOiJhIn0",
    "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiIuLi9hIn0",
    "sendInitialEvents=true",
    "sendInitialEvents=false",
    "sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
    "allowWatchBookmarks=true&limit=1",
    "labelSelector=a%3D%3D%3Db",
    "labelSelector=a+in+b",
    "labelSelector=-a",
    "labelSelector=a%3D-",
    "labelSelector=,",
    "labelSelector=a,,b",
    "labelSelector=!a!",
    "labelSelector=a+in+()&limit=1",
    "labelSelector=a%3Eb",
    "labelSelector=a%3E5&limit=1",
    "fieldSelector=spec.none%3D1",
    "fieldSelector=metadata.name",
    "fieldSelector=metadata.name%3D%3D%3Da",
    "fieldSelector=metadata.labels%3D1",
    "fieldSelector=,",
    "fieldSelector=metadata.name+in+(a)",
    "watch=false&limit=1",
    "pretty=true&limit=1",
];

/// Everything that is asked when a history is over, with what was answered.
pub async fn ask(stage: &Stage, record: &mut Record) -> Result<Vec<(Told, bool)>> {
    let mut told: Vec<(Told, bool)> =
        try_join_all(KINDS.iter().map(|kind| of_kind(stage, kind))).await?.into_iter().flatten().collect();
    told.extend(refusals(stage).await?);
    told.extend(between_pages(stage, record).await?);
    Ok(told)
}

async fn of_kind(stage: &Stage, kind: &Kind) -> Result<Vec<(Told, bool)>> {
    let mut told = Vec::new();
    for (place, path) in [("one namespace", kind.within(&stage.namespaces[0])), ("all", kind.everywhere())] {
        for query in WHOLE.iter().chain(PAGED) {
            if place == "all" && !everywhere_alike(kind, query) {
                continue;
            }
            let lines = pages(stage, kind, &path, query, JSON).await?;
            told.push(answer(kind, format!("{} of {place}: list {query}", kind.plural), lines));
        }
    }
    let path = kind.within(&stage.namespaces[0]);
    for (form, accept) in [("Table", TABLE), ("metadata", PARTIAL_LIST)] {
        for query in ["limit=3", "resourceVersion=0", "resourceVersion=PAST&resourceVersionMatch=Exact"] {
            let lines = pages(stage, kind, &path, query, accept).await?;
            told.push(answer(kind, format!("{}: list as {form} {query}", kind.plural), lines));
        }
    }
    for query in ["", "?resourceVersion=0", "?resourceVersion=abc", "?resourceVersion=PAST", "?resourceVersion=FUTURE"]
    {
        if query.contains("FUTURE") && kind.kind != "ConfigMap" {
            continue;
        }
        for (form, accept) in [("JSON", JSON), ("metadata", PARTIAL)] {
            let url = format!("{path}/base{}", filled(stage, kind, query, ""));
            let (code, body) = get(&stage.server.client, &url, accept).await?;
            let lines = vec![json!({"code": code, "object": body})];
            told.push(answer(kind, format!("{}: get as {form} {query}", kind.plural), lines));
        }
    }
    Ok(told)
}

/// Of all namespaces only what doesn't belong to the systems themselves can be compared.
fn everywhere_alike(kind: &Kind, query: &str) -> bool {
    matches!(kind.kind, "Pod" | "Deployment") || query.contains("tier%3Dfront")
}

fn answer(kind: &Kind, name: String, lines: Vec<Value>) -> (Told, bool) {
    (Told { name, plural: kind.plural, lines }, false)
}

fn filled(stage: &Stage, kind: &Kind, query: &str, token: &str) -> String {
    let now: i64 = stage.revision(kind, 2).parse().unwrap_or_default();
    let future = (now + 1_000_000).to_string();
    query.replace("PAST", stage.revision(kind, 1)).replace("FUTURE", &future).replace("TOKEN", token)
}

/// All pages of a list.
async fn pages(stage: &Stage, kind: &Kind, path: &str, query: &str, accept: &str) -> Result<Vec<Value>> {
    let base = format!("{path}?{}", filled(stage, kind, query, ""));
    // What follows keeps the limit and the selectors alone, as clients do it.
    let kept: Vec<&str> = query.split('&').filter(|part| !part.starts_with("resourceVersion")).collect();
    let (mut url, mut lines) = (base, Vec::new());
    for _ in 0..PAGES {
        let (code, body) = get(&stage.server.client, &url, accept).await?;
        let token = body["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        let mut line = json!({"code": code, "object": body});
        if query.contains("Selector") {
            // The original may find only on the next page that nothing more is selected.
            if let Some(metadata) = line["object"]["metadata"].as_object_mut() {
                metadata.remove("continue");
            }
            if lines.is_empty() || line["object"]["items"].as_array().is_none_or(|items| !items.is_empty()) {
                lines.push(line);
            }
        } else {
            lines.push(line);
        }
        if token.is_empty() {
            break;
        }
        url = format!("{path}?{}&continue={token}", kept.join("&"));
    }
    Ok(lines)
}

async fn refusals(stage: &Stage) -> Result<Vec<(Told, bool)>> {
    let kind = &CONFIG_MAPS;
    let path = kind.within(&stage.namespaces[0]);
    let (_, first) = get(&stage.server.client, &format!("{path}?limit=2"), JSON).await?;
    let token = first["metadata"]["continue"].as_str().unwrap_or_default();
    let ask = async |query: &&str| {
        let url = format!("{path}?{}", filled(stage, kind, query, token));
        let (code, body) = get(&stage.server.client, &url, JSON).await?;
        let lines = vec![json!({"code": code, "object": body})];
        anyhow::Ok(answer(kind, format!("configmaps: list, odd: {query}"), lines))
    };
    // Some of them take the servers seconds.
    let mut told = try_join_all(REFUSED.iter().map(ask)).await?;
    let others = format!("{}?limit=2&continue={token}", kind.within(&stage.namespaces[1]));
    let (code, body) = get(&stage.server.client, &others, JSON).await?;
    told.push(answer(kind, "configmaps: another's token".to_owned(), vec![json!({"code": code, "object": body})]));
    Ok(told)
}

/// Pages stay of one revision whatever is written between them.
async fn between_pages(stage: &Stage, record: &mut Record) -> Result<Vec<(Told, bool)>> {
    let mut told = Vec::new();
    for kind in KINDS {
        let path = kind.within(&stage.namespaces[0]);
        let (code, first) = get(&stage.server.client, &format!("{path}?limit=1"), JSON).await?;
        let token = first["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        for (method, path, body) in [
            ("POST", path.clone(), kind.object("between", "back", 5)),
            ("DELETE", format!("{path}/zz-front"), json!({"gracePeriodSeconds": 0})),
        ] {
            let (code, _) = stage.send(method, &path, &body).await?;
            record.note("writes between pages", json!([kind.plural, method, code]));
        }
        let mut lines = vec![json!({"code": code, "object": first})];
        let (code, rest) = get(&stage.server.client, &format!("{path}?limit=50&continue={token}"), JSON).await?;
        lines.push(json!({"code": code, "object": rest}));
        let (code, whole) = get(&stage.server.client, &format!("{path}?continue={token}"), JSON).await?;
        lines.push(json!({"code": code, "object": whole}));
        told.push(answer(kind, format!("{}: written between pages", kind.plural), lines));
    }
    Ok(told)
}
