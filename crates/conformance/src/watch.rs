//! Lists and watches on the original and on ours: the same pages, the same events in the same order.
//!
//! Each scenario has a namespace of its own, so that scenarios can run side by side.

use std::io::Write as _;

use anyhow::{Context, Result};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt, stream};
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::difference::{Table, differences};
use crate::step::{Answer, Content, Step, mask};
use crate::{Originals, Ours};

const AT_ONCE: usize = 12;
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json";
const PARTIAL_LIST: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";

/// How often pages are followed at most.
const PAGES: usize = 20;

/// One thing that a client does, in a namespace that has three ConfigMaps to begin with.
struct Scenario {
    name: String,
    accept: Option<&'static str>,
    /// `{rv}` is the revision of a list made just before.
    query: String,
    /// What happens while it watches; nothing for a list.
    during: Vec<Step>,
    watch: bool,
}

/// Runs every scenario on both; answers whether they agree.
pub async fn run(originals: &Originals) -> Result<bool> {
    let ours = Ours::start().await?;
    let clients = (originals.client().await?, ours.client().await?);
    let played = scenarios().into_iter().enumerate().map(|(number, scenario)| {
        let clients = clients.clone();
        async move {
            let namespace = format!("watch-{number}");
            let original = scenario.play(&clients.0, &namespace).await.with_context(|| scenario.name.clone())?;
            let ours = scenario.play(&clients.1, &namespace).await.with_context(|| scenario.name.clone())?;
            anyhow::Ok((scenario, original, ours))
        }
    });
    let played: Vec<_> = stream::iter(played).buffered(AT_ONCE).try_collect().await?;
    let (mut table, mut out, mut agreeing) = (Table::default(), std::io::stdout().lock(), 0);
    for (scenario, original, ours) in &played {
        let found = differences(original, ours);
        agreeing += usize::from(found.is_empty());
        found.iter().for_each(|d| table.add(&scenario.name, &scenario.query, d));
    }
    let events: usize = played.iter().map(|(_, original, _)| original.body.as_array().map_or(0, Vec::len)).sum();
    write!(out, "{table}")?;
    writeln!(out, "{} scenarios ({events} events and pages), {agreeing} agree", played.len())?;
    Ok(table.is_empty())
}

impl Scenario {
    async fn play(&self, client: &kube::Client, namespace: &str) -> Result<Answer> {
        let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        Step::new("POST", "/api/v1/namespaces", Content::Json(made)).send(client).await?;
        let collection = format!("/api/v1/namespaces/{namespace}/configmaps");
        for (name, tier) in [("a", "one"), ("b", "two"), ("c", "one")] {
            config_map("POST", name, tier, "0").at(&collection).send(client).await?;
        }
        let (_, list) = get(client, &format!("{collection}?limit=500"), None).await?;
        let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let path = format!("{collection}?{}", self.query.replace("{rv}", &revision));
        if !self.watch {
            return self.pages(client, &path).await;
        }
        let actions = async {
            for step in &self.during {
                step.clone().at(&collection).send(client).await?;
            }
            anyhow::Ok(())
        };
        let (answer, acted) = tokio::join!(self.events(client, &path), actions);
        acted?;
        answer
    }

    /// A list, page by page.
    async fn pages(&self, client: &kube::Client, path: &str) -> Result<Answer> {
        let mut pages = Vec::new();
        let mut next = path.to_owned();
        let mut code = 200;
        for _ in 0..PAGES {
            let (status, mut page) = get(client, &next, self.accept).await?;
            code = status;
            let token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            if !token.is_empty() {
                page["metadata"]["continue"] = "<token>".into();
            }
            mask(&mut page);
            mask_ages(&mut page);
            pages.push(page);
            if token.is_empty() {
                break;
            }
            next = format!("{path}&continue={token}");
        }
        let body = if code >= 400 { pages.pop().unwrap_or_default() } else { pages.into() };
        Ok(Answer { code, warnings: Vec::new(), body })
    }

    /// Everything that a watch says until its timeout.
    async fn events(&self, client: &kube::Client, path: &str) -> Result<Answer> {
        let path = format!("{path}&watch=true&timeoutSeconds=4");
        let request = Request::get(&path).header("accept", self.accept.unwrap_or("application/json"));
        let response = client.send(request.body(kube::client::Body::empty())?).await?;
        let code = response.status().as_u16();
        let mut lines =
            response.into_body().into_data_stream().map_err(std::io::Error::other).into_async_read().lines();
        let mut events = Vec::new();
        while let Some(line) = lines.next().await {
            let mut event: Value = serde_json::from_str(&line?)?;
            mask(&mut event);
            mask_ages(&mut event);
            events.push(event);
        }
        let body = if code >= 400 { events.pop().unwrap_or_default() } else { events.into() };
        Ok(Answer { code, warnings: Vec::new(), body })
    }
}

/// Ages of rows, and descriptions of columns, which are prose.
fn mask_ages(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.contains_key("priority") {
                map.remove("description");
            }
            map.values_mut().for_each(mask_ages);
        }
        Value::Array(items) => items.iter_mut().for_each(mask_ages),
        Value::String(text) => {
            let age =
                text.strip_suffix(['s', 'm']).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
            if age {
                *text = "<age>".to_owned();
            }
        }
        _ => {}
    }
}

async fn get(client: &kube::Client, path: &str, accept: Option<&str>) -> Result<(u16, Value)> {
    let mut step = Step::new("GET", path, Content::None);
    step.accept = accept.map(str::to_owned);
    step.send_unmasked(client).await
}

fn config_map(method: &str, name: &str, tier: &str, value: &str) -> Step {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"tier": tier}}, "data": {"v": value},
    });
    let path = if method == "POST" { String::new() } else { format!("/{name}") };
    Step::new(method, path, Content::Json(object))
}

/// What happens during every watch: something of each kind, across the border of the selectors.
fn life() -> Vec<Step> {
    vec![
        config_map("POST", "d", "one", "1"),
        config_map("PUT", "d", "one", "2"),
        config_map("PUT", "d", "two", "3"),
        config_map("PUT", "d", "one", "4"),
        config_map("PUT", "a", "one", "5"),
        config_map("PUT", "a", "one", "5"),
        Step::new("DELETE", "/b", Content::None),
        Step::new("DELETE", "/d", Content::None),
        config_map("POST", "b", "two", "6"),
    ]
}

fn scenarios() -> Vec<Scenario> {
    const FROM: &[&str] = &["resourceVersion={rv}", "resourceVersion=0", ""];
    const SELECTORS: &[&str] = &[
        "",
        "&labelSelector=tier%3Done",
        "&labelSelector=tier%20in%20(two)",
        "&labelSelector=!tier",
        "&fieldSelector=metadata.name%3Dd",
        "&fieldSelector=metadata.name!%3Dd",
        "&labelSelector=tier%3Done&fieldSelector=metadata.name%3Da",
    ];
    const INITIAL: &[&str] = &[
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion={rv}",
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=0",
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=tier%3Done",
        "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion={rv}",
        "sendInitialEvents=true&allowWatchBookmarks=true",
        "sendInitialEvents=true&resourceVersionMatch=Exact&resourceVersion={rv}",
        "resourceVersionMatch=NotOlderThan&resourceVersion={rv}",
        "resourceVersion=x",
        "labelSelector=a%20b",
        "fieldSelector=data.v%3D1",
        "continue=x",
    ];
    const LISTS: &[&str] = &[
        "limit=1",
        "limit=2",
        "limit=3",
        "limit=2&labelSelector=tier%3Done",
        "limit=1&fieldSelector=metadata.name%3Dc",
        "limit=1&resourceVersion=0",
        "limit=1&resourceVersion={rv}",
        "resourceVersion={rv}&resourceVersionMatch=Exact",
        "limit=1&resourceVersion={rv}&resourceVersionMatch=Exact",
        "resourceVersion={rv}&resourceVersionMatch=NotOlderThan",
        "resourceVersion=0&resourceVersionMatch=NotOlderThan",
        "resourceVersion=0&resourceVersionMatch=Exact",
        "resourceVersionMatch=Exact",
        "resourceVersion={rv}&resourceVersionMatch=Sometimes",
        "sendInitialEvents=true",
        "resourceVersion=x",
        "resourceVersion=-1",
        "resourceVersion=99999999",
        "limit=x",
        "continue=x",
        "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi8uLi9zZWNyZXRzIn0",
        "continue=eyJ2IjoidjAifQ&limit=1",
        "labelSelector=tier%3D%3D",
        "labelSelector=tier%20in%20()",
        "fieldSelector=metadata.uid%3Dx",
        "timeoutSeconds=x",
    ];
    let mut all = Vec::new();
    for selector in SELECTORS {
        for from in FROM {
            all.push(Scenario::watching("watch", format!("{from}{selector}"), None));
        }
    }
    for query in INITIAL {
        all.push(Scenario::watching("watch-initial", (*query).to_owned(), None));
    }
    for (name, accept) in [("watch-table", TABLE), ("watch-metadata", PARTIAL)] {
        for query in [FROM[0], FROM[2], INITIAL[0], "resourceVersion={rv}&labelSelector=tier%3Done"] {
            all.push(Scenario::watching(name, query.to_owned(), Some(accept)));
        }
    }
    for query in ["includeObject=Object", "includeObject=None"] {
        all.push(Scenario::watching("watch-table", query.to_owned(), Some(TABLE)));
    }
    for query in LISTS {
        all.push(Scenario::listing("list", query, None));
    }
    for (name, accept) in [("list-table", TABLE), ("list-metadata", PARTIAL_LIST)] {
        for query in ["limit=2", "labelSelector=tier%3Done", "includeObject=Object"] {
            all.push(Scenario::listing(name, query, Some(accept)));
        }
    }
    all
}

impl Scenario {
    fn watching(name: &str, query: String, accept: Option<&'static str>) -> Self {
        // A watch of the state now has to see it before it changes; the changes are the other watches' subject.
        let during = if query.contains("resourceVersion={rv}") { life() } else { Vec::new() };
        Scenario { name: name.to_owned(), accept, query, during, watch: true }
    }

    fn listing(name: &str, query: &str, accept: Option<&'static str>) -> Self {
        Scenario { name: name.to_owned(), accept, query: query.to_owned(), during: Vec::new(), watch: false }
    }
}
