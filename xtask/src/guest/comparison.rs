//! A comparison with an original in the small guest: crate `conformance`'s binary, started there as anywhere else, with the
//! original beside it, for what this machine's kernel may lack. Not responsible for what is compared.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::small::{self, Guest, Plan};
use crate::{machine, peers, step};

/// The originals that run there, and what they and the comparison start.
const ORIGINALS: &[&str] = &["kube-proxy"];
const PROGRAMS: &[(&str, &str)] =
    &[("ipset", "ipset"), ("nsenter", "util-linux"), ("setpriv", "util-linux"), ("env", "coreutils")];
/// What rules of kube-proxy's ipvs mode are made of. The kernel would load most of it by itself.
const MODULES: &[&str] = &[
    "br_netfilter",
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_ipvs",
    "xt_mark",
    "xt_physdev",
    "xt_set",
    "xt_MASQUERADE",
    "ipt_REJECT",
    "ip6t_REJECT",
    "ip_set_bitmap_port",
    "ip_set_hash_ip",
    "ip_set_hash_ipport",
    "ip_set_hash_ipportip",
    "ip_set_hash_ipportnet",
];
/// By which ipset knows protocols; without it, it takes no entry that has one.
const PROTOCOLS: (&str, &str) = ("/etc/protocols", "tcp 6 TCP\nudp 17 UDP\nsctp 132 SCTP\n");
const HOME: &str = "/peers";
/// Taken along if it is set: one in so many cases.
const ONE_IN: &str = "PORTOLAN_TEST_ONE_IN";
/// All cases of the packet table took it some seven minutes.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// Builds the comparison and boots. What it looks for beside itself has been built.
pub fn run(name: &str, arguments: &[String], others: &[&str]) -> Result<()> {
    machine::prepare_for("the small guest", &[small::PROGRAMS, PROGRAMS].concat())?;
    step::run("the comparison", step::cargo().args(["build", "--release", "--package", "conformance"]))?;
    let guest = Guest::with(&plan(name, arguments, others)?, &[], PATIENCE)?;
    eprintln!("── the small guest: {name}");
    match guest.boot(|line| eprintln!("{line}"))?.as_slice() {
        [outcome] if outcome.status == 0 => Ok(()),
        [outcome] => bail!("{name} ended in the guest with status {}", outcome.status),
        _ => bail!("{name} did not end in the guest: see its console above"),
    }
}

fn plan(name: &str, arguments: &[String], others: &[&str]) -> Result<Plan> {
    let mut plan = Plan {
        text: format!("modules {} {}\nenv PORTOLAN_PEERS {HOME}\n", small::LOADED.join(" "), MODULES.join(" ")),
        files: vec![PROTOCOLS],
        ..Plan::default()
    };
    if let Ok(one_in) = std::env::var(ONE_IN) {
        plan.text.push_str(&format!("env {ONE_IN} {one_in}\n"));
    }
    for program in [&["conformance"], others].concat() {
        plan.programs.push((format!("/{program}"), beside(program)?));
    }
    for (program, _) in PROGRAMS {
        plan.linked.push((format!("/usr/bin/{program}"), small::found(program)?));
    }
    for original in ORIGINALS {
        plan.linked.push((format!("{HOME}/bin/{original}"), peers::built(original)?));
    }
    let words = [&[name.to_owned()], arguments].concat().join(" ");
    plan.text.push_str(&format!("test {name} /conformance {words}\n"));
    Ok(plan)
}

/// A program of the workspace, where cargo put this one.
fn beside(program: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(program);
    path.is_file().then_some(path).with_context(|| format!("cargo has put no {program} beside this program"))
}
