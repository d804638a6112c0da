//! Which files the user means, and their text. Every mistake in them is told, not only the first. Not responsible for
//! what is in a document (`documents`).

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Manifest, documents};

/// What the user writes for standard input.
pub const STDIN: &str = "-";
/// More mistakes than this help nobody.
const SHOWN: usize = 20;

/// Reads every document of the files, and of the `.yaml`, `.yml` and `.json` files of the directories, in name order.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    let mut mistakes: Vec<String> = Vec::new();
    for path in paths {
        match files(path) {
            Err(error) => mistakes.push(format!("{error:#}")),
            Ok(files) => {
                for file in files {
                    match text(&file) {
                        Ok(text) => documents::parse(&file, &text, &mut manifests, &mut mistakes),
                        Err(error) => mistakes.push(format!("{error:#}")),
                    }
                }
            }
        }
    }
    match mistakes.len() {
        0 if manifests.is_empty() && !paths.is_empty() => {
            let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            bail!("there is no object in {}", names.join(", "))
        }
        0 => Ok(manifests),
        1 => bail!("{}", mistakes[0]),
        more => {
            let mut text = mistakes.iter().take(SHOWN).map(|m| format!("\n  {m}")).collect::<String>();
            if more > SHOWN {
                text.push_str(&format!("\n  and {} more", more - SHOWN));
            }
            bail!("{more} mistakes in the manifests; none of them is applied:{text}")
        }
    }
}

/// The files that a path stands for.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let named = path.to_string_lossy();
    if named.starts_with("http://") || named.starts_with("https://") {
        bail!("{named} is on the network, and -f reads this machine's files: `curl -sSL {named} | portolan up -f -`");
    }
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let reading = || format!("cannot read the directory {named}");
    let mut files = Vec::new();
    let mut below = Vec::new();
    for entry in fs::read_dir(path).with_context(reading)? {
        let file = entry.with_context(reading)?.path();
        if file.is_dir() {
            below.push(file);
        } else if is_manifest(&file) {
            files.push(file);
        }
    }
    if files.is_empty() {
        below.sort();
        let hint = below
            .iter()
            .find(|dir| fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| is_manifest(&entry.path())));
        match hint {
            Some(dir) => bail!(
                "{named} holds no .yaml, .yml or .json file itself; directories below it aren't read: name them (-f {})",
                dir.display()
            ),
            None => bail!("{named} holds no .yaml, .yml or .json file"),
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a file of a directory is read. Hidden ones are editors' own.
pub fn is_manifest(file: &Path) -> bool {
    let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && file.extension().and_then(|e| e.to_str()).is_some_and(|e| matches!(e, "yaml" | "yml" | "json"))
}

fn text(file: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    if file.as_os_str() == STDIN {
        std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
    } else {
        bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    // A byte order mark says nothing that UTF-8 doesn't.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").map(<[u8]>::to_vec).unwrap_or(bytes);
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        bail!("{} is in UTF-16; save it as UTF-8", file.display());
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        anyhow::anyhow!("{} is no text in UTF-8 (line {line}); is it a manifest?", file.display())
    })
}
