//! Archives in every layout that tools write, what has to be refused of them, and the import folder.

use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::tests::{Data, config, docker, gzip, oci, tar};
use super::*;
use crate::import_folder::ImportFolder;

const PATIENT: Duration = Duration::from_secs(30);

/// An archive with links, whose entries may have names that tar's own writer refuses.
fn entries_of(entries: &[(&str, tar::EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, kind, link, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Digest::of(bytes).hex().to_owned()
}

/// `docker save` before version 25: a directory for each layer, a layer that occurs again as a link, `repositories`.
fn docker_with_links(layer: &[u8]) -> Vec<u8> {
    let config = config(&[Digest::of(layer), Digest::of(layer)]);
    let manifest = json!([{"Config": "abc.json", "RepoTags": ["app:1", "other/app:2"],
        "Layers": ["one/layer.tar", "two/layer.tar"]}]);
    let regular = tar::EntryType::Regular;
    entries_of(&[
        ("one/", tar::EntryType::Directory, "", b""),
        ("one/VERSION", regular, "", b"1.0"),
        ("one/json", regular, "", b"{}"),
        ("one/layer.tar", regular, "", layer),
        ("two/", tar::EntryType::Directory, "", b""),
        ("two/layer.tar", tar::EntryType::Symlink, "../one/layer.tar", b""),
        ("abc.json", regular, "", &config),
        ("repositories", regular, "", br#"{"app":{"1":"one"},"other/app":{"2":"one"}}"#),
        ("manifest.json", regular, "", manifest.to_string().as_bytes()),
    ])
}

/// `docker save` from version 25 on: an OCI layout whose annotation is a tag alone, and the older manifest beside it.
fn docker_hybrid(layer: &[u8]) -> Vec<u8> {
    let config = config(&[Digest::of(layer)]);
    let manifest = json!({"schemaVersion": 2, "config": {"digest": Digest::of(&config)},
        "layers": [{"digest": Digest::of(layer)}]})
    .to_string();
    let index = json!({"schemaVersion": 2, "manifests": [{"digest": Digest::of(manifest.as_bytes()),
        "annotations": {"org.opencontainers.image.ref.name": "1"}}]});
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", hex(bytes));
    let older = json!([{"Config": blob(&config), "RepoTags": ["app:1"], "Layers": [blob(layer)]}]);
    tar(&[
        (&blob(layer), layer),
        (&blob(&config), &config),
        (&blob(manifest.as_bytes()), manifest.as_bytes()),
        ("index.json", index.to_string().as_bytes()),
        ("manifest.json", older.to_string().as_bytes()),
        ("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#),
        ("repositories", br#"{"app":{"1":"x"}}"#),
    ])
}

#[test]
fn what_docker_saves_is_read_in_every_version() {
    let layer = tar(&[("app", b"#!")]);
    for (name, archive, names) in [
        ("links", docker_with_links(&layer), &["docker.io/library/app:1", "docker.io/other/app:2"][..]),
        ("hybrid", docker_hybrid(&layer), &["docker.io/library/app:1"][..]),
    ] {
        let data = Data::new(name);
        let image = data.store().import(&gzip(&archive)[..]).unwrap().remove(0);
        assert_eq!(image.names, names, "{name}");
        assert_eq!(fs::read(image.layers[0].join("app")).unwrap(), b"#!");
    }
}

#[test]
fn a_directory_is_as_good_as_an_archive_and_a_name_can_be_given() {
    let data = Data::new("directory");
    let layer = tar(&[("app", b"#!")]);
    for (name, archive) in [("layout", oci("app:1", &layer, gzip)), ("saved", docker("app:1", &layer))] {
        let directory = data.0.join(name);
        tar::Archive::new(&archive[..]).unpack(&directory).unwrap();
        let image = data.store().import_path(&directory, None).unwrap().remove(0);
        assert_eq!(image.names, ["docker.io/library/app:1"]);
    }
    let given = "registry.example/mine:2".parse().unwrap();
    let image = data.store().import_path(&data.0.join("layout"), Some(&given)).unwrap().remove(0);
    assert_eq!(image.names, ["docker.io/library/app:1", "registry.example/mine:2"]);
    let unnamed = docker("x", &layer);
    let unnamed = String::from_utf8_lossy(&unnamed).replace(r#"["x"]"#, "null ").into_bytes();
    let image = Data::new("unnamed").store().import(&unnamed[..]).unwrap().remove(0);
    assert!(image.names.is_empty());
}

#[test]
fn what_leads_out_of_an_archive_is_named_and_changes_nothing() {
    let data = Data::new("escapes");
    let (regular, symlink) = (tar::EntryType::Regular, tar::EntryType::Symlink);
    let bad_layer = entries_of(&[("fine", regular, "", b"1"), ("../../escaped", regular, "", b"1")]);
    let error = data.store().import(&docker("bad:1", &bad_layer)[..]).unwrap_err().to_string();
    for word in ["abc/layer.tar", "../../escaped", "nothing was loaded", "build the image anew"] {
        assert!(error.contains(word), "{word} is not in: {error}");
    }
    let outer = entries_of(&[("../escaped", regular, "", b"1"), ("manifest.json", regular, "", b"[]")]);
    let error = data.store().import(&outer[..]).unwrap_err();
    assert!(matches!(&error, ImageError::ArchiveEntry { entry, .. } if entry == "../escaped"), "{error}");

    // A link out of the archive leads nowhere, however it is reached.
    let outside = data.0.join("outside.json");
    fs::write(&outside, "[]").unwrap();
    let link = outside.to_str().unwrap();
    let through = entries_of(&[("manifest.json", symlink, link, b"")]);
    assert!(data.store().import(&through[..]).is_err());
    let below = entries_of(&[("d", symlink, data.0.to_str().unwrap(), b""), ("d/written", regular, "", b"1")]);
    assert!(data.store().import(&below[..]).is_err());
    assert!(!data.0.join("written").exists());

    let good_then_bad = {
        let (good, bad) = (tar(&[("good", b"1")]), bad_layer.clone());
        let configs = [config(&[Digest::of(&good)]), config(&[Digest::of(&bad)])];
        let manifest = json!([{"Config": "0", "RepoTags": ["good:1"], "Layers": ["good"]},
            {"Config": "1", "RepoTags": ["bad:1"], "Layers": ["bad"]}]);
        let manifest = manifest.to_string();
        tar(&[
            ("0", &configs[0]),
            ("1", &configs[1]),
            ("good", &good),
            ("bad", &bad),
            ("manifest.json", manifest.as_bytes()),
        ])
    };
    assert!(data.store().import(&good_then_bad[..]).is_err());
    assert_eq!(data.store().list().unwrap().len(), 1, "all of an archive or nothing");
    let left = |part: &str| fs::read_dir(data.0.join("images").join(part)).unwrap().count();
    assert_eq!((left("layers"), left("blobs/sha256")), (1, 0));
}

#[test]
fn what_is_no_image_for_this_machine_says_so() {
    let data = Data::new("foreign");
    let say = |archive: &[u8]| data.store().import(archive).unwrap_err().to_string();
    assert!(say(&tar(&[("repositories", b"{}"), ("abc/layer.tar", b"")])).contains("before 1.10"));
    assert!(say(&tar(&[("notes.txt", b"hello")])).contains("docker save"));
    let other =
        json!({"manifests": [{"digest": Digest::of(b"x"), "platform": {"os": "linux", "architecture": "other"}}]});
    assert!(say(&tar(&[("index.json", other.to_string().as_bytes())])).contains("linux/other"));
    let chart = json!({"config": {"digest": Digest::of(b""), "mediaType": "application/vnd.cncf.helm.config.v1+json"}});
    let chart = chart.to_string();
    let index = json!({"manifests": [{"digest": Digest::of(chart.as_bytes())}]}).to_string();
    let blob = format!("blobs/sha256/{}", hex(chart.as_bytes()));
    assert!(say(&tar(&[("index.json", index.as_bytes()), (&blob, chart.as_bytes())])).contains("helm"));
    let cut = docker("cut:1", &tar(&[("a", b"1")]));
    let whole = String::from_utf8_lossy(&cut).replace("abc/layer.tar\",", "not/there.tar\",").into_bytes();
    let _ = say(&cut[..cut.len() / 3]);
    assert!(data.store().import(&whole[..]).is_ok() || say(&whole).contains("not/there.tar"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_import_folder_takes_what_is_there_and_what_comes_and_leaves_what_is_bad() {
    let data = Data::new("folder");
    let store = data.store();
    let folder = data.0.join("images/import");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("first.tar"), docker("first:1", &tar(&[("a", b"1")]))).unwrap();
    fs::write(folder.join("bad.tar"), "no archive").unwrap();
    fs::write(folder.join(".hidden"), "no archive").unwrap();
    // One that nobody writes to would be waited for without end.
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, folder.join("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();

    let run = || {
        let (sender, reports) = mpsc::channel();
        let stop = CancellationToken::new();
        let report = move |imported: crate::Imported| {
            let name = imported.file.file_name().unwrap().to_string_lossy().into_owned();
            let _ = sender.send((name, imported.result.map(|images| images[0].names[0].clone()).ok()));
        };
        let running = tokio::spawn(ImportFolder::open(store.clone()).unwrap().run(report, stop.clone()));
        (reports, stop, running)
    };
    let named = |name: &str| Some(format!("docker.io/library/{name}:1"));
    let (reports, stop, running) = run();
    assert_eq!(reports.recv_timeout(PATIENT), Ok(("bad.tar".into(), None)));
    assert_eq!(reports.recv_timeout(PATIENT), Ok(("first.tar".into(), named("first"))));
    assert_eq!(reports.recv_timeout(PATIENT), Ok(("pipe".into(), None)));
    fs::write(folder.join("second.tar.gz"), gzip(&docker("second:1", &tar(&[("a", b"2")])))).unwrap();
    assert_eq!(reports.recv_timeout(PATIENT), Ok(("second.tar.gz".into(), named("second"))));
    fs::write(data.0.join("moved"), docker("third:1", &tar(&[("a", b"3")]))).unwrap();
    fs::rename(data.0.join("moved"), folder.join("bad.tar")).unwrap();
    assert_eq!(reports.recv_timeout(PATIENT), Ok(("bad.tar".into(), named("third"))));
    stop.cancel();
    running.await.unwrap();
    assert!(folder.join("first.tar").exists(), "files stay");

    // What was removed by hand doesn't come back with the next start; a changed file does.
    assert!(store.remove("first:1").unwrap());
    fs::remove_file(folder.join("pipe")).unwrap();
    fs::write(folder.join("second.tar.gz"), docker("fourth:1", &tar(&[("a", b"4")]))).unwrap();
    let (reports, stop, running) = run();
    assert_eq!(reports.recv_timeout(PATIENT), Ok(("second.tar.gz".into(), named("fourth"))));
    stop.cancel();
    running.await.unwrap();
    assert!(reports.try_recv().is_err());
    assert_eq!(store.get("first:1").unwrap(), None);
}
