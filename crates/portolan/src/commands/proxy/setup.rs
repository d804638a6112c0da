//! From what is configured to what a proxy is to be. What is the same as before is taken over as it is: the client, the
//! mode. Not responsible for reading configurations nor for bringing anything into force.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use ipnet::IpNet;
use kube::config::{KubeConfigOptions, Kubeconfig};
use proxy::config::file::Ipvs;
use proxy::config::settings::{LogLevel, Mode, Settings};
use proxy::tuning::{PROC_SYS, TuningPlan, set_oom_score};
use proxy::{Config, FollowedAddresses, Notice, Rules, Setup};
use service_model::{LocalTraffic, NodePortAddresses};
use tokio::sync::watch;

use super::{former, machine};
use crate::modes::{self, ModeOptions};

/// Event: the kernel doesn't do what was asked for, and something else has to.
const OTHER_MODE: &str = "ProxyModeUnavailable";
/// Event: a sysctl that can't be set, as in a container whose `/proc/sys` is read-only.
const NOT_TUNED: &str = "ProxyTuningFailed";

/// Makes setups one after the other.
pub struct Maker {
    master: Option<String>,
    take_over: bool,
    host: watch::Receiver<BTreeSet<IpAddr>>,
    before: Option<Made>,
}

/// A setup and what it was made from.
#[derive(Clone)]
pub struct Made {
    settings: Settings,
    options: ModeOptions,
    pub setup: Setup,
}

impl Maker {
    pub fn new(master: Option<String>, take_over: bool, host: watch::Receiver<BTreeSet<IpAddr>>) -> Maker {
        Maker { master, take_over, host, before: None }
    }

    /// The same without doing anything on the way.
    pub async fn plan(&self, settings: Settings) -> Result<Setup> {
        Ok(self.make(Settings { tuning: TuningPlan::default(), ..settings }).await?.setup)
    }

    pub async fn make(&self, settings: Settings) -> Result<Made> {
        let name = match settings.hostname.clone() {
            Some(name) => name,
            None => machine::hostname().context("cannot tell this machine's name; --hostname-override gives one")?,
        };
        let options = ModeOptions {
            masquerade_mark: settings.masquerade_mark,
            drop_invalid: settings.drop_invalid,
            sync_period: settings.sync_period,
            ipvs: ipvs_options(&settings)?,
        };
        let (client, server) = match &self.before {
            Some(before) if before.settings.kubeconfig == settings.kubeconfig => {
                (before.setup.client.clone(), before.setup.server.clone())
            }
            _ => client(settings.kubeconfig.as_deref(), self.master.as_deref()).await?,
        };
        let before =
            self.before.as_ref().filter(|before| before.settings.mode == settings.mode && before.options == options);
        let (mode, asked, mut notices) = match before {
            Some(before) => (before.setup.mode.clone(), before.setup.asked, Vec::new()),
            None => open(settings.mode, &options)?,
        };
        if self.before.is_none() {
            notices.extend(not_tuned(&settings.tuning));
        }
        // What others have left is there from the beginning or not at all.
        let replaces = if self.before.is_none() { self.left_behind(mode.name(), &options) } else { Vec::new() };
        let config = self.config(&settings, name);
        let setup = Setup { client, config, mode, server, asked, notices, replaces };
        Ok(Made { settings, options, setup })
    }

    /// From now on, this is what is in force; so are the kernel's settings that it asks for.
    pub fn keep(&mut self, made: Made) {
        if self.before.as_ref().is_some_and(|before| before.settings.tuning != made.settings.tuning) {
            not_tuned(&made.settings.tuning);
        }
        self.before = Some(made);
    }

    fn left_behind(&self, mode: &'static str, options: &ModeOptions) -> Vec<Arc<dyn Rules>> {
        let mut left = modes::left_behind(mode, &options.ipvs.exclude_cidrs);
        if self.take_over {
            left.push(Arc::new(former::KubeProxy::new()));
        }
        left
    }

    fn config(&self, settings: &Settings, name: String) -> Config {
        Config {
            health_address: settings.health_address,
            metrics_address: settings.metrics_address,
            bind_hard_fail: settings.bind_hard_fail,
            node_port_addresses: NodePortAddresses::AllLocal,
            follow: Some(FollowedAddresses {
                reach: settings.reach.clone(),
                host: self.host.clone(),
                bind_address: settings.bind_address,
            }),
            local_traffic: settings.local_traffic.clone(),
            masquerade_all: settings.masquerade_all,
            ..Config::for_node(name)
        }
    }
}

/// Says what of a configuration has no effect, and what may be other than expected.
pub fn say(settings: &Settings) {
    settings.unheeded.iter().for_each(|note| tracing::warn!(field = note.field, reason = note.reason, "has no effect"));
    if settings.mode_by_default {
        tracing::info!(
            "no mode is named: nftables, and NodePorts answer where they do in iptables mode (all addresses, and localhost), \
             as far as nothing else is said"
        );
    }
    if settings.local_traffic == LocalTraffic::Cidrs(Vec::new()) {
        tracing::warn!("detectLocalMode is ClusterCIDR and no clusterCIDR is given: pods are not told from strangers");
    }
}

/// As `PORTOLAN_LOG` would say it.
pub fn log_level(settings: &Settings) -> &'static str {
    match settings.logging.level {
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

pub fn oom_score(settings: &Settings) {
    if let Some(score) = settings.oom_score
        && let Err(error) = set_oom_score(score)
    {
        tracing::warn!(%error, score, "oomScoreAdj cannot be set");
    }
}

/// What ipvs mode is told; a scheduler that none could be is an error in every mode.
/// The addresses at which ipvs mode leaves everything as it is. What is no CIDR has been refused.
pub fn excluded(ipvs: &Ipvs) -> Vec<IpNet> {
    ipvs.exclude_cidrs.iter().flatten().filter_map(|cidr| cidr.parse().ok()).collect()
}

fn ipvs_options(settings: &Settings) -> Result<proxy_ipvs::Options> {
    let ipvs = &settings.ipvs;
    let seconds = |timeout: proxy::config::duration::GoDuration| u32::try_from(timeout.whole_seconds()).unwrap_or(0);
    let scheduler = match ipvs.scheduler.as_str() {
        "" => ipvs::Scheduler::round_robin(),
        name => ipvs::Scheduler::new(name).context("ipvs.scheduler")?,
    };
    Ok(proxy_ipvs::Options {
        scheduler,
        exclude_cidrs: excluded(&settings.ipvs),
        strict_arp: ipvs.strict_arp,
        timeouts: ipvs::Timeouts {
            tcp: seconds(ipvs.tcp_timeout),
            tcp_fin: seconds(ipvs.tcp_fin_timeout),
            udp: seconds(ipvs.udp_timeout),
        },
        masquerade_bit: settings.masquerade_mark,
        full_look: settings.sync_period,
        ..proxy_ipvs::Options::default()
    })
}

fn open(mode: Mode, options: &ModeOptions) -> Result<(Arc<dyn proxy::Mode>, &'static str, Vec<Notice>)> {
    let opened = modes::open(mode, options)?;
    let mut notices = Vec::new();
    if let Some(why) = opened.instead {
        let (asked, mode) = (opened.asked.name(), opened.mode.name());
        let message = format!("{asked} mode cannot be used here, {mode} mode takes its place: {why}");
        tracing::warn!("{message}");
        notices.push(Notice { reason: OTHER_MODE, message });
    }
    Ok((opened.mode, opened.asked.name(), notices))
}

fn not_tuned(tuning: &TuningPlan) -> Vec<Notice> {
    let failures = tuning.apply(Path::new(PROC_SYS)).into_iter();
    let tell = |error: proxy::tuning::TuningError| {
        tracing::warn!(reason = %error.source, "{error}");
        Notice { reason: NOT_TUNED, message: format!("{error}: {}", error.source) }
    };
    failures.map(tell).collect()
}

/// With whom it asks.
async fn client(kubeconfig: Option<&Path>, master: Option<&str>) -> Result<(Arc<kube::Client>, String)> {
    let url = master.map(str::parse::<http::Uri>).transpose().context("--master is no URL")?;
    let mut config = match (kubeconfig, &url) {
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
    let server = config.cluster_url.authority().map(ToString::to_string).unwrap_or_default();
    let client = kube::Client::try_from(config).context("cannot make a client of the API server")?;
    Ok((Arc::new(client), server))
}
