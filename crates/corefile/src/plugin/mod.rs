//! The plugins: their order, and by name what reads each one's settings. A plugin is a file here, with its line in `chain!`.
//! Not responsible for what settings mean; each file says what CoreDNS takes, its defaults, units and ranges.

pub mod acl;
pub mod any;
pub mod autopath;
pub mod bind;
pub mod bufsize;
pub mod cache;
pub mod cancel;
pub mod chaos;
pub mod debug;
pub mod dns64;
pub mod errors;
pub mod file;
pub mod forward;
pub mod header;
pub mod health;
pub mod hosts;
pub mod k8s_external;
pub mod kubernetes;
pub mod loadbalance;
pub mod local;
pub mod log;
pub mod r#loop;
pub mod minimal;
pub mod nsid;
pub mod prometheus;
pub mod ready;
pub mod reload;
pub mod rewrite;
pub mod root;
pub mod secondary;
pub mod template;
pub mod tls;
pub mod transfer;

use serde::Serialize;

use crate::Stanza;
use crate::problem::Report;
use crate::reader::{Around, Reader};
use crate::token::Token;

/// The settings of one plugin in one server block.
pub(crate) trait Settings {
    /// Reads all directives of the plugin. What is wrong is in the reader's report; then what is returned is of no use.
    fn read(reader: &mut Reader<'_>) -> Self;

    /// What reads the same.
    fn stanzas(&self) -> Vec<Stanza>;
}

/// A plugin that CoreDNS has, with what reads it if it is supported.
struct Entry {
    name: &'static str,
    read: Option<Read>,
}

type Read = fn(&'static str, &[Token], &Around<'_>, &mut Report) -> Plugin;

macro_rules! chain {
    ($($name:literal $(=> $variant:ident($settings:ty))?,)*) => {
        /// A plugin with its settings.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(tag = "plugin", content = "settings")]
        pub enum Plugin {
            $($(#[serde(rename = $name)] $variant($settings),)?)*
        }

        /// All that CoreDNS is built with, in the order of its `plugin.cfg`.
        const CHAIN: &[Entry] = &[$(Entry { name: $name, read: chain!(@read $($variant $settings)?) },)*];

        impl Plugin {
            pub fn name(&self) -> &'static str {
                match self { $($(Plugin::$variant(_) => $name,)?)* }
            }

            /// Its lines of a Corefile, with all defaults.
            pub fn stanzas(&self) -> Vec<Stanza> {
                match self { $($(Plugin::$variant(settings) => settings.stanzas(),)?)* }
            }
        }
    };
    (@read) => { None };
    (@read $variant:ident $settings:ty) => {
        Some(|name, tokens, around, report| {
            Plugin::$variant(<$settings as Settings>::read(&mut Reader::new(name, tokens, around, report)))
        })
    };
}

chain! {
    "root" => Root(root::Root),
    "metadata",
    "geoip",
    "cancel" => Cancel(cancel::Cancel),
    "proxyproto",
    "quic",
    "grpc_server",
    "https",
    "https3",
    "timeouts",
    "multisocket",
    "reload" => Reload(reload::Reload),
    "nsid" => Nsid(nsid::Nsid),
    "bufsize" => Bufsize(bufsize::Bufsize),
    "bind" => Bind(bind::Bind),
    "debug" => Debug(debug::Debug),
    "trace",
    "ready" => Ready(ready::Ready),
    "health" => Health(health::Health),
    "pprof",
    "shed",
    "prometheus" => Prometheus(prometheus::Prometheus),
    "errors" => Errors(errors::Errors),
    "log" => Log(Vec<log::Log>),
    "dnstap",
    "local" => Local(local::Local),
    "dns64" => Dns64(dns64::Dns64),
    "siit",
    "any" => Any(any::Any),
    "chaos" => Chaos(chaos::Chaos),
    "loadbalance" => Loadbalance(loadbalance::Loadbalance),
    "tsig",
    "rewrite" => Rewrite(Vec<rewrite::Rule>),
    "autopath" => Autopath(autopath::Autopath),
    "acl" => Acl(Vec<acl::Acl>),
    "cache" => Cache(cache::Cache),
    "header" => Header(header::Header),
    "dnssec",
    "tls" => Tls(tls::Tls),
    "minimal" => Minimal(minimal::Minimal),
    "template" => Template(Vec<template::Template>),
    "transfer" => Transfer(Vec<transfer::Transfer>),
    "dynupdate",
    "hosts" => Hosts(hosts::Hosts),
    "route53",
    "azure",
    "clouddns",
    "k8s_external" => K8sExternal(k8s_external::K8sExternal),
    "kubernetes" => Kubernetes(kubernetes::Kubernetes),
    "file" => File(file::Files),
    "auto",
    "secondary" => Secondary(secondary::Secondaries),
    "etcd",
    "loop" => Loop(r#loop::Loop),
    "forward" => Forward(Vec<forward::Forward>),
    "grpc",
    "erratic",
    "whoami",
    "on",
    "sign",
    "view",
    "nomad",
}

/// Whether CoreDNS has a plugin, and whether it is supported.
pub(crate) fn known(name: &str) -> Option<bool> {
    CHAIN.iter().find(|entry| entry.name == name).map(|entry| entry.read.is_some())
}

/// The supported plugins in their order.
pub(crate) fn supported() -> impl Iterator<Item = (&'static str, Read)> {
    CHAIN.iter().filter_map(|entry| Some((entry.name, entry.read?)))
}

/// The names of the supported plugins in their order.
pub fn names() -> impl Iterator<Item = &'static str> {
    supported().map(|(name, _)| name)
}
