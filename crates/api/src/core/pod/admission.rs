//! What upstream's admission plugins (ServiceAccount, DefaultTolerationSeconds, Priority) add to every new Pod.

use serde_json::{Value, json};

use crate::tree::{child_mut, fill, list, put, text};

/// How long a Pod stays on a node that is gone (DefaultTolerationSeconds).
const TOLERATION_SECONDS: i64 = 300;

pub(super) fn admit(pod: &mut Value) {
    let spec = child_mut(pod, "spec");
    fill(spec, "serviceAccountName", "default");
    // The name of the field before v1, still filled in for old clients.
    let account = text(&spec["serviceAccountName"]).to_owned();
    put(spec, "serviceAccount", account);
    tolerate(pod);
    let spec = child_mut(pod, "spec");
    fill(spec, "preemptionPolicy", "PreemptLowerPriority");
    if spec["priority"].is_null() {
        *child_mut(spec, "priority") = priority(spec).into();
    }
}

/// Adds the tolerations that every Pod has, also when an update left them out.
pub(super) fn tolerate(pod: &mut Value) {
    let spec = child_mut(pod, "spec");
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if !tolerated(&spec["tolerations"], taint) {
            let toleration = json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
            });
            let mut all = list(&spec["tolerations"]).to_vec();
            all.push(toleration);
            *child_mut(spec, "tolerations") = all.into();
        }
    }
}

/// What the Pod's class makes of it; every cluster has the two classes of the system.
fn priority(spec: &Value) -> i64 {
    match text(&spec["priorityClassName"]) {
        "system-cluster-critical" => 2_000_000_000,
        "system-node-critical" => 2_000_001_000,
        _ => 0,
    }
}

/// Why a Pod isn't let in at all.
pub(super) fn forbidden(pod: &Value) -> Option<String> {
    let (given, computed) = (&pod["spec"]["priority"], priority(&pod["spec"]));
    (given.is_i64() && *given != computed).then(|| {
        format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {computed} from the given PriorityClass name"
        )
    })
}

fn tolerated(tolerations: &Value, taint: &str) -> bool {
    list(tolerations).iter().any(|toleration| {
        // As upstream's plugin has it, whatever the operator.
        let key = text(&toleration["key"]);
        (key.is_empty() || key == taint) && matches!(text(&toleration["effect"]), "" | "NoExecute")
    })
}
