//! What happens in one namespace: Services, Pods and hand-written Endpoints that come, change and go, by chance. Not
//! responsible for sending it. Some writes may be refused, as long as both sides refuse them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::dice::Dice;
use crate::endpoints::objects;
use crate::side::Write;

/// Writes that are made one after the other, before the systems are given time to settle.
pub type Step = Vec<Write>;

struct Pod {
    shape: usize,
    address: usize,
    bound: bool,
    ready: bool,
    terminating: bool,
}

struct Service {
    selects: bool,
    external: bool,
}

struct History {
    namespace: String,
    /// Of namespaces: no two have pods with equal addresses.
    number: usize,
    nodes: Vec<String>,
    dice: Dice,
    services: BTreeMap<String, Service>,
    pods: BTreeMap<String, Pod>,
    endpoints: Vec<String>,
    addresses: usize,
    clock: usize,
    step: Step,
    /// Whether something has changed that the original only sees when something else happens.
    nudge: bool,
    /// Whether nothing more may happen in this step: what follows a Service's end depends on who looks when.
    closed: bool,
}

/// The steps of the history with this seed. The last takes everything away again.
pub fn generate(namespace: &str, number: usize, seed: u64, nodes: &[String], steps: usize) -> Vec<Step> {
    let mut history = History {
        namespace: namespace.to_owned(),
        number,
        nodes: nodes.to_vec(),
        dice: Dice::new(seed),
        services: BTreeMap::new(),
        pods: BTreeMap::new(),
        endpoints: Vec::new(),
        addresses: 0,
        clock: 0,
        step: Vec::new(),
        nudge: false,
        closed: false,
    };
    let mut all = vec![history.begin()];
    all.extend((2..steps).map(|_| history.proceed()));
    all.push(history.end());
    all
}

const NAMES: [&str; 4] = ["web", "db", "cache", "hand"];
const PODS: usize = 14;

impl History {
    fn path(&self, resource: &str, name: &str) -> String {
        let slash = if name.is_empty() { "" } else { "/" };
        format!("/api/v1/namespaces/{}/{resource}{slash}{name}", self.namespace)
    }

    fn begin(&mut self) -> Step {
        self.create_service(NAMES[0]);
        for number in 0..2 + self.dice.below(6) {
            self.create_pod(&format!("p{number}"));
        }
        std::mem::take(&mut self.step)
    }

    fn proceed(&mut self) -> Step {
        self.clock += 1;
        if self.dice.chance(10) {
            // Alone: while the original is writing anyway, it does not always notice.
            self.disturb();
            return std::mem::take(&mut self.step);
        }
        self.closed = false;
        for _ in 0..1 + self.dice.below(4) {
            if self.closed {
                break;
            }
            match self.dice.below(100) {
                0..55 => self.change_pod(),
                55..90 => self.change_service(),
                _ => self.change_endpoints(),
            }
        }
        if std::mem::take(&mut self.nudge) {
            let names: Vec<String> = self.services.keys().cloned().collect();
            let patch = json!({ "metadata": { "annotations": { "nudge": format!("pod {}", self.clock) } } });
            let nudges = names.iter().map(|name| Write::patch(self.path("services", name), patch.clone()));
            let nudges: Vec<Write> = nudges.collect();
            self.step.extend(nudges);
        }
        std::mem::take(&mut self.step)
    }

    fn end(&mut self) -> Step {
        let mut step = Vec::new();
        let now = json!({ "gracePeriodSeconds": 0 });
        step.extend(self.services.keys().map(|name| Write::delete(self.path("services", name), Value::Null)));
        step.extend(self.pods.keys().map(|name| Write::delete(self.path("pods", name), now.clone())));
        step
    }

    fn create_service(&mut self, name: &str) {
        let (object, selects, external) = objects::service(&mut self.dice, name);
        self.step.push(Write::post(self.path("services", ""), object));
        self.services.insert(name.to_owned(), Service { selects, external });
    }

    fn create_pod(&mut self, name: &str) {
        let shape = self.dice.below(objects::POD_SHAPES);
        // One in twenty waits for a scheduler, and has nothing to report.
        let node = if self.dice.chance(5) { None } else { Some(self.dice.pick(&self.nodes).clone()) };
        let object = objects::pod(&mut self.dice, name, shape, node.as_deref());
        self.step.push(Write::post(self.path("pods", ""), object));
        self.addresses += 1;
        let pod = Pod { shape, address: self.addresses, bound: node.is_some(), ready: false, terminating: false };
        self.pods.insert(name.to_owned(), pod);
        if self.dice.chance(85) {
            let ready = self.dice.chance(80);
            self.report(name, "Running", ready);
        }
    }

    /// What a kubelet would say.
    fn report(&mut self, name: &str, phase: &str, ready: bool) {
        let Some(pod) = self.pods.get_mut(name).filter(|pod| pod.bound) else { return };
        pod.ready = ready;
        let (number, families) = (self.number, pod.shape % 4);
        let status = objects::pod_status(number, pod.address, families, phase, ready, self.clock);
        self.step.push(Write::patch(format!("{}/status", self.path("pods", name)), json!({ "status": status })));
    }

    fn change_pod(&mut self) {
        let free: Vec<String> =
            (0..PODS).map(|number| format!("p{number}")).filter(|name| !self.pods.contains_key(name)).collect();
        let names: Vec<String> = self.pods.keys().cloned().collect();
        if names.is_empty() || (self.dice.chance(35) && !free.is_empty()) {
            let name = self.dice.pick(&free).clone();
            return self.create_pod(&name);
        }
        let name = self.dice.pick(&names).clone();
        let (ready, terminating) = self.pods.get(&name).map_or((false, false), |pod| (pod.ready, pod.terminating));
        match self.dice.below(100) {
            0..35 => self.report(&name, "Running", !ready),
            35..45 => {
                // Restarted with another address.
                self.addresses += 1;
                let address = self.addresses;
                self.pods.entry(name.clone()).and_modify(|pod| pod.address = address);
                self.report(&name, "Running", true);
            }
            45..52 => {
                let phase = *self.dice.pick(&["Succeeded", "Failed"]);
                self.report(&name, phase, false);
                self.nudge = true;
            }
            52..64 => {
                let labels = objects::pod_labels(&mut self.dice);
                self.step.push(Write::patch(self.path("pods", &name), json!({ "metadata": { "labels": labels } })));
            }
            64..82 if !terminating => {
                // Bound pods stay, terminating, until the kubelet is done.
                self.step.push(Write::delete(self.path("pods", &name), Value::Null));
                if self.pods.get(&name).is_some_and(|pod| pod.bound) {
                    self.pods.entry(name).and_modify(|pod| pod.terminating = true);
                } else {
                    self.pods.remove(&name);
                }
            }
            _ => {
                let now = json!({ "gracePeriodSeconds": 0 });
                self.step.push(Write::delete(self.path("pods", &name), now));
                self.pods.remove(&name);
                if self.dice.chance(25) {
                    self.create_pod(&name);
                }
            }
        }
    }

    fn change_service(&mut self) {
        let name = *self.dice.pick(&NAMES);
        let Some((selects, external)) = self.services.get(name).map(|service| (service.selects, service.external))
        else {
            return self.create_service(name);
        };
        let patch = match self.dice.below(100) {
            0..16 => json!({ "spec": { "ports": objects::ports(&mut self.dice) } }),
            16..30 if selects => json!({ "spec": { "selector": objects::other_selector(&mut self.dice) } }),
            30..42 => json!({ "metadata": { "labels": objects::service_labels(&mut self.dice) } }),
            42..52 => json!({ "spec": { "publishNotReadyAddresses": self.dice.chance(50) } }),
            52..66 => json!({ "spec": { "trafficDistribution": objects::distribution(&mut self.dice) } }),
            66..74 => {
                let mode = if self.dice.chance(30) { Value::Null } else { json!("Auto") };
                json!({ "metadata": { "annotations": { "service.kubernetes.io/topology-mode": mode } } })
            }
            74..82 => {
                self.services.entry(name.to_owned()).and_modify(|service| service.external = !external);
                objects::flip_external(external)
            }
            82..88 => {
                self.services.entry(name.to_owned()).and_modify(|service| service.selects = !selects);
                let selector = if selects { Value::Null } else { json!({ "app": "a" }) };
                json!({ "spec": { "selector": selector } })
            }
            88..91 => objects::families(&mut self.dice),
            _ => {
                self.step.push(Write::delete(self.path("services", name), Value::Null));
                self.services.remove(name);
                if self.dice.chance(60) && !self.endpoints.iter().any(|held| held == name) {
                    self.create_service(name);
                }
                self.endpoints.retain(|held| held != name);
                self.closed = true;
                return;
            }
        };
        self.step.push(Write::patch(self.path("services", name), patch));
    }

    /// Endpoints by hand for Services without a selector.
    fn change_endpoints(&mut self) {
        if !self.step.is_empty() {
            return;
        }
        self.closed = true;
        let bare = |service: &Service| !service.selects;
        let Some(name) = self.services.iter().find(|(_, service)| bare(service)).map(|(name, _)| name.clone()) else {
            if !self.services.contains_key("hand") {
                let object = objects::bare_service(&mut self.dice, "hand");
                self.step.push(Write::post(self.path("services", ""), object));
                self.services.insert("hand".to_owned(), Service { selects: false, external: false });
            }
            return;
        };
        let object = objects::endpoints(&mut self.dice, &name, &self.nodes);
        let path = self.path("endpoints", &name);
        if !self.endpoints.contains(&name) {
            self.endpoints.push(name);
            self.step.push(Write::delete(path, Value::Null));
            return self.step.push(Write::post(self.path("endpoints", ""), object));
        }
        if self.dice.chance(20) {
            self.endpoints.retain(|held| *held != name);
            return self.step.push(Write::delete(path, Value::Null));
        }
        let metadata =
            json!({ "labels": object["metadata"]["labels"], "annotations": object["metadata"]["annotations"] });
        self.step.push(Write::patch(path, json!({ "subsets": object["subsets"], "metadata": metadata })));
    }

    /// Somebody takes away what a controller keeps.
    fn disturb(&mut self) {
        let selecting = |service: &Service| service.selects && !service.external;
        let Some(name) = self.services.iter().find(|(_, service)| selecting(service)).map(|(name, _)| name.clone())
        else {
            return;
        };
        if self.dice.chance(50) {
            return self.step.push(Write::delete(self.path("endpoints", &name), Value::Null));
        }
        let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", self.namespace);
        let of_service = format!("{slices}?labelSelector=kubernetes.io%2Fservice-name%3D{name}");
        self.step.push(Write::delete(of_service, Value::Null));
    }
}
