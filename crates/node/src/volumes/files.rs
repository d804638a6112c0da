//! What a pod's volumes are to hold: pure, from the pod and the objects it names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, EmptyDirVolumeSource, KeyToPath, Pod, Volume, VolumeProjection,
};

use crate::container::fields::{self, FieldError};
use crate::container::{Facts, Sources, quantity};
use crate::pod::spec;

/// Why a volume can't be made; told in an Event `FailedMount`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {kind} {name:?} not found")]
    NoObject { volume: String, kind: &'static str, name: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : references non-existent {kind} key: {key}")]
    NoKey { volume: String, kind: &'static str, key: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {path:?} is not a path inside the volume")]
    Path { volume: String, path: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
    Field { volume: String, source: FieldError },
    #[error("volume {volume:?}: spec.volumes.{field} is not supported by this node")]
    Unsupported { volume: String, field: String },
}

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub bytes: Vec<u8>,
    pub mode: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// Empty at first, kept as long as the pod.
    Empty,
    /// The same in memory, of at most so many bytes.
    Memory {
        size: u64,
    },
    /// Of the node's file system, with the check that its type asks for.
    Host {
        path: PathBuf,
        kind: String,
    },
    Files(BTreeMap<PathBuf, File>),
}

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePlan {
    pub name: String,
    pub source: VolumeSource,
}

/// The ConfigMaps and Secrets that the pod's volumes are made from.
pub fn references(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for volume in spec::spec(pod).volumes.iter().flatten() {
        config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            config_maps.extend(source.config_map.iter().map(|source| source.name.clone()));
            secrets.extend(source.secret.iter().map(|source| source.name.clone()));
        }
    }
    (config_maps, secrets)
}

/// Whether a volume holds what the node writes: no container writes there, whatever it asks for.
pub fn is_read_only(pod: &Pod, name: &str) -> bool {
    let written = |volume: &Volume| {
        volume.config_map.is_some()
            || volume.secret.is_some()
            || volume.downward_api.is_some()
            || volume.projected.is_some()
    };
    spec::spec(pod).volumes.iter().flatten().any(|volume| volume.name == name && written(volume))
}

/// All volumes of the pod.
pub fn plan(pod: &Pod, sources: &Sources, facts: &Facts<'_>) -> Result<Vec<VolumePlan>, VolumeError> {
    let maker = Maker { pod, sources, facts };
    let volumes = spec::spec(pod).volumes.iter().flatten();
    volumes.map(|volume| Ok(VolumePlan { name: volume.name.clone(), source: maker.volume(volume)? })).collect()
}

struct Maker<'a> {
    pod: &'a Pod,
    sources: &'a Sources,
    facts: &'a Facts<'a>,
}

/// Where a file of a volume comes from, with what decides about it.
struct Named<'a> {
    volume: &'a str,
    kind: &'static str,
    name: &'a str,
    items: Option<&'a [KeyToPath]>,
    mode: u32,
    optional: bool,
}

const DEFAULT_MODE: i32 = 0o644;

impl Maker<'_> {
    fn volume(&self, volume: &Volume) -> Result<VolumeSource, VolumeError> {
        let unsupported =
            |field: &str| VolumeError::Unsupported { volume: volume.name.clone(), field: field.to_owned() };
        if let Some(empty) = &volume.empty_dir {
            return match empty.medium.as_deref().unwrap_or("") {
                "" => Ok(VolumeSource::Empty),
                "Memory" => Ok(VolumeSource::Memory { size: memory_size(self.pod, empty, self.facts) }),
                medium => Err(unsupported(&format!("emptyDir.medium {medium:?}"))),
            };
        }
        if let Some(host) = &volume.host_path {
            let kind = host.type_.clone().unwrap_or_default();
            return Ok(VolumeSource::Host { path: PathBuf::from(&host.path), kind });
        }
        let mut files = BTreeMap::new();
        if let Some(source) = &volume.config_map {
            let named = Named {
                volume: &volume.name,
                kind: "configmap",
                name: &source.name,
                items: source.items.as_deref(),
                mode: mode(source.default_mode),
                optional: source.optional == Some(true),
            };
            self.keys(&named, &mut files)?;
        } else if let Some(source) = &volume.secret {
            let named = Named {
                volume: &volume.name,
                kind: "secret",
                name: source.secret_name.as_deref().unwrap_or(""),
                items: source.items.as_deref(),
                mode: mode(source.default_mode),
                optional: source.optional == Some(true),
            };
            self.keys(&named, &mut files)?;
        } else if let Some(source) = &volume.downward_api {
            self.downward(&volume.name, source.items.iter().flatten(), mode(source.default_mode), &mut files)?;
        } else if let Some(source) = &volume.projected {
            for part in source.sources.iter().flatten() {
                self.projection(&volume.name, part, mode(source.default_mode), &mut files)?;
            }
        } else {
            return Err(unsupported(&kind_of(volume)));
        }
        Ok(VolumeSource::Files(files))
    }

    fn projection(
        &self,
        volume: &str,
        part: &VolumeProjection,
        mode: u32,
        files: &mut BTreeMap<PathBuf, File>,
    ) -> Result<(), VolumeError> {
        if let Some(source) = &part.config_map {
            let (items, optional) = (source.items.as_deref(), source.optional == Some(true));
            self.keys(&Named { volume, kind: "configmap", name: &source.name, items, mode, optional }, files)
        } else if let Some(source) = &part.secret {
            let (items, optional) = (source.items.as_deref(), source.optional == Some(true));
            self.keys(&Named { volume, kind: "secret", name: &source.name, items, mode, optional }, files)
        } else if let Some(source) = &part.downward_api {
            self.downward(volume, source.items.iter().flatten(), mode, files)
        } else {
            let field = if part.service_account_token.is_some() {
                "serviceAccountToken"
            } else if part.cluster_trust_bundle.is_some() {
                "clusterTrustBundle"
            } else if part.pod_certificate.is_some() {
                "podCertificate"
            } else {
                "(unknown)"
            };
            Err(VolumeError::Unsupported { volume: volume.to_owned(), field: format!("projected.sources.{field}") })
        }
    }

    fn data(&self, named: &Named<'_>) -> Result<BTreeMap<String, Vec<u8>>, VolumeError> {
        let data = if named.kind == "secret" {
            let secret = self.sources.secrets.get(named.name).cloned().flatten();
            secret.map(|secret| secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect())
        } else {
            let map = self.sources.config_maps.get(named.name).cloned().flatten();
            map.map(|map| {
                let texts = map.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes()));
                texts.chain(map.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0))).collect()
            })
        };
        match data {
            Some(data) => Ok(data),
            None if named.optional => Ok(BTreeMap::new()),
            None => Err(VolumeError::NoObject {
                volume: named.volume.to_owned(),
                kind: named.kind,
                name: named.name.to_owned(),
            }),
        }
    }

    fn keys(&self, named: &Named<'_>, files: &mut BTreeMap<PathBuf, File>) -> Result<(), VolumeError> {
        let mut data = self.data(named)?;
        let Some(items) = named.items.filter(|items| !items.is_empty()) else {
            for (key, bytes) in data {
                files.insert(inside(named.volume, &key)?, File { bytes, mode: named.mode });
            }
            return Ok(());
        };
        for item in items {
            match data.remove(&item.key) {
                Some(bytes) => {
                    let mode = item.mode.map_or(named.mode, |mode| self::mode(Some(mode)));
                    files.insert(inside(named.volume, &item.path)?, File { bytes, mode });
                }
                None if named.optional => {}
                None => {
                    let (volume, key) = (named.volume.to_owned(), item.key.clone());
                    return Err(VolumeError::NoKey { volume, kind: named.kind, key });
                }
            }
        }
        Ok(())
    }

    fn downward<'a>(
        &self,
        volume: &str,
        items: impl Iterator<Item = &'a DownwardAPIVolumeFile>,
        mode: u32,
        files: &mut BTreeMap<PathBuf, File>,
    ) -> Result<(), VolumeError> {
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(selector), _) => fields::field(self.pod, selector, self.facts),
                (None, Some(selector)) => fields::resource(self.pod, None, selector, self.facts),
                (None, None) => Ok(String::new()),
            };
            let text = text.map_err(|source| VolumeError::Field { volume: volume.to_owned(), source })?;
            let mode = item.mode.map_or(mode, |mode| self::mode(Some(mode)));
            files.insert(inside(volume, &item.path)?, File { bytes: text.into_bytes(), mode });
        }
        Ok(())
    }
}

/// The least of what the volume asks for, what the pod's containers may use together, and what the node has.
fn memory_size(pod: &Pod, empty: &EmptyDirVolumeSource, facts: &Facts<'_>) -> u64 {
    let limit = |member: spec::Member<'_>| {
        let limits = member.container.resources.as_ref()?.limits.as_ref()?;
        quantity::units(&limits.get("memory")?.0).filter(|bytes| *bytes > 0)
    };
    // One container without a limit leaves the pod without one.
    let limits: Option<u64> = spec::main_members(pod).map(limit).sum();
    let own = empty.size_limit.as_ref().and_then(|limit| quantity::units(&limit.0)).filter(|bytes| *bytes > 0);
    [own, limits].into_iter().flatten().fold(facts.node_memory_bytes, u64::min)
}

/// Whether files of the pod's volumes follow its labels and annotations.
pub fn follows_metadata(pod: &Pod) -> bool {
    spec::spec(pod).volumes.iter().flatten().any(|volume| {
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        volume.downward_api.is_some() || sources.into_iter().any(|source| source.downward_api.is_some())
    })
}

fn mode(mode: Option<i32>) -> u32 {
    u32::try_from(mode.unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o777
}

fn inside(volume: &str, path: &str) -> Result<PathBuf, VolumeError> {
    let relative = Path::new(path);
    let good = !path.is_empty()
        && !path.starts_with("..")
        && relative.components().all(|part| matches!(part, Component::Normal(_)));
    if good {
        Ok(relative.to_owned())
    } else {
        Err(VolumeError::Path { volume: volume.to_owned(), path: path.to_owned() })
    }
}

/// The name of the field that is set, from the object itself: kinds unknown here are named too.
fn kind_of(volume: &Volume) -> String {
    let fields = serde_json::to_value(volume).unwrap_or_default();
    let names = fields.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    names.filter(|name| *name != "name").collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const FACTS: Facts<'_> = Facts {
        node_name: "n1",
        node_ips: &[],
        pod_ips: &[],
        services: &[],
        node_cpu_millis: 1,
        node_memory_bytes: 1 << 30,
    };

    fn run(volume: Value) -> Result<VolumeSource, VolumeError> {
        let pod = spec::testing::pod(json!({"volumes": [volume], "containers": [{"name": "m"}]}));
        let map = json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "/w=="}});
        let sources = Sources {
            config_maps: [("map".to_owned(), Some(serde_json::from_value(map).unwrap()))].into(),
            secrets: [("s".to_owned(), Some(serde_json::from_value(json!({"data": {"k": "AQ=="}})).unwrap()))].into(),
        };
        plan(&pod, &sources, &FACTS).map(|mut plans| plans.remove(0).source)
    }

    fn files(source: VolumeSource) -> Vec<(String, Vec<u8>, u32)> {
        let VolumeSource::Files(files) = source else { panic!("files expected: {source:?}") };
        files.into_iter().map(|(path, file)| (path.display().to_string(), file.bytes, file.mode)).collect()
    }

    #[test]
    fn keys_items_and_modes() {
        let all = files(run(json!({"name": "v", "configMap": {"name": "map"}})).unwrap());
        assert_eq!(
            all,
            [("a".into(), b"1".to_vec(), 0o644), ("b".into(), b"2".to_vec(), 0o644), ("c".into(), vec![255], 0o644)]
        );
        let items = json!([{"key": "b", "path": "dir/file", "mode": 256}]);
        let some = json!({"name": "v", "configMap": {"name": "map", "items": items, "defaultMode": 420}});
        assert_eq!(files(run(some).unwrap()), [("dir/file".into(), b"2".to_vec(), 0o400)]);
        let parts = json!([{"secret": {"name": "s"}}, {"configMap": {"name": "gone", "optional": true}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]);
        let projected = files(run(json!({"name": "v", "projected": {"sources": parts}})).unwrap());
        assert_eq!(projected, [("k".into(), vec![1], 0o644), ("name".into(), b"web".to_vec(), 0o644)]);
    }

    #[test]
    fn memory_is_bounded_by_whatever_is_least() {
        let size = |volume: Value, limit: Option<&str>| {
            let limits = limit.map_or(json!({}), |limit| json!({"limits": {"memory": limit}}));
            let pod = spec::testing::pod(json!({"volumes": [{"name": "v", "emptyDir": volume}],
                "containers": [{"name": "m", "resources": limits}]}));
            match plan(&pod, &Sources::default(), &FACTS).unwrap().remove(0).source {
                VolumeSource::Memory { size } => size,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(size(json!({"medium": "Memory"}), None), 1 << 30);
        assert_eq!(size(json!({"medium": "Memory", "sizeLimit": "8Mi"}), Some("64Mi")), 8 << 20);
        assert_eq!(size(json!({"medium": "Memory", "sizeLimit": "2Gi"}), Some("64Mi")), 64 << 20);
    }

    #[test]
    fn what_is_missing_unsafe_or_unsupported_is_named() {
        let table = [
            (json!({"name": "v", "configMap": {"name": "gone"}}), "configmap \"gone\" not found"),
            (
                json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "x", "path": "p"}]}}),
                "references non-existent secret key: x",
            ),
            (
                json!({"name": "v", "configMap": {"name": "map", "items": [{"key": "a", "path": "../p"}]}}),
                "not a path inside the volume",
            ),
            (json!({"name": "v", "nfs": {"server": "s", "path": "/p"}}), "spec.volumes.nfs is not supported"),
            (json!({"name": "v", "emptyDir": {"medium": "HugePages"}}), "spec.volumes.emptyDir.medium \"HugePages\""),
            (
                json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}),
                "projected.sources.serviceAccountToken is not supported",
            ),
        ];
        for (volume, expected) in table {
            let message = run(volume.clone()).unwrap_err().to_string();
            assert!(message.contains(expected), "{volume}: {message}");
        }
    }
}
