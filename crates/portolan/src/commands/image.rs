//! `portolan image`: the images of a system, whether it runs or not.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use images::registry::Puller;
use images::{Digest, ImageStore, Reference};
use serde_json::json;

use crate::cli::{Image, ListFormat, Registries, System};
use crate::commands::block_on;
use crate::system::DataDir;
use crate::up::images::{settings, size, under_way};
use crate::up::parts;

/// How often the progress of a pull is looked at.
const TURN: Duration = Duration::from_millis(500);

pub fn run(command: &Image) -> Result<ExitCode> {
    match command {
        Image::Load { system, files, name } => load(system, files, name.as_ref()),
        Image::Pull { system, registries, references } => block_on(pull(system, registries, references)),
        Image::Ls { system, output } => list(system, *output),
        Image::Rm { system, force, references } => remove(system, *force, references),
    }
}

#[allow(clippy::print_stdout, reason = "the command's output")]
fn load(system: &System, files: &[PathBuf], name: Option<&Reference>) -> Result<ExitCode> {
    if name.is_some() && files.len() > 1 {
        bail!("--name is for one archive; {} are given", files.len());
    }
    let (_, store) = opened(DataDir::create(&system.data_dir)?)?;
    for file in files {
        let loaded = if file == Path::new("-") {
            store.import_as(std::io::stdin().lock(), name).context("cannot load the images on standard input")?
        } else {
            store.import_path(file, name).with_context(|| format!("cannot load the images of {}", file.display()))?
        };
        for image in loaded {
            match image.names.is_empty() {
                true => println!("{} (without a name: give it one with --name)", image.id),
                false => println!("{}", image.names.join(" ")),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout, reason = "the command's output")]
async fn pull(system: &System, registries: &Registries, references: &[String]) -> Result<ExitCode> {
    let (_, store) = opened(DataDir::create(&system.data_dir)?)?;
    let puller = Puller::new(store, &settings(registries));
    for reference in references {
        let pulled = tokio::select! {
            pulled = puller.pull(reference, &[]) => pulled,
            () = tell_progress(&puller) => continue,
        };
        let id = pulled.map_err(anyhow::Error::new).with_context(|| format!("cannot pull {reference}"))?;
        println!("{reference} {id}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Says how far it is; never returns.
async fn tell_progress(puller: &Puller) {
    let mut last = Vec::new();
    loop {
        tokio::time::sleep(TURN).await;
        let now = under_way(puller);
        if now != last {
            eprintln!("pulling {}", now.join(", "));
            last = now;
        }
    }
}

#[allow(clippy::print_stdout, reason = "the command's output")]
fn list(system: &System, output: ListFormat) -> Result<ExitCode> {
    let images = opened(DataDir::open(&system.data_dir)?)?.1.list().context("cannot list the images")?;
    if output == ListFormat::Json {
        let one = |image: &images::Image| {
            json!({"id": image.id, "names": image.names, "digests": image.digests, "sizeBytes": image.size,
                "builtIn": image.built_in})
        };
        let all: Vec<_> = images.iter().map(one).collect();
        println!("{}", serde_json::to_string_pretty(&json!({"images": all})).context("cannot encode the list")?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![["IMAGE".to_owned(), "ID".to_owned(), "SIZE".to_owned()]];
    for image in &images {
        let id = image.id.hex()[..12].to_owned();
        let mut names = image.names.clone();
        if names.is_empty() {
            names = if image.digests.is_empty() { vec!["<none>".to_owned()] } else { image.digests.clone() };
        }
        rows.extend(names.into_iter().map(|name| [name, id.clone(), size(image.size)]));
    }
    let wide = rows.iter().map(|[name, ..]| name.len()).max().unwrap_or_default();
    for [name, id, size] in rows {
        println!("{name:wide$}  {id:12}  {size}");
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(system: &System, force: bool, references: &[String]) -> Result<ExitCode> {
    let (dir, store) = opened(DataDir::open(&system.data_dir)?)?;
    for reference in references {
        let failed = || format!("cannot remove {reference}");
        let Some(image) = store.get(reference).with_context(failed)? else {
            bail!("there is no image {reference}; `portolan image ls` lists those there are");
        };
        // By one of several names it loses that name alone.
        let by_id = reference.parse::<Digest>().is_ok();
        let last = by_id || image.names.len() <= 1;
        if last
            && !force
            && let Some(user) = user_of(&dir, &image.id)?
        {
            bail!(
                "cannot remove {reference}: {user} is made from it; delete that first, or use --force and have it run on \
                 with what it has"
            );
        }
        store.remove(reference).with_context(failed)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A container of a running system that is made from this image.
fn user_of(dir: &DataDir, image: &Digest) -> Result<Option<String>> {
    if !dir.locked()? {
        return Ok(None);
    }
    for node in std::fs::read_dir(dir.nodes()).into_iter().flatten().flatten() {
        let users = parts::image_users(&node.path())?;
        if let Some(user) = users.into_iter().find(|user| user.image_id == image.to_string()) {
            let node = node.file_name();
            let place = format!("pod {}/{} on {}", user.namespace, user.pod, node.display());
            return Ok(Some(format!("container {} of {place}", user.container)));
        }
    }
    Ok(None)
}

fn opened(dir: DataDir) -> Result<(DataDir, ImageStore)> {
    dir.check_ours()?;
    let store = ImageStore::open(dir.path(), None).context("cannot open the images")?;
    Ok((dir, store))
}
