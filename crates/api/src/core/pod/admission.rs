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
    fill(spec, "preemptionPolicy", "PreemptLowerPriority");
    if spec["priority"].is_null() {
        *child_mut(spec, "priority") = 0.into();
    }
}

fn tolerated(tolerations: &Value, taint: &str) -> bool {
    list(tolerations).iter().any(|toleration| {
        matches!(text(&toleration["key"]), "" | "*") && text(&toleration["operator"]) == "Exists"
            || text(&toleration["key"]) == taint && matches!(text(&toleration["effect"]), "" | "NoExecute")
    })
}
