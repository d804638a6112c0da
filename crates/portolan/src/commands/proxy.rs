//! `portolan proxy`: a Service proxy on a node of any cluster. Understands the flags and the file, chooses the mode, and
//! composes. Not responsible for what a proxy does.

mod machine;

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use ::proxy::config::decode::decode;
use ::proxy::config::file::KubeProxyConfiguration;
use ::proxy::config::settings::{LogLevel, Mode, Settings, settings};
use ::proxy::config::validate::validate;
use ::proxy::config::write::to_yaml;
use ::proxy::tuning::{PROC_SYS, set_oom_score};
use ::proxy::{Backend, Config, FollowedAddresses, Status};
use anyhow::{Context, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use proxy_iptables::{FullLook, HINTS, IptablesBackend, Options, Tuning};
use proxy_nftables::Nftables;
use service_model::{LocalTraffic, NodePortAddresses};
use tokio_util::sync::CancellationToken;

use super::block_on;
use super::part::until_terminated;
use crate::cli::Proxy;
use crate::logging;

/// How often the file is looked at: one that a ConfigMap is mounted as changes by itself.
const LOOK_AT_FILE: Duration = Duration::from_secs(5);

/// What is asked of a backend.
enum Task {
    Run(kube::Client, Config, CancellationToken),
    Preview(kube::Client, Config, CancellationToken),
    Cleanup,
}

pub fn run(options: &Proxy) -> Result<ExitCode> {
    let (config, mut warnings) = configuration(options)?;
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
        return block_on(cleanup());
    }
    let settings = settings(&config, machine::processors())?;
    start_logging(&settings);
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    settings.unheeded.iter().for_each(|note| tracing::warn!(field = note.field, reason = note.reason, "has no effect"));
    if settings.mode_by_default {
        tracing::info!(
            "no mode is named: nftables, and NodePorts answer where they do in iptables mode, as far as nothing else is said"
        );
    }
    if settings.local_traffic == LocalTraffic::Cidrs(Vec::new()) {
        tracing::warn!("detectLocalMode is ClusterCIDR and no clusterCIDR is given: pods are not told from strangers");
    }
    if options.init_only == Some(true) {
        let failures = settings.tuning.apply(Path::new(PROC_SYS));
        failures.iter().for_each(|error| eprintln!("portolan: {error}: {}", error.source));
        return Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    block_on(start(options, settings))
}

fn configuration(options: &Proxy) -> Result<(KubeProxyConfiguration, Vec<String>)> {
    let Some(path) = &options.config else { return Ok((options.configuration(), Vec::new())) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let decoded = decode(&text).with_context(|| format!("{} is no configuration", path.display()))?;
    let mut config = decoded.config;
    options.set_over_file(&mut config);
    let warnings = decoded.warnings.iter().map(|warning| format!("{}: {warning}; it is left out", path.display()));
    Ok((config, warnings.collect()))
}

fn start_logging(settings: &Settings) {
    let level = match settings.logging.level {
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    logging::start(level, if settings.logging.json { logging::Format::Json } else { logging::Format::Text });
}

async fn start(options: &Proxy, settings: Settings) -> Result<ExitCode> {
    let stop = until_terminated()?;
    let client = client(&settings, options.master.as_deref()).await?;
    let name = match settings.hostname.clone() {
        Some(name) => name,
        None => machine::hostname().context("cannot tell this machine's name; --hostname-override gives one")?,
    };
    let config = Config {
        health_address: settings.health_address,
        metrics_address: settings.metrics_address,
        bind_hard_fail: settings.bind_hard_fail,
        node_port_addresses: NodePortAddresses::AllLocal,
        follow: Some(FollowedAddresses {
            reach: settings.reach.clone(),
            host: machine::follow_addresses(stop.clone()).context("cannot read this machine's addresses")?,
            bind_address: settings.bind_address,
        }),
        local_traffic: settings.local_traffic.clone(),
        masquerade_all: settings.masquerade_all,
        ..Config::for_node(name)
    };
    if options.dry_run {
        print(&settings.tuning)?;
        return execute(&settings, Task::Preview(client, config, stop)).await;
    }
    for error in settings.tuning.apply(Path::new(PROC_SYS)) {
        tracing::warn!(reason = %error.source, "{error}");
    }
    if let Some(score) = settings.oom_score
        && let Err(error) = set_oom_score(score)
    {
        tracing::warn!(%error, score, "oomScoreAdj cannot be set");
    }
    let changed = CancellationToken::new();
    if let Some(path) = &options.config {
        tokio::spawn(until_changed(path.clone(), stop.clone(), changed.clone()));
    }
    let ended = execute(&settings, Task::Run(client, config, stop)).await?;
    if changed.is_cancelled() {
        bail!("content of the proxy server's configuration file was updated");
    }
    Ok(ended)
}

async fn client(settings: &Settings, master: Option<&str>) -> Result<kube::Client> {
    let url = master.map(str::parse::<http::Uri>).transpose().context("--master is no URL")?;
    let mut config = match (&settings.kubeconfig, &url) {
        (Some(path), _) => {
            let file = Kubeconfig::read_from(path).with_context(|| format!("cannot use {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        (None, Some(url)) => kube::Config::new(url.clone()),
        (None, None) => kube::Config::incluster()
            .context("there is no service account here; --kubeconfig says how to reach the API server")?,
    };
    if let Some(url) = url {
        config.cluster_url = url;
    }
    kube::Client::try_from(config).context("cannot make a client of the API server")
}

/// Ends the proxy when its file has changed: what supervises it starts it anew, with the new one.
async fn until_changed(path: PathBuf, stop: CancellationToken, changed: CancellationToken) {
    let first = tokio::fs::read(&path).await.ok();
    let mut ticks = tokio::time::interval(LOOK_AT_FILE);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // Between two versions the file may be missing.
        if let Ok(now) = tokio::fs::read(&path).await
            && first.as_ref() != Some(&now)
        {
            changed.cancel();
            stop.cancel();
            return;
        }
    }
}

async fn execute(settings: &Settings, task: Task) -> Result<ExitCode> {
    match settings.mode {
        Mode::Nftables => perform(nftables()?, task).await,
        Mode::Iptables => {
            let tuning = Tuning { masquerade_mark: settings.masquerade_mark, drop_invalid: settings.drop_invalid };
            let full_look = FullLook(settings.sync_period);
            perform(iptables(Options { tuning, full_look })?, task).await
        }
    }
}

fn nftables() -> Result<impl IntoIterator<Item = impl Backend>> {
    let kernel = nft::Kernel::open().context("cannot reach nf_tables (CAP_NET_ADMIN is needed)")?;
    Ok(Nftables::pair(kernel))
}

fn iptables(options: Options) -> Result<impl IntoIterator<Item = impl Backend>> {
    let flavour = iptables::detect(HINTS).context("cannot tell which iptables to use")?;
    tracing::info!(?flavour, "iptables");
    IptablesBackend::open_pair(flavour, options).context("cannot use iptables")
}

async fn perform<B: Backend>(backends: impl IntoIterator<Item = B>, task: Task) -> Result<ExitCode> {
    match task {
        Task::Run(client, config, stop) => {
            ::proxy::run(client, config, backends, Status::default(), stop).await.context("the proxy ended")?;
        }
        Task::Preview(client, config, stop) => {
            let plans = ::proxy::preview(client, config, backends, stop).await.context("cannot read the rules")?;
            plans.iter().try_for_each(print)?;
        }
        Task::Cleanup => {
            for backend in backends {
                let what = format!("cannot remove the rules of {} {}", backend.name(), backend.family());
                backend.cleanup().await.context(what)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One mode that can't be cleaned up keeps no other from being.
async fn cleanup() -> Result<ExitCode> {
    let of_nftables = match nftables() {
        Ok(backends) => perform(backends, Task::Cleanup).await,
        Err(error) => Err(error),
    };
    let of_iptables = match iptables(Options::default()) {
        Ok(backends) => perform(backends, Task::Cleanup).await,
        Err(error) => Err(error),
    };
    let mut code = ExitCode::SUCCESS;
    for error in [of_nftables, of_iptables].into_iter().filter_map(Result::err) {
        eprintln!("portolan: {error:#}");
        code = ExitCode::FAILURE;
    }
    Ok(code)
}

fn print(text: impl Display) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot print it")
}
