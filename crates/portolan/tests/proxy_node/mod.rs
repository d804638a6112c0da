//! What both tests of `portolan proxy` have in common: namespaces joined by veths, the API server that it follows, its
//! configuration and its process.
// Each of the two has use for its part of this.
#![allow(dead_code)]

pub mod api;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use netns::NetNs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::patience;

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nhostnameOverride: here\n\
                    clusterCIDR: 10.244.0.0/16\nconntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, \
                    tcpCloseWaitTimeout: 0s}\n";

pub fn namespaces<const N: usize>() -> [NetNs; N] {
    [(); N].map(|()| {
        let namespace = NetNs::new().expect("network namespaces need CAP_SYS_ADMIN: run the tests as root");
        ip(&namespace, "link set lo up");
        namespace
    })
}

/// A cable from a device to another namespace's eth0, with an address at each end.
pub fn join(node: &NetNs, device: &str, here: &str, other: &NetNs, there: &str) {
    let pinned = other.run(|| std::fs::File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
    let into = format!("/proc/{}/fd/{}", std::process::id(), pinned.as_raw_fd());
    ip(node, &format!("link add {device} type veth peer name eth0 netns {into}"));
    for (end, link, address) in [(node, device, here), (other, "eth0", there)] {
        ip(end, &format!("addr add {address} dev {link}"));
        ip(end, &format!("link set {link} up"));
    }
}

pub fn ip(namespace: &NetNs, arguments: &str) {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    let output = namespace.run(move || command.output().unwrap()).unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What an HTTP server in a namespace answers, head and body.
pub fn get(namespace: &NetNs, at: &str, path: &str) -> Result<String, String> {
    let address: SocketAddr = at.parse().unwrap();
    let text = namespace.run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, patience())?;
        stream.set_read_timeout(Some(patience()))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    text.unwrap().map_err(|error| error.to_string())
}

pub fn kubeconfig(folder: &Path) -> PathBuf {
    folder.join("kubeconfig")
}

pub fn config(folder: &Path) -> PathBuf {
    folder.join("config.yaml")
}

/// Writes the configuration as a ConfigMap's mount does: a new file takes the old one's place.
pub fn configure(folder: &Path, text: &str) {
    let client = format!("clientConnection: {{kubeconfig: {}}}\n", kubeconfig(folder).display());
    let new = folder.join("new");
    std::fs::write(&new, format!("{HEAD}{client}{text}")).unwrap();
    std::fs::rename(new, config(folder)).unwrap();
}

pub fn portolan_proxy(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
    command.arg("proxy").args(flags).env_remove("PORTOLAN_LOG").stdin(Stdio::null());
    command
}

/// A proxy; killed when dropped.
pub struct Proxy(Child);

impl Proxy {
    /// What it says is added to a file.
    pub fn start(namespace: &NetNs, flags: &[&str], log: &Path) -> Proxy {
        Proxy::run(namespace, portolan_proxy(flags), log)
    }

    /// The same on a machine without any other program.
    pub fn start_alone(namespace: &NetNs, flags: &[&str], log: &Path) -> Proxy {
        let hide = "mount -t tmpfs none /usr && ! ls 2>/dev/null && exec \"$0\" \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", hide, env!("CARGO_BIN_EXE_portolan"), "proxy"]).args(flags);
        Proxy::run(namespace, command, log)
    }

    fn run(namespace: &NetNs, mut command: Command, log: &Path) -> Proxy {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        Proxy(namespace.run(move || command.stderr(log).stdout(Stdio::null()).spawn().unwrap()).unwrap())
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Asks it to end and waits.
    pub fn end(&mut self) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }

    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
