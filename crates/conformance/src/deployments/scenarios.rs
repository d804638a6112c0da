//! What happens to Deployments and ReplicaSets: the cases that the original's documentation and tests name, and scenarios
//! by chance. An image's name says how its pods fare (`kubelet`). Not responsible for sending anything.

use std::time::Duration;

use serde_json::{Value, json};

use super::limits::Promise;
use crate::deployments::kubelet;
use crate::dice::Dice;
use crate::side::{Side, Write};

type Writes = Box<dyn Fn(&Side, &str) -> Vec<Write> + Send + Sync>;

/// Writes, after which both sides settle, or do not get the time to.
pub struct Act {
    pub what: String,
    pub writes: Writes,
    /// Go on after this long, whatever state that is.
    pub moment: Option<Duration>,
    /// Compare no sooner than this.
    pub at_least: Duration,
}

pub struct Scenario {
    pub name: String,
    pub acts: Vec<Act>,
    pub promise: Option<Promise>,
}

impl Act {
    fn new(what: &str, writes: impl Fn(&Side, &str) -> Vec<Write> + Send + Sync + 'static) -> Self {
        Act { what: what.to_owned(), writes: Box::new(writes), moment: None, at_least: Duration::ZERO }
    }

    /// The next act does not wait for this one.
    fn hurried(mut self, milliseconds: u64) -> Self {
        self.moment = Some(Duration::from_millis(milliseconds));
        self
    }

    fn after(mut self, seconds: u64) -> Self {
        self.at_least = Duration::from_secs(seconds);
        self
    }
}

fn path(namespace: &str, resource: &str, name: &str) -> String {
    let group = if resource == "pods" { "/api/v1" } else { "/apis/apps/v1" };
    let slash = if name.is_empty() { "" } else { "/" };
    format!("{group}/namespaces/{namespace}/{resource}{slash}{name}")
}

fn template(image: &str) -> Value {
    json!({ "metadata": { "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "c", "image": image }] } })
}

/// Creates the Deployment `web` with further fields of its spec.
fn create(replicas: usize, image: &str, more: Value) -> Act {
    let mut spec = json!({ "replicas": replicas, "selector": { "matchLabels": { "app": "web" } },
                           "template": template(image) });
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    let object = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" }, "spec": spec });
    Act::new("create", move |_, namespace| vec![Write::post(path(namespace, "deployments", ""), object.clone())])
}

fn patch(body: Value) -> Act {
    let what = body.to_string();
    Act::new(&what, move |_, namespace| vec![Write::patch(path(namespace, "deployments", "web"), body.clone())])
}

fn spec(spec: Value) -> Act {
    patch(json!({ "spec": spec }))
}

fn image(image: &str) -> Act {
    spec(json!({ "template": { "spec": { "containers": [{ "name": "c", "image": image }] } } }))
}

fn scale(replicas: usize) -> Act {
    spec(json!({ "replicas": replicas }))
}

fn delete(resource: &'static str, name: &'static str, policy: &'static str) -> Act {
    Act::new(&format!("delete {resource} {name}: {policy}"), move |_, namespace| {
        vec![Write::delete(path(namespace, resource, name), json!({ "propagationPolicy": policy }))]
    })
}

/// A patch of each object of a resource, in order of name.
fn each(resource: &'static str, subresource: &'static str, first: usize, body: Value) -> Act {
    Act::new(&format!("{first} {resource}: {body}"), move |side, namespace| {
        let objects = side.objects(resource, namespace);
        let names = objects.iter().filter_map(|object| object["metadata"]["name"].as_str()).take(first);
        names
            .map(|name| Write::patch(format!("{}{subresource}", path(namespace, resource, name)), body.clone()))
            .collect()
    })
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({ "strategy": { "type": "RollingUpdate",
                          "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } } })
}

fn scenario(name: &str, acts: Vec<Act>) -> Scenario {
    Scenario { name: name.to_owned(), acts, promise: None }
}

fn promising(name: &str, least_available: usize, most_wanted: u64, acts: Vec<Act>) -> Scenario {
    Scenario { promise: Some(Promise { least_available, most_wanted }), ..scenario(name, acts) }
}

/// Every case that is written down.
pub fn written() -> Vec<Scenario> {
    let mut all = rollouts();
    all.extend(fences());
    all.extend(pauses());
    all.extend(scaling());
    all.extend(deadlines());
    all.extend(ownership());
    all.extend(sets());
    all
}

fn rollouts() -> Vec<Scenario> {
    let recreate = || json!({ "strategy": { "type": "Recreate" } });
    let limited = |limit: usize| json!({ "revisionHistoryLimit": limit });
    let many = || ["good-2", "good-3", "good-4", "good-5"].map(image);
    let mut kept = vec![create(2, "good-1", limited(1))];
    kept.extend(many());
    let mut none = vec![create(2, "good-1", limited(0))];
    none.extend(many());
    vec![
        promising("rollout", 3, 5, vec![create(4, "good-1", json!({})), image("good-2"), image("slow-3")]),
        scenario(
            "undo",
            vec![
                create(3, "good-1", json!({})),
                image("good-2"),
                image("good-3"),
                image("good-1"),
                image("good-2"),
                image("good-1"),
            ],
        ),
        scenario("history of one", kept),
        scenario("no history", none),
        scenario(
            "lower limit later",
            vec![create(1, "good-1", json!({})), image("good-2"), image("good-3"), image("good-4"), spec(limited(1))],
        ),
        scenario(
            "rollover",
            vec![
                create(4, "good-1", json!({})),
                image("slow-2").hurried(300),
                image("slow-3").hurried(300),
                image("good-4"),
            ],
        ),
        scenario("back before done", vec![create(4, "good-1", json!({})), image("bad-2"), image("good-1")]),
        scenario("recreate", vec![create(3, "good-1", recreate()), image("good-2"), image("bad-3"), image("good-1")]),
        scenario(
            "recreate rollover",
            vec![create(3, "good-1", recreate()), image("slow-2").hurried(200), image("good-3")],
        ),
        scenario(
            "strategy changes",
            vec![
                create(3, "good-1", json!({})),
                image("bad-2"),
                patch(json!({ "spec": { "strategy": { "type": "Recreate", "rollingUpdate": null } } })),
                image("good-3"),
            ],
        ),
        scenario(
            "annotations",
            vec![
                create(2, "good-1", json!({})),
                patch(json!({ "metadata": { "annotations": { "kubernetes.io/change-cause": "first", "x": "1" } } })),
                image("good-2"),
                patch(json!({ "metadata": { "annotations": { "x": "2", "kubernetes.io/change-cause": null } } })),
                patch(json!({ "metadata": { "labels": { "team": "a" } } })),
            ],
        ),
        scenario(
            "min ready seconds",
            vec![
                create(2, "good-1", json!({ "minReadySeconds": 3 })),
                image("good-2"),
                spec(json!({ "minReadySeconds": 1 })),
                image("good-3"),
            ],
        ),
        scenario(
            "template labels",
            vec![
                create(2, "good-1", json!({})),
                spec(json!({ "template": { "metadata": { "labels": { "more": "1" }, "annotations": { "a": "b" } } } })),
            ],
        ),
    ]
}

fn fences() -> Vec<Scenario> {
    let cases: [(usize, Value, Value, usize, u64); 9] = [
        (10, json!("25%"), json!("25%"), 8, 13),
        (3, json!("30%"), json!(0), 3, 4),
        (4, json!(0), json!(1), 3, 4),
        (1, json!("25%"), json!("25%"), 1, 2),
        (7, json!("100%"), json!("0%"), 7, 14),
        (5, json!("0%"), json!("50%"), 3, 5),
        (3, json!(1), json!("0%"), 3, 4),
        (3, json!("0%"), json!("10%"), 2, 3),
        (2, json!(0), json!("100%"), 0, 2),
    ];
    let scenarios = cases.into_iter().map(|(replicas, surge, unavailable, least, most)| {
        let name = format!("{replicas} pods, surge {surge}, unavailable {unavailable}");
        let acts = vec![
            create(replicas, "good-1", rolling(surge, unavailable)),
            image("good-2"),
            image("bad-3"),
            image("good-2"),
        ];
        promising(&name, least, most, acts)
    });
    scenarios.collect()
}

fn pauses() -> Vec<Scenario> {
    let pause = |on: bool| spec(json!({ "paused": on }));
    vec![
        scenario("pause", vec![create(3, "good-1", json!({})), pause(true), image("good-2"), scale(5), pause(false)]),
        scenario("born paused", vec![create(3, "good-1", json!({ "paused": true })), scale(2), pause(false)]),
        scenario(
            "pause in flight",
            vec![
                create(6, "good-1", json!({})),
                image("bad-2"),
                pause(true),
                scale(12),
                scale(3),
                pause(false),
                image("good-3"),
            ],
        ),
        scenario(
            "pause without deadline",
            vec![
                create(2, "good-1", json!({ "progressDeadlineSeconds": i32::MAX })),
                pause(true),
                image("good-2"),
                pause(false),
            ],
        ),
        scenario(
            "pause after the deadline",
            vec![
                create(2, "bad-1", json!({ "progressDeadlineSeconds": 2 })).after(5),
                pause(true),
                pause(false).after(5),
            ],
        ),
    ]
}

fn scaling() -> Vec<Scenario> {
    vec![
        scenario("scale", vec![create(2, "good-1", json!({})), scale(7), scale(1), scale(0), scale(3)]),
        scenario(
            "scale in flight",
            vec![create(10, "good-1", json!({})), image("bad-2"), scale(15), scale(20), scale(5), image("good-1")],
        ),
        scenario(
            "scale in flight, three sets",
            vec![
                create(10, "good-1", rolling(json!(3), json!(2))),
                image("bad-2"),
                image("bad-3"),
                scale(20),
                scale(9),
                scale(0),
                scale(4),
                image("good-4"),
            ],
        ),
        scenario(
            "scale to nothing in flight",
            vec![create(5, "good-1", json!({})), image("bad-2"), scale(0), image("good-3"), scale(5)],
        ),
        scenario(
            "scale and image at once",
            vec![
                create(4, "good-1", json!({})),
                spec(
                    json!({ "replicas": 8, "template": { "spec": { "containers": [{ "name": "c", "image": "good-2" }] } } }),
                ),
                spec(
                    json!({ "replicas": 3, "template": { "spec": { "containers": [{ "name": "c", "image": "bad-3" }] } } }),
                ),
            ],
        ),
        scenario(
            "surge changes in flight",
            vec![
                create(10, "good-1", json!({})),
                image("bad-2"),
                spec(rolling(json!(5), json!(0))),
                spec(rolling(json!(0), json!(5))),
            ],
        ),
    ]
}

fn deadlines() -> Vec<Scenario> {
    let deadline = |seconds: i32| json!({ "progressDeadlineSeconds": seconds });
    vec![
        scenario("deadline", vec![create(2, "good-1", deadline(3)), image("bad-2").after(6), image("good-3")]),
        scenario("deadline at birth", vec![create(2, "bad-1", deadline(3)).after(6), image("good-2")]),
        scenario(
            "deadline, then undo",
            vec![create(2, "good-1", deadline(3)), image("bad-2").after(6), image("good-1"), image("bad-3").after(6)],
        ),
        scenario(
            "deadline, then scaled",
            vec![create(4, "good-1", deadline(3)), image("bad-2").after(6), scale(8), scale(2)],
        ),
        scenario("no deadline", vec![create(2, "good-1", deadline(i32::MAX)), image("bad-2"), image("good-3")]),
        scenario(
            "deadline taken away",
            vec![create(2, "good-1", deadline(3)), image("bad-2").after(6), spec(deadline(i32::MAX)), image("good-3")],
        ),
        scenario(
            "deadline of recreate",
            vec![
                create(2, "good-1", json!({ "progressDeadlineSeconds": 3, "strategy": { "type": "Recreate" } })),
                image("stuck-2").after(6),
            ],
        ),
    ]
}

fn set(name: &'static str, replicas: usize, labels: Value, image: &'static str) -> Act {
    Act::new(&format!("create ReplicaSet {name}"), move |_, namespace| {
        let object = json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": { "name": name, "labels": labels },
            "spec": { "replicas": replicas, "selector": { "matchLabels": labels },
                      "template": { "metadata": { "labels": labels },
                                    "spec": { "containers": [{ "name": "c", "image": image }] } } } });
        vec![Write::post(path(namespace, "replicasets", ""), object)]
    })
}

fn ownership() -> Vec<Scenario> {
    let again = || create(3, "good-1", json!({}));
    let strip = || {
        let labels = json!({ "metadata": { "labels": { "app": "other" } } });
        each("replicasets", "", 1, labels)
    };
    vec![
        scenario(
            "orphaned and adopted",
            vec![again(), delete("deployments", "web", "Orphan"), again(), image("good-2")],
        ),
        scenario("adopts an old set", vec![set("manual", 2, json!({ "app": "web" }), "good-0"), again()]),
        scenario("adopts a set with its template", vec![set("manual", 2, json!({ "app": "web" }), "good-1"), again()]),
        scenario("releases a set", vec![again(), strip()]),
        scenario("collision", vec![again(), delete("deployments", "web", "Orphan"), strip(), again()]),
        scenario(
            "deleted in the background",
            vec![again(), image("good-2"), delete("deployments", "web", "Background")],
        ),
        scenario("deleted in the foreground", vec![again(), delete("deployments", "web", "Foreground")]),
        scenario(
            "a set deleted under it",
            vec![
                again(),
                Act::new("delete its sets", |side, namespace| {
                    let sets = side.objects("replicasets", namespace);
                    let names = sets.iter().filter_map(|set| set["metadata"]["name"].as_str());
                    names.map(|name| Write::delete(path(namespace, "replicasets", name), Value::Null)).collect()
                }),
            ],
        ),
        scenario(
            "a set scaled under it",
            vec![again(), each("replicasets", "", 1, json!({ "spec": { "replicas": 1 } }))],
        ),
        scenario(
            "two with one selector",
            vec![
                again(),
                Act::new("create rival", |_, namespace| {
                    let object = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "rival" },
                "spec": { "replicas": 2, "selector": { "matchLabels": { "app": "web" } },
                          "template": template("good-9") } });
                    vec![Write::post(path(namespace, "deployments", ""), object)]
                }),
                image("good-2"),
            ],
        ),
    ]
}

fn sets() -> Vec<Scenario> {
    let alone = |replicas| set("alone", replicas, json!({ "app": "alone" }), "good-1");
    let rescale = |replicas: usize| each("replicasets", "", 1, json!({ "spec": { "replicas": replicas } }));
    let failed = || each("pods", "/status", 1, kubelet::status("Failed", false));
    let unready = || each("pods", "/status", 2, kubelet::status("Running", false));
    vec![
        scenario("a set alone", vec![alone(3), rescale(5), rescale(1), rescale(0)]),
        scenario("a set's pods fail", vec![alone(3), failed()]),
        scenario("a set's pods become unready", vec![alone(3), unready(), rescale(1)]),
        scenario(
            "a set's pod is released and comes back",
            vec![
                alone(3),
                each("pods", "", 1, json!({ "metadata": { "labels": { "app": "gone" } } })),
                each("pods", "", 9, json!({ "metadata": { "labels": { "app": "alone" } } })),
            ],
        ),
        scenario("a set orphans its pods", vec![alone(2), delete("replicasets", "alone", "Orphan"), alone(3)]),
        scenario("a set in the foreground", vec![alone(2), delete("replicasets", "alone", "Foreground")]),
        scenario("unready in a deployment", vec![create(4, "good-1", json!({})), unready(), image("good-2")]),
        scenario("failed in a deployment", vec![create(4, "good-1", json!({})), failed(), image("good-2")]),
        scenario(
            "its pods are deleted",
            vec![
                create(3, "good-1", json!({})),
                Act::new("delete pods", |side, namespace| {
                    let pods = side.objects("pods", namespace);
                    let names = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).take(2);
                    names.map(|name| Write::delete(path(namespace, "pods", name), Value::Null)).collect()
                }),
            ],
        ),
    ]
}

/// A scenario by chance. Its acts follow each other when both sides are still: in flight, what an act meets would be
/// chance itself.
pub fn random(seed: u64) -> Scenario {
    let mut dice = Dice::new(seed);
    let size = 1 + dice.below(9);
    let surge = dice.pick(&[json!(0), json!(1), json!("25%"), json!("50%")]).clone();
    let unavailable = dice.pick(&[json!(1), json!("25%"), json!("50%"), json!(2)]).clone();
    let more =
        if dice.chance(15) { json!({ "strategy": { "type": "Recreate" } }) } else { rolling(surge, unavailable) };
    let mut acts = vec![create(size, "good-1", more)];
    for number in 0..3 + dice.below(5) {
        acts.push(match dice.below(100) {
            0..35 => image(&format!("good-{}", dice.below(4))),
            35..55 => image(&format!("bad-{}", dice.below(3))),
            55..80 => scale(dice.below(14)),
            80..88 => spec(json!({ "paused": true })),
            88..95 => spec(json!({ "paused": false })),
            _ => spec(json!({ "revisionHistoryLimit": dice.below(3), "minReadySeconds": number % 2 })),
        });
    }
    acts.push(spec(json!({ "paused": false })));
    acts.push(image("good-7"));
    scenario(&format!("by chance {seed}"), acts)
}
