//! Which watches look on, and how they are started and gathered. Not responsible for the clients themselves.

use std::future::Future;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::history::{CONFIG_MAPS, KINDS, Kind, PODS, Stage};
use super::record::Told;
use super::stream::{End, Lines, follow};
use super::{BOUND, clients};

pub const JSON: &str = "application/json";
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
pub const PARTIAL: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json";
/// What kubectl and informers begin with.
const INITIAL: &str = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";

struct Probe {
    name: String,
    plural: &'static str,
    everything: bool,
    lines: Lines,
    task: JoinHandle<Result<()>>,
}

/// Clients at work.
#[derive(Default)]
pub struct Probes {
    running: Vec<Probe>,
    opening: Vec<oneshot::Receiver<()>>,
}

impl Probes {
    /// Starts a client; `work` says when it is open.
    pub fn start<F>(&mut self, name: String, plural: &'static str, work: impl FnOnce(Lines, oneshot::Sender<()>) -> F)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (opened, opening) = oneshot::channel();
        let lines = Lines::default();
        let task = tokio::spawn(work(lines.clone(), opened));
        self.opening.push(opening);
        self.running.push(Probe { name, plural, everything: false, lines, task });
    }

    /// Starts a watch of a collection.
    fn watch(&mut self, stage: &Stage, kind: &Kind, probe: &Watch<'_>) {
        let path = match probe.namespace {
            Some(at) => kind.within(&stage.namespaces[at]),
            None => kind.everywhere(),
        };
        let query = probe.query.clone();
        let (client, accept, end) = (stage.server.watcher(), probe.accept, probe.end.clone());
        let url = format!("{path}?watch=true&{query}");
        let name = format!(
            "{} {}: {}",
            kind.plural,
            if probe.namespace.is_some() { "in one namespace" } else { "all" },
            probe.name
        );
        self.start(name, kind.plural, |lines, opened| follow(client, url, accept, end, lines, opened));
    }

    /// Waits until every client is open, for so long.
    pub async fn opened(&mut self) {
        let until = Instant::now() + BOUND;
        for opening in self.opening.drain(..) {
            // One that doesn't open is told by what it says.
            let _ = timeout_at(until, opening).await;
        }
    }

    /// What each was told, and whether that is everything; those that don't end are given up.
    pub async fn gather(self) -> Vec<(Told, bool)> {
        let until = Instant::now() + BOUND;
        let mut seen = Vec::new();
        for mut probe in self.running {
            match timeout_at(until, &mut probe.task).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => probe.lines.push(json!(format!("{error:#}"))),
                Ok(Err(error)) => probe.lines.push(json!(error.to_string())),
                Err(_) => {
                    probe.task.abort();
                    probe.lines.push(json!("given up"));
                }
            }
            let told = Told { name: probe.name, plural: probe.plural, lines: probe.lines.take() };
            seen.push((told, probe.everything));
        }
        seen
    }
}

/// One raw watch.
struct Watch<'a> {
    name: &'a str,
    namespace: Option<usize>,
    query: String,
    accept: &'static str,
    end: Option<End>,
}

/// Starts all clients that look on while the history goes on; they are open when this returns.
pub async fn open(stage: &Stage) -> Result<Probes> {
    let mut probes = Probes::default();
    for kind in KINDS {
        let from = format!("resourceVersion={}", stage.revision(kind, 0));
        let everything = watch(stage, "everything", None, &from, JSON, Some("zz-none"));
        probes.watch(stage, kind, &everything);
        if let Some(probe) = probes.running.last_mut() {
            probe.everything = true;
        }
        let now = format!("resourceVersion={}", stage.revision(kind, 2));
        let live = [
            ("no revision", Some(0), String::new(), JSON, "zz-none"),
            ("revision 0", Some(0), "resourceVersion=0".to_owned(), JSON, "zz-none"),
            ("label, from now", Some(0), format!("{now}&labelSelector=tier%3Dfront"), JSON, "zz-front"),
            ("labels, all", None, "labelSelector=tier+in+(front,back)".to_owned(), JSON, "zz-front"),
            (
                "no label, bookmarks",
                Some(0),
                format!("{now}&allowWatchBookmarks=true&labelSelector=!tier"),
                JSON,
                "zz-none",
            ),
            ("initial events", Some(0), INITIAL.to_owned(), JSON, "zz-none"),
            ("initial events of 0", None, format!("{INITIAL}&resourceVersion=0"), JSON, "zz-none"),
            ("initial events, label", Some(0), format!("{INITIAL}&labelSelector=tier%3Dfront"), JSON, "zz-front"),
            ("initial events as Tables", Some(0), INITIAL.to_owned(), TABLE, "zz-none"),
            ("Tables", Some(0), String::new(), TABLE, "zz-none"),
            ("metadata", Some(0), format!("{INITIAL}&resourceVersion=0"), PARTIAL, "zz-none"),
            (
                "one namespace of all",
                None,
                format!("{now}&fieldSelector=metadata.namespace%3D{}", stage.namespaces[0]),
                JSON,
                "zz-none",
            ),
        ];
        for (name, namespace, query, accept, end) in live {
            probes.watch(stage, kind, &watch(stage, name, namespace, &query, accept, Some(end)));
        }
    }
    for (name, field) in
        [("on a node", "spec.nodeName%3Dn1"), ("on no node", "spec.nodeName%3D"), ("running", "status.phase%3DRunning")]
    {
        let end = if name == "on no node" { "base" } else { "zz-none" };
        let query = format!("fieldSelector={field}&resourceVersion={}", stage.revision(&PODS, 1));
        probes.watch(stage, &PODS, &watch(stage, name, Some(0), &query, JSON, Some(end)));
    }
    clients::start(stage, &mut probes)?;
    probes.opened().await;
    Ok(probes)
}

/// Watches that are opened when all is over: they replay, or are refused.
pub async fn replays(stage: &Stage) -> Result<Probes> {
    let mut probes = Probes::default();
    for kind in KINDS {
        let past = format!("resourceVersion={}", stage.revision(kind, 1));
        let replayed = [
            ("from the past", None, past.clone(), JSON, Some("zz-none")),
            ("from the past, bookmarks", Some(0), format!("{past}&allowWatchBookmarks=true"), JSON, Some("zz-none")),
            ("from the past, no label", Some(0), format!("{past}&labelSelector=!tier"), JSON, Some("zz-none")),
            (
                "from the past, unequal label",
                Some(0),
                format!("{past}&labelSelector=tier!%3Dfront,app"),
                JSON,
                Some("zz-none"),
            ),
            (
                "from the past, by name",
                Some(0),
                format!("{past}&fieldSelector=metadata.name%3Dbase"),
                JSON,
                Some("base"),
            ),
            (
                "from the past, but a name",
                Some(0),
                format!("{past}&fieldSelector=metadata.name!%3Do1"),
                JSON,
                Some("zz-none"),
            ),
            (
                "from the past, Tables with objects",
                Some(0),
                format!("{past}&includeObject=Object"),
                TABLE,
                Some("zz-none"),
            ),
            ("from the past, metadata", Some(0), past.clone(), PARTIAL, Some("zz-none")),
            ("initial events of the past", Some(0), format!("{INITIAL}&{past}"), JSON, Some("zz-none")),
            (
                "no initial events",
                Some(0),
                format!("sendInitialEvents=false&resourceVersionMatch=NotOlderThan&{past}"),
                JSON,
                Some("zz-none"),
            ),
            (
                "initial events without bookmarks",
                Some(0),
                "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1".to_owned(),
                JSON,
                None,
            ),
            ("initial events, ended by time", Some(0), format!("{INITIAL}&timeoutSeconds=1"), JSON, None),
        ];
        for (name, namespace, query, accept, end) in replayed {
            probes.watch(stage, kind, &watch(stage, name, namespace, &query, accept, end));
        }
        let object = format!("{}/base?watch=true&{past}", kind.within(&stage.namespaces[0]));
        let (client, end) = (stage.server.watcher(), Some(stage.end(0, "base")));
        probes.start(format!("{}: one object", kind.plural), kind.plural, |lines, opened| {
            follow(client, object, JSON, end, lines, opened)
        });
        let path = kind.within(&stage.namespaces[0]).replace("/v1/", "/v1/watch/");
        let (client, end) = (stage.server.watcher(), Some(stage.end(0, "zz-none")));
        probes.start(format!("{}: by the old path", kind.plural), kind.plural, |lines, opened| {
            follow(client, path, JSON, end, lines, opened)
        });
    }
    odd(stage, &mut probes);
    probes.opened().await;
    Ok(probes)
}

/// Parameters that lead nowhere, or that are refused.
fn odd(stage: &Stage, probes: &mut Probes) {
    let kind = &CONFIG_MAPS;
    let now: i64 = stage.revision(kind, 2).parse().unwrap_or_default();
    let (past, future) = (stage.revision(kind, 1), now + 1_000_000);
    let queries = [
        "timeoutSeconds=1&resourceVersion=PAST&labelSelector=none%3Dsuch",
        "timeoutSeconds=3&resourceVersion=PAST&labelSelector=none%3Dsuch&allowWatchBookmarks=true",
        "timeoutSeconds=3&labelSelector=none%3Dsuch&allowWatchBookmarks=true",
        "timeoutSeconds=1&resourceVersion=FUTURE",
        "timeoutSeconds=1&resourceVersion=FUTURE&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
        "timeoutSeconds=1&resourceVersion=1",
        "timeoutSeconds=1&resourceVersion=1&allowWatchBookmarks=true",
        "timeoutSeconds=1&resourceVersion=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan",
        "timeoutSeconds=1&resourceVersion=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=none%3Dsuch",
        "timeoutSeconds=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&labelSelector=none%3Dsuch",
        "timeoutSeconds=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=0&labelSelector=none%3Dsuch",
        "sendInitialEvents=true",
        "sendInitialEvents=true&resourceVersionMatch=Exact&resourceVersion=PAST",
        "sendInitialEvents=true&resourceVersionMatch=Odd",
        "sendInitialEvents=false",
        "sendInitialEvents=maybe&resourceVersionMatch=NotOlderThan&timeoutSeconds=1&labelSelector=none%3Dsuch",
        "resourceVersionMatch=NotOlderThan&resourceVersion=PAST",
        "resourceVersionMatch=Exact&resourceVersion=PAST",
        "resourceVersionMatch=NotOlderThan",
        "continue=abc",
        "limit=1&timeoutSeconds=1&labelSelector=zz%3Dnone",
        "resourceVersion=abc",
        "resourceVersion=-1",
        "timeoutSeconds=abc",
        "timeoutSeconds=-1",
        "allowWatchBookmarks=maybe&timeoutSeconds=1&labelSelector=zz%3Dnone",
        "labelSelector=a%3D%3D%3Db",
        "fieldSelector=spec.none%3D1",
        "fieldSelector=metadata.name",
        "includeObject=Odd&timeoutSeconds=1&labelSelector=zz%3Dnone",
        "limit=abc",
        "limit=-1",
    ];
    for query in queries {
        let asked = query.replace("PAST", past).replace("FUTURE", &future.to_string());
        let url = format!("{}?watch=true&{asked}", kind.within(&stage.namespaces[0]));
        let client = stage.server.watcher();
        probes.start(format!("configmaps, odd: {query}"), kind.plural, |lines, opened| async move {
            // A watch that the server keeps open all the same says nothing more.
            match timeout(BOUND / 2, follow(client, url, JSON, None, lines.clone(), opened)).await {
                Ok(done) => done,
                Err(_) => {
                    lines.push(Value::from("still open"));
                    Ok(())
                }
            }
        });
    }
}

fn watch<'a>(
    stage: &Stage,
    name: &'a str,
    namespace: Option<usize>,
    query: &str,
    accept: &'static str,
    end: Option<&str>,
) -> Watch<'a> {
    let ends_in = usize::from(namespace.is_none() && !query.contains("metadata.namespace"));
    let end = end.map(|end| stage.end(ends_in, end));
    Watch { name, namespace, query: query.to_owned(), accept, end }
}
