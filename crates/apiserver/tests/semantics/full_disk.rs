//! A disk that is really full: a small tmpfs that only the store's thread can see.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use store::{Embedded, Options};

use crate::server::{CONFIG_MAPS, NoNodes, SERVICES, Server, config, config_map, service};

/// A store on a file system of 4 MiB, and what fills the rest of it as long as it exists. The mount ends with the
/// namespace of the thread that made it, the file system with the store's open files.
fn store_on_a_full_disk(directory: &Path) -> (Embedded, File) {
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace needs CAP_SYS_ADMIN: run the tests as root");
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
            mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some("size=4m")).unwrap();
            let store = Embedded::open(&directory.join("state.db"), Options::default()).unwrap();
            (store, File::options().read(true).append(true).create(true).open(directory.join("ballast")).unwrap())
        });
        opened.join().unwrap()
    })
}

#[tokio::test]
async fn a_full_disk_refuses_writes_in_words_serves_reads_and_heals() {
    let directory = std::env::temp_dir().join(format!("apiserver-full-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (store, mut ballast) = store_on_a_full_disk(&directory);
    let server = Server::on(Arc::new(store), config(), Arc::new(NoNodes)).await;
    server.post(CONFIG_MAPS, &config_map("before", json!({"k": "v"}))).await.ok();
    while ballast.write_all(&[1; 4096]).is_ok() {}

    let large = "x".repeat(100_000);
    let mut taken = 0;
    let status = loop {
        // What the log has room for is still taken.
        let answer = server.post(CONFIG_MAPS, &config_map(&format!("large-{taken}"), json!({"k": large}))).await;
        if !answer.code.is_success() {
            break answer.fails(507, "InsufficientStorage");
        }
        taken += 1;
        assert!(taken < 50, "the disk never was full");
    };
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("is full: nothing was changed"), "{message}");
    let web = service("web", json!({"selector": {"app": "web"}, "ports": [{"port": 80}]}));
    server.post(SERVICES, &web).await.fails(507, "InsufficientStorage");
    let update = json!({"metadata": {"labels": {"a": "b"}}});
    server.patch(&format!("{CONFIG_MAPS}/before"), "merge-patch+json", &update).await.fails(507, "InsufficientStorage");
    server.delete(&format!("{CONFIG_MAPS}/before"), &json!({})).await.fails(507, "InsufficientStorage");

    let before = server.get(&format!("{CONFIG_MAPS}/before")).await.ok();
    assert_eq!((&before["data"]["k"], &before["metadata"]["labels"]), (&json!("v"), &json!(null)));
    server.get(&format!("{CONFIG_MAPS}/large-{taken}")).await.fails(404, "NotFound");
    server.get(&format!("{SERVICES}/web")).await.fails(404, "NotFound");

    ballast.set_len(0).unwrap();
    let made = server.post(SERVICES, &web).await.ok();
    assert!(made["spec"]["clusterIP"].as_str().unwrap().starts_with("10.96."));
    server.delete(&format!("{CONFIG_MAPS}/before"), &json!({})).await.ok();
    std::fs::remove_dir_all(&directory).unwrap();
}
