//! The packet table by real packets: every case of a stage is sent through a rig that has been brought to it. Silence is
//! waited for by many at once. Not responsible for judging.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use proxy::Backend;
use proxy::battery::table::{Case, Expected, Mode, OUTER_NETS, Probe, SERVICE_CIDRS, Seen, Stage, stages};
use proxy::battery::{self, World};
use service_model::{IpFamily, Protocol};

use crate::ask::{ask, patience};
use crate::serve::socket;
use crate::{Rig, witness};

const EVERY_PROTOCOL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
/// How many clients ask at the same time, and how many of those who will hear nothing.
const CLIENTS: usize = 16;
const WAITERS: usize = 128;
/// How long to wait for an answer where it may be too early for one, also on a slow machine.
const GLANCE: Duration = Duration::from_secs(10);
/// Where the whole table takes too long, one in so many cases is sent, and the first of every kind.
const ONE_IN: &str = "PORTOLAN_TEST_ONE_IN";

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
        witness::install(&rig);
        rig
    }
}

/// What this machine's kernel has: the guest's has SCTP, which is loaded with its first socket.
pub fn protocols() -> Vec<Protocol> {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    EVERY_PROTOCOL.into_iter().filter(|protocol| socket(at, *protocol).is_ok()).collect()
}

/// The whole table through a proxy of some mode. For each stage `bring` brings one to it, on the rig's node, and gives back
/// what has to live for as long as it's asked. Says how many cases were sent, and how many need what this kernel hasn't.
///
/// # Panics
/// With everything that's not as written.
pub fn every_case<T>(mode: Mode, bring: impl FnMut(&Rig, &Stage) -> T) {
    let tally = play_all(mode, playable(), bring);
    assert!(tally.cases >= 400, "{tally}");
}

/// The cases of a protocol that not every kernel has.
///
/// # Panics
/// With everything that's not as written.
pub fn every_case_by<T>(protocol: Protocol, mode: Mode, bring: impl FnMut(&Rig, &Stage) -> T) {
    let mut stages = playable();
    stages.iter_mut().for_each(|stage| stage.cases.retain(|case| case.probe.protocol == protocol));
    stages.retain(|stage| !stage.cases.is_empty());
    let tally = play_all(mode, stages, bring);
    assert!(tally.cases > 0, "this kernel has no {protocol}");
}

fn play_all<T>(mode: Mode, stages: Vec<Stage>, mut bring: impl FnMut(&Rig, &Stage) -> T) -> Tally {
    let begun = Instant::now();
    let mut tally = Tally::default();
    for stage in stages {
        let rig = Rig::for_stage(&stage);
        let proxy = bring(&rig, &stage);
        tally.play(mode, &rig, &stage);
        drop(proxy);
    }
    eprintln!("{mode:?}: {tally} in {:.1} s", begun.elapsed().as_secs_f64());
    assert!(tally.complaints.is_empty(), "{tally}:\n{}", tally.complaints.join("\n"));
    tally
}

/// The stages as far as this machine's kernel can play them: all cases, or as few of them as is asked for.
pub fn playable() -> Vec<Stage> {
    chosen(stages(&protocols()))
}

/// Of fewer cases, every sender, target, family and protocol is still there together, and everything that a scene expects.
fn chosen(mut stages: Vec<Stage>) -> Vec<Stage> {
    let Ok(text) = std::env::var(ONE_IN) else { return stages };
    let one_in: usize = text.parse().unwrap_or_else(|error| panic!("{ONE_IN}={text}: {error}"));
    let (mut met, mut number) = (BTreeSet::new(), 0_usize);
    for stage in &mut stages {
        stage.cases.retain(|case| {
            let before = met.len();
            met.extend(kinds(case));
            number += 1;
            met.len() > before || number.is_multiple_of(one_in.max(1))
        });
    }
    stages
}

/// What a case is an example of.
fn kinds(Case { scene, probe, expected }: &Case) -> [String; 2] {
    let Probe { sender, target, family, protocol, .. } = probe;
    [format!("{sender:?} {target:?} {family} {protocol}"), format!("{scene}: {expected:?}")]
}

/// Backends that write to the kernel are brought to a stage by this alone. What goes with their rules is the syncer's: it
/// opens the node's loopback once they guard it.
pub fn settle<B: Backend, const N: usize>(backends: [B; N], rig: &Rig, stage: &Stage) -> [B; N] {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let model = stage.model();
    for backend in &backends {
        runtime.block_on(battery::settle(backend, &model.resolve(&stage.node(), backend.family())));
        let observed = runtime.block_on(backend.observe()).unwrap();
        if backend.guards_loopback(&observed) {
            netns::sysctl::set(&rig.node, "net.ipv4.conf.all.route_localnet", "1").unwrap();
        }
    }
    backends
}

/// What came of the stages so far.
#[derive(Debug, Default)]
pub struct Tally {
    pub cases: usize,
    pub complaints: Vec<String>,
}

impl Tally {
    /// Sends a stage's cases, through whatever has been brought to it.
    pub fn play(&mut self, mode: Mode, rig: &Rig, stage: &Stage) {
        let seen = play(mode, rig, stage);
        let asked = witness::asked(rig);
        let unasked = stage.cases.iter().filter(|case| !asked.contains(&witness::question(case)));
        self.complaints.extend(unasked.map(|case| format!("{case}: the node never saw it")));
        self.complaints.extend(stage.complaints(mode, &seen));
        self.cases += stage.cases.len();
    }

    pub fn add(&mut self, other: Tally) {
        self.cases += other.cases;
        self.complaints.extend(other.complaints);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let here = protocols();
        let all: usize = stages(&EVERY_PROTOCOL).iter().map(|stage| stage.cases.len()).sum();
        let able: usize = stages(&here).iter().map(|stage| stage.cases.len()).sum();
        write!(f, "{} cases sent, {} not as written", self.cases, self.complaints.len())?;
        let missing = EVERY_PROTOCOL.iter().filter(|protocol| !here.contains(protocol));
        missing.into_iter().try_for_each(|one| write!(f, ", {} left to a kernel with {one}", all - able))
    }
}

/// What was seen of each of the stage's cases, in their order. Silence costs time only: all who wait for it wait together.
fn play(mode: Mode, rig: &Rig, stage: &Stage) -> Vec<Vec<Seen>> {
    let is_silent = |turn: &Vec<usize>| turn.iter().all(|index| mode.expects(&stage.cases[*index]) == Expected::Silent);
    let (silent, others): (VecDeque<_>, VecDeque<_>) = stage.in_turn().into_iter().partition(is_silent);
    let queues = [(Mutex::new(others), CLIENTS), (Mutex::new(silent), WAITERS)];
    let seen = Mutex::new(vec![Vec::new(); stage.cases.len()]);
    std::thread::scope(|scope| {
        for (turns, clients) in &queues {
            for _ in 0..*clients {
                scope.spawn(|| {
                    while let Some(turn) = next(turns) {
                        for index in turn {
                            let case = &stage.cases[index];
                            let expected = mode.expects(case);
                            let patience = patience(expected == Expected::Silent);
                            let of_case = ask_enough(rig, case, &expected, patience);
                            seen.lock().unwrap()[index] = of_case;
                        }
                    }
                });
            }
        }
    });
    seen.into_inner().unwrap()
}

/// Whether a case is by now as it ought to be in this mode.
pub fn holds(mode: Mode, rig: &Rig, case: &Case) -> bool {
    let expected = mode.expects(case);
    // Somebody will ask again.
    let patience = patience(expected == Expected::Silent).min(GLANCE);
    expected.judge(case, &ask_enough(rig, case, &expected, patience)).is_ok()
}

fn next(turns: &Mutex<VecDeque<Vec<usize>>>) -> Option<Vec<usize>> {
    turns.lock().unwrap().pop_front()
}

fn ask_enough(rig: &Rig, case: &Case, expected: &Expected, patience: Duration) -> Vec<Seen> {
    let probe = &case.probe;
    let tries = || {
        let mut seen = Vec::new();
        while !expected.is_settled(case, &seen) {
            seen.push(ask(probe.from, probe.to, probe.protocol, patience));
        }
        seen
    };
    rig.home(probe.from).run(tries).unwrap()
}
