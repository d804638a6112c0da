//! `portolan completion` and `portolan man`: what a shell and man(1) need to know, made from the command line itself.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;

/// Prints the shell's completion script.
pub fn completion(shell: Shell) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "portolan", &mut script);
    print(&script)
}

/// Prints the first page, or writes one for each command.
pub fn man(dir: Option<&Path>) -> Result<ExitCode> {
    let command = Cli::command();
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).context("cannot make the manual page")?;
        return print(&page);
    };
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    clap_mangen::generate_to(command, dir).with_context(|| format!("cannot write the pages into {}", dir.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn print(text: &[u8]) -> Result<ExitCode> {
    match std::io::stdout().write_all(text) {
        // Who reads the beginning only (`| head`) has what they want.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        written => written.context("cannot print it").map(|()| ExitCode::SUCCESS),
    }
}
