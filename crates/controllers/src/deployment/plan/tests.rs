//! Rollouts played to their end on a cluster of values.

use k8s_openapi::api::apps::v1::ReplicaSetStatus;
use serde_json::{Value, json};

use super::*;
use crate::deployment::revision::{DESIRED, HASH, HISTORY, REVISION};

/// A Deployment and its sets; pods appear as fast as sets ask for them.
struct World {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    clock: Timestamp,
    notes: Vec<String>,
    made: i64,
}

fn deployment(spec: Value) -> Deployment {
    let mut whole = json!({
        "replicas": 4, "selector": { "matchLabels": { "app": "web" } }, "progressDeadlineSeconds": 600,
        "revisionHistoryLimit": 2, "template": template("v1"),
        "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": "25%" } },
    });
    whole.as_object_mut().unwrap().extend(spec.as_object().cloned().unwrap());
    let metadata = json!({ "name": "web", "namespace": "default", "uid": "d-1", "generation": 1 });
    serde_json::from_value(json!({ "metadata": metadata, "spec": whole })).unwrap()
}

fn template(image: &str) -> Value {
    json!({ "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [{ "name": "c", "image": image }] } })
}

impl World {
    fn new(spec: Value) -> Self {
        let clock = "2026-01-01T00:00:00Z".parse().unwrap();
        Self { deployment: deployment(spec), sets: Vec::new(), clock, notes: Vec::new(), made: 0 }
    }

    /// One look, its writes, and (if `ready`) pods that come up and go at once.
    fn step(&mut self, ready: bool) -> Plan {
        let plan = plan(&self.deployment, &self.sets, &BTreeMap::new(), self.clock);
        if let Some(revision) = plan.revision {
            let annotations = self.deployment.metadata.annotations.get_or_insert_default();
            annotations.insert(REVISION.to_owned(), revision.to_string());
        }
        for set in plan.create.iter().chain(&plan.update) {
            let mut set = set.clone();
            self.sets.retain(|held| held.name_any() != set.name_any());
            if set.metadata.uid.is_none() {
                self.made += 1;
                set.metadata.uid = set.metadata.name.clone();
                set.metadata.creation_timestamp =
                    serde_json::from_value(json!(format!("2026-01-01T00:00:{:02}Z", self.made))).unwrap();
            }
            self.sets.push(Arc::new(set));
        }
        self.sets.retain(|set| !plan.delete.iter().any(|gone| gone.name_any() == set.name_any()));
        self.sets.sort_by_key(|set| set.name_any());
        if let Some(status) = &plan.status {
            self.deployment.status = Some(status.clone());
        }
        if ready {
            for set in &mut self.sets {
                let size = set_replicas(set);
                let count = Some(size).filter(|size| *size > 0);
                let set = Arc::make_mut(set);
                set.status = Some(ReplicaSetStatus {
                    replicas: size,
                    ready_replicas: count,
                    available_replicas: count,
                    observed_generation: set.metadata.generation,
                    ..ReplicaSetStatus::default()
                });
            }
        }
        self.notes.extend(plan.notes.clone());
        plan
    }

    /// Steps until nothing is written, checking the fence all the way.
    fn settle(&mut self) {
        let (surge, unavailable) = (scale::fence(&self.deployment).surge, scale::fence(&self.deployment).unavailable);
        for _ in 0..50 {
            let before = self.sets.iter().map(|set| status::available_in(set)).sum::<i32>();
            let plan = self.step(true);
            let wanted = replicas(&self.deployment);
            let total: i32 = self.sets.iter().map(|set| set_replicas(set)).sum();
            if !scale::is_recreate(&self.deployment) && before >= wanted {
                assert!(total <= wanted + surge && total >= wanted - unavailable, "{total} pods of {wanted}");
            }
            if plan == (Plan { look_again: plan.look_again, ..Plan::default() }) {
                return;
            }
        }
        panic!("the rollout does not settle: {:#?}", self.notes);
    }

    fn set_image(&mut self, image: &str) {
        self.deployment.spec.as_mut().unwrap().template = serde_json::from_value(template(image)).unwrap();
        self.deployment.metadata.generation = self.deployment.metadata.generation.map(|generation| generation + 1);
    }

    fn sizes(&self) -> Vec<(i64, i32)> {
        let mut sizes: Vec<_> = self.sets.iter().map(|set| (revision::of(set.meta()), set_replicas(set))).collect();
        sizes.sort();
        sizes
    }

    fn reason(&self, kind: &str) -> String {
        let conditions = self.deployment.status.as_ref().unwrap().conditions.as_ref().unwrap();
        conditions.iter().find(|condition| condition.type_ == kind).unwrap().reason.clone().unwrap()
    }
}

#[test]
fn a_new_deployment_makes_one_set_and_completes() {
    let mut world = World::new(json!({}));
    world.settle();
    assert_eq!(world.sizes(), [(1, 4)]);
    let set = &world.sets[0];
    let hash = &set.labels()[HASH];
    assert_eq!(set.name_any(), format!("web-{hash}"));
    assert_eq!(&set.spec.as_ref().unwrap().selector.match_labels.as_ref().unwrap()[HASH], hash);
    assert_eq!((set.annotations()[DESIRED].as_str(), world.deployment.annotations()[REVISION].as_str()), ("4", "1"));
    assert_eq!(
        (world.reason("Progressing"), world.reason("Available")),
        ("NewReplicaSetAvailable".into(), "MinimumReplicasAvailable".into())
    );
    assert_eq!(world.notes, [format!("Scaled up replica set {} from 0 to 4", set.name_any())]);
}

#[test]
fn a_rolling_update_keeps_within_the_fence_and_undo_reuses_the_old_set() {
    let mut world = World::new(json!({}));
    world.settle();
    world.set_image("v2");
    world.settle();
    assert_eq!(world.sizes(), [(1, 0), (2, 4)]);
    world.set_image("v1");
    world.settle();
    assert_eq!(world.sizes(), [(2, 0), (3, 4)], "the set of revision 1 has become revision 3");
    let back = world.sets.iter().find(|set| revision::of(set.meta()) == 3).unwrap();
    assert_eq!(back.annotations()[HISTORY], "1");
    assert_eq!(world.deployment.annotations()[REVISION], "3");
}

#[test]
fn unready_pods_stop_the_rollout_until_the_deadline_says_so() {
    let mut world = World::new(json!({ "replicas": 4 }));
    world.settle();
    world.set_image("broken");
    (0..5).for_each(|_| drop(world.step(false)));
    assert_eq!(world.sizes(), [(1, 3), (2, 2)], "one surged, one unavailable, no more");
    let waiting = world.step(false).look_again.unwrap();
    assert!(waiting.as_secs() > 500 && waiting.as_secs() <= 601);
    world.clock += SignedDuration::from_secs(601);
    world.step(false);
    assert_eq!(world.reason("Progressing"), "ProgressDeadlineExceeded");
    let settled = world.step(false);
    assert_eq!(settled, Plan::default(), "a second look writes nothing");
}

use k8s_openapi::jiff::SignedDuration;

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut world = World::new(json!({ "strategy": { "type": "Recreate" } }));
    world.settle();
    world.set_image("v2");
    world.step(true);
    assert_eq!(world.sizes(), [(1, 0)]);
    let running = BTreeMap::from([(world.sets[0].uid().unwrap(), 1)]);
    assert!(plan(&world.deployment, &world.sets, &running, world.clock).create.is_none());
    world.settle();
    assert_eq!(world.sizes(), [(1, 0), (2, 4)]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    let mut world = World::new(
        json!({ "replicas": 10, "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 3, "maxUnavailable": 2 } } }),
    );
    world.settle();
    world.set_image("v2");
    (0..5).for_each(|_| drop(world.step(false)));
    assert_eq!(world.sizes(), [(1, 8), (2, 5)], "the example of the Kubernetes documentation");
    world.deployment.spec.as_mut().unwrap().replicas = Some(15);
    world.step(false);
    assert_eq!(world.sizes(), [(1, 11), (2, 7)]);
}

#[test]
fn paused_deployments_scale_but_do_not_roll() {
    let mut world = World::new(json!({}));
    world.settle();
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    world.set_image("v2");
    world.deployment.spec.as_mut().unwrap().replicas = Some(6);
    world.settle();
    assert_eq!((world.sizes(), world.reason("Progressing")), (vec![(1, 6)], "DeploymentPaused".into()));
    world.deployment.spec.as_mut().unwrap().paused = Some(false);
    world.settle();
    assert_eq!(world.sizes(), [(1, 0), (2, 6)]);
}

#[test]
fn history_is_cut_to_its_limit() {
    let mut world = World::new(json!({}));
    for image in ["v1", "v2", "v3", "v4", "v5"] {
        world.set_image(image);
        world.settle();
    }
    assert_eq!(world.sizes(), [(3, 0), (4, 0), (5, 4)]);
}

#[test]
fn fences_round_as_upstream_does() {
    let fence = |replicas: i32, surge: Value, unavailable: Value| {
        let rolling = json!({ "maxSurge": surge, "maxUnavailable": unavailable });
        let fence =
            scale::fence(&deployment(json!({ "replicas": replicas, "strategy": { "rollingUpdate": rolling } })));
        (fence.surge, fence.unavailable)
    };
    assert_eq!(fence(3, json!("25%"), json!("25%")), (1, 0));
    assert_eq!(fence(10, json!("25%"), json!("25%")), (3, 2));
    assert_eq!(fence(4, json!(0), json!(0)), (0, 1));
    assert_eq!(fence(2, json!(0), json!(5)), (0, 2));
}
