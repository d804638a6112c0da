//! Stands in for scheduler and kubelets: binds pods, reports them as their image's name says, ends deleted ones, each
//! after a time of its own. Not responsible for any decision of a controller.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::dice::Dice;
use crate::side::{Side, Write};

#[derive(Clone)]
pub struct Kubelet {
    side: Side,
    /// Pods under way, by uid and whether they are ending.
    seen: Arc<Mutex<HashSet<(String, bool)>>>,
}

impl Kubelet {
    pub fn start(side: Side) -> Self {
        Kubelet { side, seen: Arc::default() }
    }

    /// Acts on a pod that was seen, once for its beginning and once for its end.
    pub fn look(&self, pod: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let ending = !pod["metadata"]["deletionTimestamp"].is_null();
        let uid = text(&pod["metadata"]["uid"]);
        let new = self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert((uid.clone(), ending));
        if !new {
            return;
        }
        let namespace = text(&pod["metadata"]["namespace"]);
        let path = format!("/api/v1/namespaces/{namespace}/pods/{}", text(&pod["metadata"]["name"]));
        let image = text(&pod["spec"]["containers"][0]["image"]);
        let seed = uid.bytes().fold(7_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let (side, mut dice) = (self.side.clone(), Dice::new(seed));
        tokio::spawn(async move {
            // What fails here shows as a difference, or is a pod that is gone.
            let _ =
                if ending { end(&side, &path, &mut dice).await } else { begin(&side, &path, &image, &mut dice).await };
        });
    }
}

async fn begin(side: &Side, path: &str, image: &str, dice: &mut Dice) -> anyhow::Result<()> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let target = json!({ "apiVersion": "v1", "kind": "Binding", "metadata": { "name": name },
                         "target": { "apiVersion": "v1", "kind": "Node", "name": "n1" } });
    side.send(&Write::post(format!("{path}/binding"), target)).await?;
    if image.starts_with("stuck") {
        return Ok(());
    }
    let wait = if image.starts_with("slow") { 1500 } else { 20 + dice.below(250) as u64 };
    tokio::time::sleep(Duration::from_millis(wait)).await;
    let ready = !image.starts_with("bad");
    side.send(&Write::patch(format!("{path}/status"), status("Running", ready))).await?;
    Ok(())
}

async fn end(side: &Side, path: &str, dice: &mut Dice) -> anyhow::Result<()> {
    tokio::time::sleep(Duration::from_millis(20 + dice.below(200) as u64)).await;
    side.send(&Write::delete(path, json!({ "gracePeriodSeconds": 0 }))).await?;
    Ok(())
}

/// As a kubelet reports it now.
pub fn status(phase: &str, ready: bool) -> Value {
    let now = k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let ready = if ready { "True" } else { "False" };
    json!({ "status": { "phase": phase, "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }],
                        "conditions": [{ "type": "Ready", "status": ready, "lastTransitionTime": now }] } })
}
