//! `portolan proxy`: a Service proxy on a node of any cluster. Understands the flags and the file, and composes. Not
//! responsible for what a proxy does.

mod former;
mod machine;
mod reload;
mod setup;

use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use ::proxy::config::decode::decode;
use ::proxy::config::file::KubeProxyConfiguration;
use ::proxy::config::settings::{Settings, settings};
use ::proxy::config::validate::validate;
use ::proxy::config::write::to_yaml;
use ::proxy::tuning::PROC_SYS;
use ::proxy::{EMULATED, Rules, Status};
use anyhow::{Context, Result};
use ipnet::IpNet;
use service_model::ServiceName;
use tokio::sync::mpsc;

use self::setup::Maker;
use super::block_on;
use super::part::until_terminated;
use crate::cli::{Instrument, Output, Proxy};
use crate::{logging, modes};

/// kube-proxy says as much as the first two words.
#[allow(clippy::print_stdout, reason = "the command's output")]
fn say_version() {
    println!("Kubernetes {EMULATED} (portolan {})", env!("CARGO_PKG_VERSION"));
}

pub fn run(options: &Proxy) -> Result<ExitCode> {
    if options.version.as_ref().is_some_and(|version| version != "false") {
        say_version();
        return Ok(ExitCode::SUCCESS);
    }
    let Read { config, mut warnings, text } = read(options)?;
    warnings.extend(options.warnings());
    validate(&config)?;
    let once = options.write_config_to.is_some() || options.cleanup == Some(true);
    if once {
        logging::start(logging::COMMANDS, logging::Format::Text);
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    }
    if let Some(path) = &options.write_config_to {
        let text = to_yaml(&config).context("cannot write the configuration")?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("portolan: wrote the configuration to {}", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    if options.cleanup == Some(true) {
        return block_on(cleanup(options.take_over, setup::excluded(&config.ipvs)));
    }
    let settings = settings(&config, machine::processors())?;
    if let Some(Instrument::Dump { service, output }) = &options.command {
        logging::start(logging::COMMANDS, logging::Format::Text);
        return block_on(dump(options, settings, service.as_deref(), *output));
    }
    let format = if settings.logging.json { logging::Format::Json } else { logging::Format::Text };
    logging::start(setup::log_level(&settings), format);
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    setup::say(&settings);
    if options.init_only == Some(true) {
        let failures = settings.tuning.apply(Path::new(PROC_SYS));
        failures.iter().for_each(|error| eprintln!("portolan: {error}: {}", error.source));
        return Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    block_on(start(options, settings, text))
}

/// The configuration of the file and the flags.
struct Read {
    config: KubeProxyConfiguration,
    /// What there is to say of it.
    warnings: Vec<String>,
    /// The file's, which the next change is compared with.
    text: Option<String>,
}

fn read(options: &Proxy) -> Result<Read> {
    let Some(path) = &options.config else {
        return Ok(Read { config: options.configuration(), warnings: Vec::new(), text: None });
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let decoded = decode(&text).with_context(|| format!("{} is no configuration", path.display()))?;
    let mut config = decoded.config;
    options.set_over_file(&mut config);
    let warnings = decoded.warnings.iter().map(|warning| format!("{}: {warning}; it is left out", path.display()));
    let warnings = warnings.collect();
    Ok(Read { config, warnings, text: Some(text) })
}

async fn start(options: &Proxy, settings: Settings, text: Option<String>) -> Result<ExitCode> {
    let stop = until_terminated()?;
    let host = machine::follow_addresses(stop.clone()).context("cannot read this machine's addresses")?;
    let mut maker = Maker::new(options.master.clone(), options.take_over, host);
    if options.dry_run {
        print(&settings.tuning)?;
        let setup = maker.plan(settings).await?;
        let differences = ::proxy::preview(setup, stop).await.context("cannot read the rules")?;
        differences.iter().try_for_each(|difference| print(&difference.plan))?;
        return Ok(ExitCode::SUCCESS);
    }
    setup::oom_score(&settings);
    let made = maker.make(settings.clone()).await?;
    maker.keep(made.clone());
    let (sender, orders) = mpsc::channel(1);
    if let Some(text) = text {
        tokio::spawn(reload::follow(options.clone(), maker, settings, text, sender, stop.clone()));
    }
    ::proxy::serve(made.setup, orders, Status::default(), stop).await.context("the proxy ended")?;
    Ok(ExitCode::SUCCESS)
}

async fn dump(options: &Proxy, settings: Settings, service: Option<&str>, output: Output) -> Result<ExitCode> {
    let stop = until_terminated()?;
    let host = machine::follow_addresses(stop.clone()).context("cannot read this machine's addresses")?;
    let setup = Maker::new(options.master.clone(), false, host).plan(settings).await?;
    let named = |name: &str| match name.split_once('/') {
        Some((namespace, name)) => ServiceName::new(namespace, name),
        None => ServiceName::new("default", name),
    };
    let service = service.map(named);
    let Some(dump) = ::proxy::dump(setup, service.as_ref(), stop).await.context("cannot read the rules")? else {
        return Ok(ExitCode::FAILURE);
    };
    match output {
        Output::Text => print(&dump)?,
        Output::Json => print(serde_json::to_string_pretty(&dump).context("cannot print it")?)?,
    }
    let known = service.is_none() || dump.families.iter().any(|family| !family.ports.is_empty());
    let missing = dump.families.iter().any(|family| family.steps_missing > 0);
    Ok(if known && !missing { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One mode that can't be cleaned up keeps no other from being.
async fn cleanup(former: bool, excluded: Vec<IpNet>) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    let mut fail = |error: anyhow::Error| {
        eprintln!("portolan: {error:#}");
        code = ExitCode::FAILURE;
    };
    for rules in modes::all(&excluded) {
        match rules {
            Ok(rules) => rules.cleanup(true).await.map_err(Into::into).unwrap_or_else(&mut fail),
            // What the kernel lacks has left nothing in it.
            Err(modes::OpenError::NoIpvs(_)) => {}
            Err(error) => fail(error.into()),
        }
    }
    if former {
        former::KubeProxy::new().cleanup(true).await.map_err(Into::into).unwrap_or_else(&mut fail);
    }
    Ok(code)
}

fn print(text: impl Display) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot print it")
}
