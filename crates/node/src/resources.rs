//! What a pod's containers ask for together, and may use of the disk. Pure.
//!
//! Not responsible for single containers' limits (`container`).

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::container::quantity;
use crate::pod::spec::{self, Member, Role};

/// The least share of the processor: of a pod that asks for nothing, as kubelet has it.
const FEWEST_SHARES: u64 = 2;
const MOST_SHARES: u64 = 262_144;

/// The processor's shares of the whole pod (1024 a core): what its containers ask for, or the most that one init
/// container does with the sidecars before it.
pub fn cpu_shares(pod: &Pod) -> u64 {
    let asked = |member: Member<'_>| {
        let resources = member.container.resources.as_ref();
        let request = resources.and_then(|resources| resources.requests.as_ref()?.get("cpu"));
        // A limit stands in for a request that isn't there; the API has filled that in as a rule.
        let limit = || resources.and_then(|resources| resources.limits.as_ref()?.get("cpu"));
        request.or_else(limit).and_then(|quantity| quantity::millis(&quantity.0)).unwrap_or(0)
    };
    let (mut sidecars, mut most) = (0_u64, 0_u64);
    for member in spec::init_members(pod) {
        match member.role {
            Role::Sidecar => sidecars = sidecars.saturating_add(asked(member)),
            _ => most = most.max(sidecars.saturating_add(asked(member))),
        }
    }
    let mains: u64 = spec::main_members(pod).map(asked).fold(sidecars, u64::saturating_add);
    (mains.max(most).saturating_mul(1024) / 1000).clamp(FEWEST_SHARES, MOST_SHARES)
}

/// A container's limit of what it may write, and its text.
pub fn disk_limit(container: &Container) -> Option<(u64, &str)> {
    let limit = container.resources.as_ref()?.limits.as_ref()?.get("ephemeral-storage")?;
    Some((quantity::units(&limit.0)?, limit.0.as_str()))
}

/// What a container asked to write, and its text; nothing unless it says so.
pub fn disk_request(container: &Container) -> (u64, &str) {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let asked = requests.and_then(|requests| requests.get("ephemeral-storage"));
    asked.and_then(|asked| Some((quantity::units(&asked.0)?, asked.0.as_str()))).unwrap_or((0, "0"))
}

/// The limits of the pod's volumes on disk: their names, bytes, and text.
pub fn volume_limits(pod: &Pod) -> Vec<(&str, u64, &str)> {
    let volumes = spec::spec(pod).volumes.iter().flatten();
    let limits = volumes.filter_map(|volume| {
        let empty = volume.empty_dir.as_ref().filter(|empty| empty.medium.as_deref().unwrap_or("").is_empty())?;
        let limit = empty.size_limit.as_ref()?;
        Some((volume.name.as_str(), quantity::units(&limit.0).filter(|bytes| *bytes > 0)?, limit.0.as_str()))
    });
    limits.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_weighs_what_its_containers_ask_for() {
        let cpu = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let pod = |spec| spec::testing::pod(spec);
        assert_eq!(cpu_shares(&pod(json!({"containers": [{"name": "m"}]}))), 2);
        assert_eq!(cpu_shares(&pod(json!({"containers": [cpu("500m"), cpu("1")]}))), 1536);
        let limited = json!({"containers": [{"name": "m", "resources": {"limits": {"cpu": "2"}}}]});
        assert_eq!(cpu_shares(&pod(limited)), 2048);
        let sidecar = json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}});
        let init = json!({"initContainers": [sidecar, cpu("3")], "containers": [cpu("500m")]});
        assert_eq!(cpu_shares(&pod(init)), 4096);
    }

    #[test]
    fn limits_of_the_disk_are_those_of_volumes_on_it() {
        let pod = spec::testing::pod(json!({
            "volumes": [{"name": "a", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "b", "emptyDir": {}},
                {"name": "c", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
            "containers": [{"name": "m", "resources": {"limits": {"ephemeral-storage": "2Mi"}}}]}));
        assert_eq!(volume_limits(&pod), [("a", 1 << 20, "1Mi")]);
        assert_eq!(disk_limit(&spec::spec(&pod).containers[0]), Some((2 << 20, "2Mi")));
    }
}
