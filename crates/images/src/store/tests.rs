//! Archives of both formats in, images out; several users at once; what must be refused.

use std::io::Write as _;

use super::*;

pub(super) struct Data(pub(super) PathBuf);

impl Data {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("portolan-images-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn store(&self) -> ImageStore {
        ImageStore::open(&self.0, None).unwrap()
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn config(diff_ids: &[Digest]) -> Vec<u8> {
    let json = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": ["/app"], "Cmd": ["serve"], "Env": ["A=b"], "User": "12:34", "WorkingDir": "/srv", "StopSignal": "SIGQUIT"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    serde_json::to_vec(&json).unwrap()
}

/// An OCI layout of one image, its layer compressed by `pack`.
pub(super) fn oci(name: &str, layer: &[u8], pack: fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let (packed, config) = (pack(layer), config(&[Digest::of(layer)]));
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "config": {"digest": Digest::of(&config)},
        "layers": [{"digest": Digest::of(&packed)}],
    }))
    .unwrap();
    let ours = serde_json::json!({"os": "linux", "architecture": crate::manifest::architecture()});
    let inner = serde_json::to_vec(&serde_json::json!({"manifests": [
        {"digest": Digest::of(b"another machine's"), "platform": {"os": "linux", "architecture": "none"}},
        {"digest": Digest::of(&manifest), "platform": ours},
    ]}))
    .unwrap();
    let index = serde_json::to_vec(&serde_json::json!({"manifests": [
        {"digest": Digest::of(&inner), "annotations": {"io.containerd.image.name": name}},
    ]}))
    .unwrap();
    let path = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    tar(&[
        (&path(&packed), &packed),
        (&path(&config), &config),
        (&path(&manifest), &manifest),
        (&path(&inner), &inner),
        ("index.json", &index),
        ("oci-layout", b"{}"),
    ])
}

pub(super) fn docker(name: &str, layer: &[u8]) -> Vec<u8> {
    let config = config(&[Digest::of(layer)]);
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["abc/layer.tar"]}]);
    tar(&[
        ("abc/layer.tar", layer),
        ("config.json", &config),
        ("manifest.json", &serde_json::to_vec(&manifest).unwrap()),
    ])
}

#[test]
fn both_formats_and_every_compression_give_the_same_image() {
    let layer = tar(&[("app", b"#!"), ("etc/.wh.old", b"")]);
    let archives: [(&str, Vec<u8>); 4] = [
        ("oci", oci("app:1", &layer, |bytes| bytes.to_vec())),
        ("oci-gzip", gzip(&oci("app:1", &layer, gzip))),
        ("oci-zstd", oci("app:1", &layer, |bytes| zstd::encode_all(bytes, 1).unwrap())),
        ("docker", zstd::encode_all(&docker("app:1", &layer)[..], 1).unwrap()),
    ];
    for (name, archive) in archives {
        let data = Data::new(name);
        let imported = data.store().import(&archive[..]).unwrap();
        let image = data.store().get("app:1").unwrap().unwrap();
        assert_eq!(imported, std::slice::from_ref(&image), "{name}");
        assert_eq!(image.names, ["docker.io/library/app:1"]);
        assert_eq!(
            (image.config.entrypoint.as_slice(), image.config.user.as_str()),
            (&["/app".to_owned()][..], "12:34")
        );
        assert_eq!(image.config.stop_signal_number(), 3);
        assert_eq!(fs::read(image.layers[0].join("app")).unwrap(), b"#!");
        assert_eq!(image.size, layer.len() as u64);
        assert!(fs::symlink_metadata(image.layers[0].join("etc/old")).is_ok());
        assert_eq!(data.store().get(&image.id.to_string()).unwrap(), Some(image));
    }
}

#[test]
fn what_does_not_have_its_digest_is_refused() {
    let (layer, other) = (tar(&[("a", b"1")]), tar(&[("a", b"2")]));
    let data = Data::new("digest");
    let lying_config = {
        let config = config(&[Digest::of(&other)]);
        let manifest = br#"[{"Config":"c","RepoTags":["x:1"],"Layers":["l"]}]"#;
        tar(&[("l", &layer), ("c", &config), ("manifest.json", manifest)])
    };
    assert!(matches!(data.store().import(&lying_config[..]), Err(ImageError::Mismatch { .. })));

    let mut lying_blob = oci("x:1", &layer, |bytes| bytes.to_vec());
    let content = lying_blob.windows(5).position(|window| window == b"1\0\0\0\0").unwrap();
    lying_blob[content] = b'3';
    assert!(matches!(data.store().import(&lying_blob[..]), Err(ImageError::Mismatch { .. })));
    assert!(matches!(data.store().import(&tar(&[("x", b"")])[..]), Err(ImageError::UnknownArchive)));
    assert!(matches!(data.store().import(&b"nonsense"[..]), Err(ImageError::NotAnArchive)));
    assert_eq!(data.store().list().unwrap().len(), 1, "only the built-in image");
    let left = |part: &str| fs::read_dir(data.0.join("images").join(part)).unwrap().count();
    assert_eq!((left("layers"), left("blobs/sha256")), (1, 0));
}

#[test]
fn nothing_has_a_name_before_it_is_on_the_disk() {
    let data = Data::new("sync");
    let broken = ImageStore { sync: |_| Err(io::ErrorKind::StorageFull.into()), ..data.store() };
    let archive = docker("app:1", &tar(&[("a", b"1")]));
    assert!(matches!(broken.import(&archive[..]), Err(ImageError::Path { step: "sync", .. })));
    let store = data.store();
    assert_eq!((store.list().unwrap().len(), fs::read_dir(data.0.join("images/layers")).unwrap().count()), (1, 1));
    store.import(&archive[..]).unwrap();
}

#[test]
fn an_image_goes_with_its_last_name_and_a_layer_with_its_last_user() {
    let data = Data::new("remove");
    let layer = tar(&[("a", b"1")]);
    let store = data.store();
    let image = store.import(&docker("one:1", &layer)[..]).unwrap().remove(0);
    store.import(&docker("two:2", &layer)[..]).unwrap();
    assert!(store.remove("one:1").unwrap());
    assert!(!store.remove("one:1").unwrap());
    assert!(image.layers[0].exists());

    let user = lock_directory(&image.layers[0], FlockOperation::LockShared).unwrap();
    assert!(store.remove("two:2").unwrap());
    assert_eq!(store.get("two:2").unwrap(), None);
    assert!(image.layers[0].exists(), "in use");
    drop(user);
    store.import(&docker("three:3", &tar(&[("b", b"1")]))[..]).unwrap();
    assert!(!image.layers[0].exists());
}

#[test]
fn a_name_moves_to_the_image_imported_last() {
    let data = Data::new("move");
    let store = data.store();
    let old = store.import(&docker("app", &tar(&[("a", b"1")]))[..]).unwrap().remove(0);
    let new = store.import(&docker("app", &tar(&[("a", b"2")]))[..]).unwrap().remove(0);
    assert_eq!(store.get("app").unwrap().unwrap().id, new.id);
    assert_eq!(store.get(&old.id.to_string()).unwrap(), None);
    assert!(!old.layers[0].exists());
}

#[test]
fn the_built_in_image_is_always_there_and_reserved() {
    let data = Data::new("builtin");
    let store = data.store();
    let image = store.get("portolan.local/testserver").unwrap().unwrap();
    assert!(image.built_in);
    assert_eq!(image.config.entrypoint, ["/testserver"]);
    assert_eq!(image.binds[0].source, std::env::current_exe().unwrap());
    assert_eq!(fs::metadata(image.layers[0].join("testserver")).unwrap().len(), 0);
    assert!(fs::read_to_string(image.layers[0].join("etc/passwd")).unwrap().starts_with("root:"));
    assert!(matches!(store.remove("portolan.local/testserver"), Err(ImageError::Reserved(_))));
    let disguised = docker("portolan.local/testserver:latest", &tar(&[("a", b"1")]));
    assert!(matches!(store.import(&disguised[..]), Err(ImageError::Reserved(_))));
    assert_eq!(store.get("portolan.local/other").unwrap(), None);
    // Others of the host may be loaded: the project's own image is called portolan.local/portolan.
    store.import(&docker("portolan.local/other:1", &tar(&[("a", b"1")]))[..]).unwrap();
    assert!(store.get("portolan.local/other:1").unwrap().is_some());
    assert!(store.remove("portolan.local/other:1").unwrap());
}

#[test]
fn many_may_import_and_remove_at_once() {
    let data = Data::new("many");
    let shared = tar(&[("shared", b"1")]);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (data, shared) = (&data, &shared);
            scope.spawn(move || {
                let store = data.store();
                let own = tar(&[("own", number.to_string().as_bytes())]);
                store.import(&docker(&format!("own:{number}"), &own)[..]).unwrap();
                store.import(&docker(&format!("shared:{number}"), shared)[..]).unwrap();
                assert!(store.remove(&format!("own:{number}")).unwrap());
            });
        }
    });
    let images = data.store().list().unwrap();
    assert_eq!(images.len(), 2);
    assert_eq!(images[1].names.len(), 8);
    assert_eq!(fs::read_dir(data.0.join("images/layers")).unwrap().count(), 2);
    let scratch =
        entries(&data.0.join("images")).unwrap().into_iter().filter(|(name, _)| name.starts_with(".scratch")).count();
    assert_eq!(scratch, 0);
}
