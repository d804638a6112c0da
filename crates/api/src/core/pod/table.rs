//! A Pod's row, as `kubectl get pods` shows it: what its containers do, in one word.

use serde_json::Value;

use crate::resource::Column;
use crate::table::{AGE, NAME, age, human_duration, or};
use crate::tree::{absent, flag, int, list, text};

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Ready", "How many of its containers are ready."),
    Column::text("Status", "What its containers do, taken together."),
    Column::text("Restarts", "How often its containers were restarted, and when last."),
    AGE,
    Column::text("IP", "Its address.").wide(),
    Column::text("Node", "Where it runs.").wide(),
    Column::text("Nominated Node", "Where room is being made for it.").wide(),
    Column::text("Readiness Gates", "How many of its own conditions are met.").wide(),
];

pub(super) fn cells(pod: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let summary = Summary::of(pod);
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, human_duration(now.as_second() - last.as_second()))
        }
        _ => summary.restarts.to_string(),
    };
    let ip = or(text(&status["podIPs"][0]["ip"]), text(&status["podIP"]));
    vec![
        pod["metadata"]["name"].clone(),
        format!("{}/{}", summary.ready, summary.containers).into(),
        summary.reason.into(),
        restarts.into(),
        age(pod, now).into(),
        or(ip, "<none>").into(),
        or(text(&spec["nodeName"]), "<none>").into(),
        or(text(&status["nominatedNodeName"]), "<none>").into(),
        readiness_gates(pod).into(),
    ]
}

/// What the containers amount to.
struct Summary {
    reason: String,
    ready: usize,
    containers: usize,
    restarts: i64,
    last_restart: Option<jiff::Timestamp>,
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let sidecars = list(&spec["initContainers"]).iter().filter(|container| is_sidecar(container)).count();
        let mut summary = Summary {
            reason: or(text(&status["reason"]), text(&status["phase"])).to_owned(),
            ready: 0,
            containers: list(&spec["containers"]).len() + sidecars,
            restarts: 0,
            last_restart: None,
        };
        let gated = |c: &Value| text(&c["type"]) == "PodScheduled" && text(&c["reason"]) == "SchedulingGated";
        if list(&status["conditions"]).iter().any(gated) {
            summary.reason = "SchedulingGated".to_owned();
        }
        let initializing = summary.add_init_containers(pod);
        if !initializing || has_condition(pod, "Initialized") {
            summary.add_containers(pod);
        }
        if !absent(&pod["metadata"]["deletionTimestamp"]) {
            if text(&status["reason"]) == "NodeLost" {
                summary.reason = "Unknown".to_owned();
            } else if !matches!(text(&status["phase"]), "Failed" | "Succeeded") {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Goes through the init containers up to the one that is at work; answers whether there is one.
    fn add_init_containers(&mut self, pod: &Value) -> bool {
        let specs = list(&pod["spec"]["initContainers"]);
        for (i, container) in list(&pod["status"]["initContainerStatuses"]).iter().enumerate() {
            self.count_restarts(container);
            let sidecar = specs.iter().any(|spec| spec["name"] == container["name"] && is_sidecar(spec));
            let (end, waiting) = (&container["state"]["terminated"], &container["state"]["waiting"]);
            let ended = !absent(end);
            if ended && int(&end["exitCode"]) == 0 {
                continue;
            }
            if sidecar && flag(&container["started"]) {
                self.ready += usize::from(flag(&container["ready"]));
                continue;
            }
            let why = text(&waiting["reason"]);
            self.reason = if ended {
                format!("Init:{}", end_text(end))
            } else if !why.is_empty() && why != "PodInitializing" {
                format!("Init:{why}")
            } else {
                format!("Init:{i}/{}", specs.len())
            };
            return true;
        }
        false
    }

    fn add_containers(&mut self, pod: &Value) {
        self.keep_sidecar_restarts(pod);
        let (mut running, mut failure) = (false, String::new());
        for container in list(&pod["status"]["containerStatuses"]).iter().rev() {
            self.count_restarts(container);
            let state = &container["state"];
            let (end, waiting) = (&state["terminated"], text(&state["waiting"]["reason"]));
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if !absent(end) {
                self.reason = end_text(end);
                if int(&end["exitCode"]) != 0 {
                    failure.clone_from(&self.reason);
                }
            } else if flag(&container["ready"]) && !absent(&state["running"]) {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" {
            self.reason = match (running, failure.is_empty()) {
                (true, _) if has_condition(pod, "Ready") => "Running".to_owned(),
                (_, false) => failure,
                (true, true) => "NotReady".to_owned(),
                (false, true) => return,
            };
        }
    }

    /// Once the containers run, only the restarts of those that still run count.
    fn keep_sidecar_restarts(&mut self, pod: &Value) {
        self.restarts = 0;
        self.last_restart = None;
        let specs = list(&pod["spec"]["initContainers"]);
        for container in list(&pod["status"]["initContainerStatuses"]) {
            if specs.iter().any(|spec| spec["name"] == container["name"] && is_sidecar(spec)) {
                self.count_restarts(container);
            }
        }
    }

    fn count_restarts(&mut self, container: &Value) {
        self.restarts += int(&container["restartCount"]);
        let finished = text(&container["lastState"]["terminated"]["finishedAt"]).parse().ok();
        self.last_restart = self.last_restart.max(finished);
    }
}

fn is_sidecar(container: &Value) -> bool {
    text(&container["restartPolicy"]) == "Always"
}

fn end_text(end: &Value) -> String {
    match (text(&end["reason"]), int(&end["signal"])) {
        ("", 0) => format!("ExitCode:{}", int(&end["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn has_condition(pod: &Value, kind: &str) -> bool {
    let condition = list(&pod["status"]["conditions"]).iter().find(|condition| text(&condition["type"]) == kind);
    condition.is_some_and(|condition| text(&condition["status"]) == "True")
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let met = gates.iter().filter(|gate| has_condition(pod, text(&gate["conditionType"]))).count();
    format!("{met}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(spec: Value, status: Value, deleted: bool) -> [String; 3] {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": spec, "status": status});
        if deleted {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let now: jiff::Timestamp = "2026-01-01T00:10:00Z".parse().expect("a time");
        let cells = cells(&pod, now);
        [1, 2, 3].map(|i| text(&cells[i]).to_owned())
    }

    #[test]
    fn what_a_pod_does_in_one_word() {
        let one = json!({"containers": [{"name": "c"}]});
        let two = json!({"containers": [{"name": "c"}, {"name": "d"}]});
        let init = json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
        let sidecar =
            json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i", "restartPolicy": "Always"}]});
        let of = |state: Value| json!({"phase": "Running", "containerStatuses": [{"name": "c", "state": state, "ready": false}]});
        let up = json!({"name": "c", "ready": true, "state": {"running": {}}});
        let done = json!({"name": "d", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let failed = json!({"name": "d", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}});
        let first =
            |state: Value| json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": state}]});
        let cases = [
            (&one, json!({"phase": "Pending"}), false, ["0/1", "Pending", "0"]),
            (&one, json!({"phase": "Failed", "reason": "Evicted"}), false, ["0/1", "Evicted", "0"]),
            (&one, json!({"phase": "Running", "containerStatuses": [up]}), false, ["1/1", "Running", "0"]),
            (&one, of(json!({"waiting": {"reason": "ContainerCreating"}})), false, ["0/1", "ContainerCreating", "0"]),
            (&one, of(json!({"waiting": {"reason": "ImagePullBackOff"}})), false, ["0/1", "ImagePullBackOff", "0"]),
            (&one, of(json!({"terminated": {"exitCode": 0, "reason": "Completed"}})), false, ["0/1", "Completed", "0"]),
            (&one, of(json!({"terminated": {"exitCode": 3}})), false, ["0/1", "ExitCode:3", "0"]),
            (&one, of(json!({"terminated": {"exitCode": 137, "signal": 9}})), false, ["0/1", "Signal:9", "0"]),
            (
                &one,
                json!({"phase": "Running", "containerStatuses": [{"name": "c", "restartCount": 4,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"finishedAt": "2026-01-01T00:09:00Z"}}}]}),
                false,
                ["0/1", "CrashLoopBackOff", "4 (60s ago)"],
            ),
            (&two, json!({"phase": "Running", "containerStatuses": [up, done]}), false, ["1/2", "NotReady", "0"]),
            (
                &two,
                json!({"phase": "Running", "containerStatuses": [done, up], "conditions": [{"type": "Ready", "status": "True"}]}),
                false,
                ["1/2", "Running", "0"],
            ),
            (&two, json!({"phase": "Failed", "containerStatuses": [done, failed]}), false, ["0/2", "Error", "0"]),
            (&one, json!({"phase": "Running", "containerStatuses": [up]}), true, ["1/1", "Terminating", "0"]),
            (&one, json!({"phase": "Running", "reason": "NodeLost"}), true, ["0/1", "Unknown", "0"]),
            (&one, json!({"phase": "Succeeded"}), true, ["0/1", "Succeeded", "0"]),
            (&init, first(json!({"running": {}})), false, ["0/1", "Init:0/2", "0"]),
            (&init, first(json!({"waiting": {"reason": "ErrImagePull"}})), false, ["0/1", "Init:ErrImagePull", "0"]),
            (&init, first(json!({"waiting": {"reason": "PodInitializing"}})), false, ["0/1", "Init:0/2", "0"]),
            (&init, first(json!({"terminated": {"exitCode": 2}})), false, ["0/1", "Init:ExitCode:2", "0"]),
            (
                &init,
                first(json!({"terminated": {"exitCode": 1, "reason": "Error"}})),
                false,
                ["0/1", "Init:Error", "0"],
            ),
            (
                &init,
                json!({"phase": "Pending", "initContainerStatuses": [
                    {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]}),
                false,
                ["0/1", "Init:1/2", "0"],
            ),
            (
                &sidecar,
                json!({"phase": "Running", "containerStatuses": [up],
                       "initContainerStatuses": [{"name": "i", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}}]}),
                false,
                ["2/2", "Running", "1"],
            ),
            (
                &one,
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
                false,
                ["0/1", "SchedulingGated", "0"],
            ),
        ];
        for (spec, status, deleted, expected) in cases {
            assert_eq!(row(spec.clone(), status.clone(), deleted), expected, "{status}");
        }
    }

    #[test]
    fn wide_columns() {
        let pod = json!({
            "metadata": {"name": "p"},
            "spec": {"nodeName": "n", "readinessGates": [{"conditionType": "a"}, {"conditionType": "b"}]},
            "status": {"podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "a", "status": "True"}]},
        });
        let cells = cells(&pod, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells[5..], [json!("10.0.0.1"), json!("n"), json!("<none>"), json!("1/2")]);
    }
}
