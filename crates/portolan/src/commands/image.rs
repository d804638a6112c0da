//! `portolan image`: the images of a system, whether it runs or not.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use images::ImageStore;

use crate::cli::{Image, System};
use crate::system::DataDir;

#[allow(clippy::print_stdout, reason = "the command's output")]
pub fn run(command: &Image) -> Result<ExitCode> {
    match command {
        Image::Load { system, file } => {
            let store = open(system)?;
            let loaded = if file == Path::new("-") {
                store.import(std::io::stdin().lock()).context("cannot load the images on standard input")?
            } else {
                store.import_file(file).with_context(|| format!("cannot load the images of {}", file.display()))?
            };
            for image in loaded {
                println!("{}", image.names.join(" "));
            }
        }
        Image::Ls { system } => {
            for image in open(system)?.list().context("cannot list the images")? {
                println!("{}\t{}\t{}", image.names.join(" "), image.id, image.size);
            }
        }
        Image::Rm { system, reference } => {
            if !open(system)?.remove(reference).with_context(|| format!("cannot remove {reference}"))? {
                bail!("there is no image {reference}; `portolan image ls` lists those there are");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn open(system: &System) -> Result<ImageStore> {
    let dir = DataDir::create(&system.data_dir)?;
    ImageStore::open(dir.path(), None).context("cannot open the images")
}
