//! Image archives: as bytes, and as archives that are well-formed outside and hostile inside.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use images::ImageStore;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// A store keeps what it is given: now and then a new one keeps the disk small.
const LIFETIME: usize = 100;
/// What the kept inputs call files that they try to put somewhere else.
const ESCAPED: &str = "fuzz-escaped";
const BLOBS: &str = "blobs/sha256/";

/// The bytes as an archive; as the entries of an archive; as those of a layer; as the parts of an OCI layout. An entry is
/// kind, mode, then name, target and content, each behind its length. Nothing may be written outside the store, and
/// what is refused leaves the store as it was.
pub fn images(bytes: &[u8]) {
    thread_local! {
        static STORE: RefCell<Option<Scratch>> = const { RefCell::new(None) };
    }
    STORE.with_borrow_mut(|kept| {
        if kept.as_ref().is_none_or(|scratch| scratch.imports > LIFETIME) {
            *kept = None;
            *kept = Scratch::new();
        }
        let Some(scratch) = kept else { panic!("a store can be made in a temporary directory") };
        scratch.imports += 1;
        let Some((how, described)) = bytes.split_first() else { return };
        match how % 4 {
            0 => scratch.import(described),
            1 => scratch.import(&tar_of(&entries(described))),
            2 => scratch.import(&docker_archive(&tar_of(&entries(described)))),
            _ => scratch.import(&oci_archive(described)),
        }
    });
}

struct Scratch {
    path: PathBuf,
    store: ImageStore,
    imports: usize,
}

impl Scratch {
    fn new() -> Option<Self> {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let path = parent.join(format!("fuzz-images-{}", std::process::id()));
        fs::create_dir_all(path.join("store")).ok()?;
        fs::write(path.join("outside"), "untouched").ok()?;
        let store = ImageStore::open(&path.join("store"), Some("/bin/true".into())).ok()?;
        Some(Scratch { path, store, imports: 0 })
    }

    fn import(&self, archive: &[u8]) {
        let before = self.contents();
        let imported = self.store.import(archive);
        self.assert_nothing_escaped();
        let after = self.contents();
        match imported {
            Err(_) => assert_eq!(after, before, "what was refused left something"),
            Ok(images) => {
                let known = self.store.list().unwrap_or_default();
                for image in images {
                    assert!(known.iter().any(|one| one.id == image.id), "{} is not in the store", image.id);
                    assert!(image.layers.iter().all(|layer| layer.is_dir()), "{} lacks a layer", image.id);
                }
            }
        }
    }

    /// The names of all that the store holds.
    fn contents(&self) -> Vec<String> {
        let images = self.path.join("store/images");
        let parts = ["", "blobs/sha256", "layers", "downloads"];
        let below =
            |part: &str| names(&images.join(part)).iter().map(|name| format!("{part}/{name}")).collect::<Vec<_>>();
        parts.into_iter().flat_map(below).collect()
    }

    fn assert_nothing_escaped(&self) {
        assert_eq!(names(&self.path), ["outside", "store"], "an archive wrote beside the store");
        assert_eq!(fs::read(self.path.join("outside")).ok().as_deref(), Some(&b"untouched"[..]), "it was written to");
        assert_eq!(names(&self.path.join("store")), ["images"], "an archive wrote beside the images");
        assert!(!self.path.with_file_name(ESCAPED).exists() && !Path::new("/").join(ESCAPED).exists(), "it got out");
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// An archive's entry as the bytes describe it.
struct Described<'a> {
    kind: u8,
    mode: u8,
    name: &'a [u8],
    target: &'a [u8],
    content: &'a [u8],
}

fn entries(bytes: &[u8]) -> Vec<Described<'_>> {
    let (mut found, mut rest) = (Vec::new(), bytes);
    while let [kind, mode, after @ ..] = rest {
        let (name, after) = field(after);
        let (target, after) = field(after);
        let (content, after) = field(after);
        rest = after;
        found.push(Described { kind: *kind, mode: *mode, name, target, content });
    }
    found
}

fn tar_of(entries: &[Described<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        let kinds = *b"0125346xgLK";
        header.set_entry_type(EntryType::new(kinds[usize::from(entry.kind) % kinds.len()]));
        header.set_mode(u32::from(entry.mode) << 4);
        header.set_size(entry.content.len() as u64);
        let raw = header.as_old_mut();
        let copy = |to: &mut [u8], from: &[u8]| to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        copy(&mut raw.name, entry.name);
        copy(&mut raw.linkname, entry.target);
        header.set_cksum();
        if builder.append(&header, entry.content).is_err() {
            break;
        }
    }
    builder.into_inner().unwrap_or_default()
}

fn field(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some((length, rest)) = bytes.split_first() else { return (&[], &[]) };
    rest.split_at(usize::from(*length).min(rest.len()))
}

/// What `docker save` would make of one layer.
fn docker_archive(layer: &[u8]) -> Vec<u8> {
    let hex = hex_digest(layer);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["sha256:{hex}"]}}}}"#
    );
    let manifest = r#"[{"Config":"config.json","RepoTags":["example.com/fuzz:1"],"Layers":["layer.tar"]}]"#;
    files(&[("config.json", config.as_bytes()), ("layer.tar", layer), ("manifest.json", manifest.as_bytes())])
}

/// An OCI layout: parts, each behind its length, of which the last is the index and the others are blobs under their
/// digests. `#0` in a part stands for the digest of the first one, and so on.
fn oci_archive(bytes: &[u8]) -> Vec<u8> {
    let (mut parts, mut rest) = (Vec::new(), bytes);
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (part, after) = after.split_at(usize::from(u16::from_be_bytes(*length)).min(after.len()));
        parts.push(part);
        rest = after;
    }
    let Some(index) = parts.pop() else { return Vec::new() };
    let mut blobs: Vec<(String, Vec<u8>)> = Vec::new();
    for part in parts {
        let content = with_digests(part, &blobs);
        blobs.push((format!("{BLOBS}{}", hex_digest(&content)), content));
    }
    let index = with_digests(index, &blobs);
    let mut all: Vec<(&str, &[u8])> = blobs.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    all.push(("index.json", &index));
    files(&all)
}

fn with_digests(part: &[u8], blobs: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut content = Vec::new();
    let mut rest = part;
    while let Some((first, after)) = rest.split_first() {
        let named =
            after.first().filter(|_| *first == b'#').and_then(|digit| blobs.get(usize::from(digit.wrapping_sub(b'0'))));
        match named {
            Some((name, _)) => {
                content.extend_from_slice(b"sha256:");
                content.extend_from_slice(&name.as_bytes()[BLOBS.len()..]);
                rest = &after[1..];
            }
            None => {
                content.push(*first);
                rest = after;
            }
        }
    }
    content
}

fn hex_digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn files(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // A name this short, into memory, is always taken.
        let _ = builder.append_data(&mut header, name, *content);
    }
    builder.into_inner().unwrap_or_default()
}
