//! What `--help` teaches by examples, and hints for those who typed something near. Not responsible for the names and
//! flags themselves (`cli`).

use clap::error::{ContextKind, ContextValue, ErrorKind};

pub const PORTOLAN: &str = "\
Examples:
  sudo portolan up                                  an empty cluster, until Ctrl-C
  sudo portolan up -f examples/myapp                a cluster with these manifests
  portolan run --pod default/client -- curl myapp   a program inside a pod's network
  portolan status                                   what runs
  sudo portolan down                                the end of it

`portolan help COMMAND` has examples for each command; `portolan man` prints the manual page.

Exit codes:
  0  done
  1  an error, which is named
  2  a mistake in the command line
  3  `up` left out objects of kinds that aren't served; it named each, and applied the rest";

pub const UP: &str = "\
Examples:
  Start an empty cluster, and use it from another terminal with kubectl:
    portolan up
  Start three nodes, apply a directory of manifests, and show when its Services answer:
    portolan up -f examples/myapp --nodes 3
  Apply what another program prints:
    helm template ./chart | portolan up -f -
  Follow the files: what is saved is applied, what is removed from them is deleted:
    portolan up -f k8s/ --watch --prune
  Go on in the background:
    portolan up --detach -f k8s/
  A second system beside the first:
    portolan up --data-dir ~/second --api-port 6444 --pod-cidr 10.245.0.0/16 \\
      --service-cidr 10.97.0.0/16 --fabric-cidr 172.31.0.0/24

Files: all of them are checked before the first object is applied; a mistake in one leaves everything as it was.
Objects of kinds that aren't served are left out and named, and `up` ends with exit code 3.
--prune deletes only what `up -f` itself applied from the same files or directories. It never deletes Namespaces,
and nothing at all when no object is left in the files.

Exit codes: 0 ended when asked to, or ready (--detach); 1 an error; 2 a mistake in the command line; 3 like 0, but
objects were left out; 4 not everything was ready in time (--detach), and it goes on.";

pub const DOWN: &str = "\
Examples:
  End the system; the next `up` has every object again:
    portolan down
  End it and forget everything:
    portolan down --purge
  End another system:
    portolan down --data-dir ~/second";

pub const STATUS: &str = "\
Example:
  Use kubectl with the system that runs, if one does:
    portolan status && eval \"$(portolan status | grep ^export)\"

Exit code 1 means that nothing runs.";

pub const RUN: &str = "\
Examples:
  Ask a Service by its name, as a pod would:
    portolan run --pod default/client -- curl -s http://myapp/hostname
  Ask the cluster's DNS:
    portolan run --pod default/client -- dig +short myapp.default.svc.cluster.local
  See a node's packet rules:
    portolan run --node node-1 -- nft list table ip portolan

The program is this machine's own, with its files; the network and the names are the pod's or the node's.";

pub const PROXY: &str = "\
Examples:
  Do what a kube-proxy does with the same file:
    portolan proxy --config /var/lib/kube-proxy/config.conf
  See what it would do:
    portolan proxy --config /var/lib/kube-proxy/config.conf --dry-run
  Without a file:
    portolan proxy --kubeconfig ~/.kube/config --hostname-override node-1 --cluster-cidr 10.244.0.0/16
  See the configuration, with everything that was left out:
    portolan proxy --proxy-mode iptables --write-config-to /dev/stdout
  Take the place of a kube-proxy that has ended, and remove what it left as soon as these rules answer:
    portolan proxy --config /var/lib/kube-proxy/config.conf --take-over
  See what should be in force beside what is, for one Service:
    portolan proxy --config /var/lib/kube-proxy/config.conf dump default/myapp
  Leave nothing behind:
    portolan proxy --cleanup

Flags of kube-proxy that aren't listed are taken too; those that nothing depends on here are named in the log.
A change of the file is applied while the proxy runs, the mode too. One that can't be followed is refused, and the old
configuration stays in force. `dump` ends with exit code 1 when something is missing.
PORTOLAN_LOG sets what is logged, before -v.";

pub const DNS: &str = "\
Examples:
  See what a Corefile means, with everything that it leaves to defaults:
    portolan dns check Corefile
  The one of a cluster:
    kubectl -n kube-system get configmap coredns -o 'jsonpath={.data.Corefile}' | portolan dns check -
  For a program:
    portolan dns check Corefile -o json

Corefiles are read as CoreDNS 1.15.0 reads them. Everything that is wrong is told, with its line and how to mend it, and
then the exit code is 1. Plugins and options of CoreDNS that aren't supported are among it.";

pub const IMAGE: &str = "\
Examples:
  Bring in an image that Docker has:
    docker save web:1 | portolan image load -
  Pull one, by a mirror:
    portolan image pull web:1 --registry-mirror docker.io=https://mirror.example
  See which there are:
    portolan image ls";

pub const COMPLETION: &str = "\
Examples:
  portolan completion bash > ~/.local/share/bash-completion/completions/portolan
  portolan completion zsh > ~/.zfunc/_portolan        (with ~/.zfunc in fpath)
  portolan completion fish > ~/.config/fish/completions/portolan.fish";

pub const MAN: &str = "\
Examples:
  portolan man | man -l -
  sudo portolan man --dir /usr/local/share/man/man1";

/// What else people type, and what they may mean.
const MEANT: &[(&[&str], &str)] = &[
    (&["apply", "create", "deploy"], "`portolan up -f FILE` applies manifests when it starts; kubectl does later"),
    (&["start", "serve", "server", "cluster"], "`portolan up` starts a system"),
    (&["stop", "end", "quit", "halt"], "`portolan down` stops a system"),
    (
        &["delete", "purge", "reset", "clean", "uninstall"],
        "`portolan down --purge` stops a system and removes its data",
    ),
    (&["exec", "enter", "attach"], "`portolan run --pod NAMESPACE/NAME -- CMD` runs a program in a pod's network"),
    (&["ps", "ls", "list", "info", "show"], "`portolan status` shows what runs, `portolan image ls` the images"),
    (
        &["get", "describe", "logs", "scale", "edit", "patch", "rollout", "wait"],
        "that is for kubectl: `portolan status` says which KUBECONFIG to give it",
    ),
    (&["load", "import", "pull"], "`portolan image` brings in images"),
];

/// What the command line's error doesn't know to say.
pub fn hint(error: &clap::Error) -> Option<String> {
    let told = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let typed = told(ContextKind::InvalidSubcommand)?;
            let meant = MEANT.iter().find(|(words, _)| words.contains(&typed))?;
            Some(meant.1.to_owned())
        }
        ErrorKind::UnknownArgument => {
            let typed = told(ContextKind::InvalidArg)?;
            let manifest = std::path::Path::new(typed).exists() || typed.ends_with(".yaml") || typed.ends_with(".yml");
            (manifest && !typed.starts_with('-'))
                .then(|| format!("manifests are named with -f: `portolan up -f {typed}`"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn who_types_something_near_is_told_what_there_is() {
        let hint = |words: &[&str]| hint(&Cli::try_parse_from(words).err().unwrap()).unwrap_or_default();
        assert!(hint(&["portolan", "apply"]).contains("up -f FILE"));
        assert!(hint(&["portolan", "logs"]).contains("kubectl"));
        assert!(hint(&["portolan", "up", "app.yaml"]).contains("-f app.yaml"));
        assert_eq!(hint(&["portolan", "up", "--nods", "3"]), "");
        let suggested = Cli::try_parse_from(["portolan", "up", "--nods", "3"]).err().unwrap().to_string();
        assert!(suggested.contains("--nodes"), "{suggested}");
    }

    #[test]
    fn every_command_has_examples_and_the_command_line_is_sound() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{} has no example", command.get_name());
        }
    }
}
