//! The packet table by real packets: every case of a stage is sent through a rig that has been brought to it. Silence is
//! waited for by many at once. Not responsible for bringing anything to anything, nor for judging.

use std::collections::{BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use ipnet::IpNet;
use proxy::battery::World;
use proxy::battery::table::{Case, Expected, OUTER_NETS, SERVICE_CIDRS, Seen, Stage};
use service_model::{IpFamily, Protocol};

use crate::Rig;
use crate::ask::{ask, patience};
use crate::serve::socket;

/// How many clients ask at the same time.
const CLIENTS: usize = 24;

impl Rig {
    /// A node with both families, beyond which somebody would answer whatever a stage's Services must not take or let
    /// through.
    pub fn for_stage(stage: &Stage) -> Rig {
        let worlds = IpFamily::BOTH.map(World::new);
        let mut rig = Rig::empty();
        worlds.iter().for_each(|world| rig.add(world));
        let nets: Vec<IpNet> = SERVICE_CIDRS.iter().chain(&OUTER_NETS).map(|net| net.parse().unwrap()).collect();
        rig.add_beyond(&nets);
        let protocols: BTreeSet<Protocol> = stage.cases.iter().map(|case| case.probe.protocol).collect();
        for protocol in protocols {
            worlds.iter().for_each(|world| rig.serve(world, protocol));
        }
        for (at, protocol) in stage.strangers() {
            rig.listen_beyond(at, protocol);
        }
        rig.start();
        rig
    }
}

/// What this machine's kernel has: the guest's has SCTP, which is loaded with its first socket.
pub fn protocols() -> Vec<Protocol> {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    all.into_iter().filter(|protocol| socket(at, *protocol).is_ok()).collect()
}

/// What was seen of each of the stage's cases, in their order.
pub fn play(rig: &Rig, stage: &Stage) -> Vec<Vec<Seen>> {
    let turns = Mutex::new(VecDeque::from(stage.in_turn()));
    let seen = Mutex::new(vec![Vec::new(); stage.cases.len()]);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let Some(turn) = next(&turns) {
                    for index in turn {
                        let of_case = ask_enough(rig, &stage.cases[index]);
                        seen.lock().unwrap()[index] = of_case;
                    }
                }
            });
        }
    });
    seen.into_inner().unwrap()
}

/// Whether a case is as it ought to be by now.
pub fn holds(rig: &Rig, case: &Case) -> bool {
    case.expected.judge(case, &ask_enough(rig, case)).is_ok()
}

fn next(turns: &Mutex<VecDeque<Vec<usize>>>) -> Option<Vec<usize>> {
    turns.lock().unwrap().pop_front()
}

fn ask_enough(rig: &Rig, case: &Case) -> Vec<Seen> {
    let patience = patience(case.expected == Expected::Silent);
    let probe = &case.probe;
    let tries = || {
        let mut seen = Vec::new();
        while !case.expected.is_settled(case, &seen) {
            seen.push(ask(probe.from, probe.to, probe.protocol, patience));
        }
        seen
    };
    rig.home(probe.from).run(tries).unwrap()
}
