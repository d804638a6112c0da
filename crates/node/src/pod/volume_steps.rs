//! The steps a pod's volumes go through: made before anything starts, brought up to date while it runs, removed when it
//! has ended.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::actions::{Outcome, Prepared, text};
use super::shared::Shared;
use super::spec::{self, PodKey};
use crate::container::Facts;
use crate::volumes;

/// A file beside the volumes says that they are complete, so that a later agent leaves them as they are.
const MARK: &str = "volumes.json";

pub async fn prepare(shared: Arc<Shared>, pod: Arc<Pod>) -> Outcome {
    let mark = shared.config.pod_dir(&PodKey::of(&pod).uid).join(MARK);
    let known = tokio::fs::read(&mark).await.ok();
    let known = known.and_then(|text| serde_json::from_slice::<Prepared>(&text).ok());
    // What is in memory is gone with a node that went down.
    if let Some(prepared) = known.filter(|prepared| prepared.volumes.values().all(|path| path.exists())) {
        return Outcome::Volumes { result: Ok(prepared), kept: true };
    }
    Outcome::Volumes { result: make(&shared, &pod).await, kept: false }
}

async fn make(shared: &Shared, pod: &Pod) -> Result<Prepared, String> {
    let uid = PodKey::of(pod).uid;
    let (plans, group) = wanted(shared, pod).await?;
    let places = shared.config.volumes(&uid);
    let written = tokio::task::spawn_blocking(move || volumes::write(&places, &plans, group)).await;
    let prepared = Prepared { volumes: text(text(written)?)? };
    let dir = shared.config.pod_dir(&uid);
    text(tokio::fs::create_dir_all(&dir).await)?;
    text(tokio::fs::write(dir.join(MARK), text(serde_json::to_vec(&prepared))?).await)?;
    Ok(prepared)
}

pub async fn refresh(shared: Arc<Shared>, pod: Arc<Pod>) -> Outcome {
    let steps = async {
        let (plans, group) = wanted(&shared, &pod).await?;
        let places = shared.config.volumes(&PodKey::of(&pod).uid);
        text(text(tokio::task::spawn_blocking(move || volumes::refresh(&places, &plans, group)).await)?)
    };
    Outcome::VolumesRefreshed(steps.await)
}

pub async fn remove(shared: Arc<Shared>, pod: Arc<Pod>) -> Outcome {
    let uid = PodKey::of(&pod).uid;
    let (places, mark) = (shared.config.volumes(&uid), shared.config.pod_dir(&uid).join(MARK));
    let removed = tokio::task::spawn_blocking(move || {
        match std::fs::remove_file(mark) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        volumes::remove(&places)
    });
    Outcome::VolumesRemoved(match removed.await {
        Ok(removed) => text(removed),
        Err(error) => Err(error.to_string()),
    })
}

type Wanted = (Vec<volumes::VolumePlan>, Option<u32>);

async fn wanted(shared: &Shared, pod: &Pod) -> Result<Wanted, String> {
    let sources = text(shared.sources(&PodKey::of(pod).namespace, volumes::references(pod)).await)?;
    // Volumes are made before the pod has an address; a file that asks for it gets what the status says.
    let pod_ips = shared.pod_ips(pod, None);
    let facts = Facts { pod_ips: &pod_ips, ..shared.facts() };
    let plans = text(volumes::plan(pod, &sources, &facts))?;
    let group = spec::spec(pod).security_context.as_ref().and_then(|context| context.fs_group);
    Ok((plans, text(group.map(u32::try_from).transpose())?))
}
