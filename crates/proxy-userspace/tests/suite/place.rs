//! A runtime whose threads are in a network namespace, as a proxy's are in its node's.

use std::future::Future;
use std::process::Command;

use netns::NetNs;
use nix::sched::{CloneFlags, setns};
use proxy::battery::World;

/// Runs something in a namespace; every task has ended when it returns.
pub fn inside<T: Send>(namespace: &NetNs, act: impl AsyncFnOnce() -> T + Send) -> T {
    namespace.run(move || runtime(namespace).block_on(act())).unwrap()
}

fn runtime(namespace: &NetNs) -> tokio::runtime::Runtime {
    let entered = namespace.clone();
    let enter = move || setns(&entered, CloneFlags::CLONE_NEWNET).unwrap();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().on_thread_start(enter).build().unwrap()
}

/// A node without links: a process needs somewhere to listen.
pub fn node(world: &World) -> NetNs {
    let namespace = proxy_rig::namespace();
    let (bits, nodad) = if world.node_address.is_ipv4() { (32, "") } else { (128, "nodad") };
    ip(&namespace, &format!("addr add {}/{bits} dev lo {nodad}", world.node_address));
    namespace
}

pub fn ip(namespace: &NetNs, arguments: &str) {
    let run = || Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(namespace.run(run).unwrap().success(), "ip {arguments}");
}

/// Threads of a runtime in a namespace, for backends that are used from outside of it.
pub struct Threads(Option<tokio::runtime::Runtime>);

impl Threads {
    pub fn inside(namespace: &NetNs) -> Threads {
        Threads(Some(runtime(namespace)))
    }

    /// Runs something in the namespace; its tasks go on afterwards.
    pub fn run<T: Send + 'static>(&self, act: impl Future<Output = T> + Send + 'static) -> T {
        let runtime = self.0.as_ref().unwrap();
        runtime.block_on(runtime.spawn(act)).unwrap()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Sockets are closed when it is done.
        drop(self.0.take());
    }
}
