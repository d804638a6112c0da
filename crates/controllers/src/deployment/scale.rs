//! Numbers of a rollout: surge, unavailability, proportions. Upstream's rounding. Not responsible for writing them.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::plan::{replicas, set_replicas};
use super::revision::MAX;

/// How far a rolling update may stray from the wanted size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    pub surge: i32,
    pub unavailable: i32,
}

/// Surge rounds up, unavailability down; never both zero, or nothing could ever move.
pub fn fence(deployment: &Deployment) -> Fence {
    let wanted = replicas(deployment);
    if is_recreate(deployment) {
        return Fence { surge: 0, unavailable: 0 };
    }
    let spec = deployment.spec.as_ref();
    let rolling = spec.and_then(|spec| spec.strategy.as_ref()?.rolling_update.as_ref());
    let surge = scaled(rolling.and_then(|rolling| rolling.max_surge.as_ref()), wanted, true);
    let unavailable = scaled(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), wanted, false);
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    Fence { surge, unavailable: unavailable.min(wanted) }
}

pub fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()?.type_.as_deref());
    strategy == Some("Recreate")
}

/// The new set's size as far as the fence allows: more if there is room, never fewer.
pub fn new_size(deployment: &Deployment, total: i32, current: i32) -> i32 {
    let wanted = replicas(deployment);
    if is_recreate(deployment) {
        return wanted;
    }
    let room = wanted + fence(deployment).surge - total;
    if room <= 0 { current } else { current + room.min(wanted - current) }
}

/// How many of the pods still to be given (or taken) are this set's, by its share when it was last scaled.
pub fn proportion(deployment: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    if set_replicas(set) == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let (fraction, allowed) = (fraction(deployment, set), to_add - added);
    if to_add > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
}

fn fraction(deployment: &Deployment, set: &ReplicaSet) -> i32 {
    let (wanted, size) = (replicas(deployment), set_replicas(set));
    if wanted == 0 {
        return -size;
    }
    let annotated: i32 = set.annotations().get(MAX).and_then(|max| max.parse().ok()).unwrap_or(0);
    let before = if annotated > 0 { annotated } else { set.status.as_ref().map_or(0, |status| status.replicas) };
    if before <= 0 {
        return 0;
    }
    let next = f64::from(size) * f64::from(wanted + fence(deployment).surge) / f64::from(before);
    next.round() as i32 - size
}

/// 25% unless said otherwise; text that is no percentage counts as nothing (the API does not store it).
fn scaled(value: Option<&IntOrString>, of: i32, up: bool) -> i32 {
    let percent = match value {
        Some(IntOrString::Int(number)) => return (*number).max(0),
        Some(IntOrString::String(text)) => text.trim_end_matches('%').parse::<i64>().unwrap_or(0),
        None => 25,
    };
    let product = percent.max(0).saturating_mul(i64::from(of.max(0)));
    let rounded = if up { product.saturating_add(99) / 100 } else { product / 100 };
    i32::try_from(rounded).unwrap_or(i32::MAX)
}
