//! Questions about generated Services, Pods and EndpointSlices to the real CoreDNS and to our DNS server, both of which
//! watch our API server: the answers are to be the same, but for the differences that are on purpose. What ours answers is
//! read by two decoders, too. Not responsible for the questions' own tests: crate `dns-zone` has them.

mod ask;
mod decoders;
mod objects;
mod questions;
mod setups;
mod verdicts;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use conformance::{Originals, Ours, Program, program};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::dice::Dice;
use ask::{Asker, Question, Reading};
use setups::{SETUPS, Setup};
use verdicts::Verdict;

#[derive(clap::Args)]
pub struct Options {
    /// How many Services there are, with what belongs to them.
    #[arg(long, default_value_t = 340)]
    services: usize,
    /// How many questions are put under each of the configurations.
    #[arg(long, default_value_t = 1500)]
    questions: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which API server both of them watch.
    #[arg(long, value_enum, default_value_t = Api::Ours)]
    api: Api,
    /// Show the differences on purpose as well.
    #[arg(long)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Api {
    Ours,
    Real,
}

const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];
/// How long a server may take until it knows every object.
const KNOWS: Duration = Duration::from_secs(60);

/// Blocks. To be called from the main thread, which the programs must not outlive.
pub fn run(options: &Options) -> Result<bool> {
    let runtime = crate::runtime()?;
    let range = format!("--service-cluster-ip-range={}", SERVICE_CIDRS.join(","));
    let admission =
        "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition,DefaultTolerationSeconds,Priority";
    let originals = match options.api {
        Api::Ours => None,
        Api::Real => Some(Originals::start(&[&range, admission])?),
    };
    let ours = match &originals {
        None => Some(runtime.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 7443)).await.context("listening")?;
            Ours::start_at(listener, &SERVICE_CIDRS).await
        })?),
        Some(_) => None,
    };
    let (kubeconfig, directory) = match (&originals, &ours) {
        (Some(originals), _) => (originals.kubeconfig(), originals.directory().to_owned()),
        (None, Some(ours)) => (ours.kubeconfig(), ours.directory().to_owned()),
        (None, None) => anyhow::bail!("there is no API server"),
    };
    let client = runtime.block_on(async {
        match (&originals, &ours) {
            (Some(originals), _) => originals.client().await,
            (None, Some(ours)) => ours.client().await,
            (None, None) => anyhow::bail!("there is no API server"),
        }
    })?;
    let mut dice = Dice::new(options.seed);
    let world = objects::generate(&mut dice, options.services);
    runtime.block_on(objects::create(&client, &world))?;
    let corefile = directory.join("Corefile");
    let outside = directory.join("outside.zone");
    std::fs::write(&outside, setups::outside()).context("writing a zone")?;
    std::fs::write(&corefile, setups::corefile(&kubeconfig, &outside)).context("writing the Corefile")?;
    let arguments = ["-conf".to_owned(), corefile.display().to_string()];
    let mut coredns = Program::start(&directory, &program("coredns")?, &arguments)?;
    runtime.block_on(compare(options, &client, &world, &mut coredns, &mut dice))
}

/// What was seen, by setup and verdict.
#[derive(Default)]
struct Tally {
    asked: usize,
    on_purpose: BTreeMap<char, usize>,
    findings: Vec<String>,
    /// What ours sent, for the other decoder.
    messages: Vec<Vec<u8>>,
}

async fn compare(
    options: &Options,
    client: &kube::Client,
    world: &objects::World,
    coredns: &mut Program,
    dice: &mut Dice,
) -> Result<bool> {
    let mut tally = Tally::default();
    for setup in SETUPS {
        let stop = CancellationToken::new();
        let config = setup.config()?;
        let own = (Ipv4Addr::LOCALHOST, setup.our_port).into();
        let serving = tokio::spawn(dns::run(client.clone(), config, stop.clone()));
        let (mut theirs, mut ours) = (knowing(setup.port, world, setup).await?, knowing_at(own, world, setup).await?);
        let questions = questions::generate(dice, world, options.questions);
        let before = (tally.asked, tally.findings.len());
        for question in &questions {
            coredns.until(|_| true)?;
            let their = theirs.ask(question).await.with_context(|| coredns.said())?;
            let our = ours.ask(question).await?;
            tally.judge(options, world, setup, question, &their, &our);
        }
        let (asked, found) = (tally.asked - before.0, tally.findings.len() - before.1);
        eprintln!("{:<10} {asked} questions, {found} answered differently without a reason", setup.name);
        stop.cancel();
        serving.await??;
    }
    let read = decoders::agree(&tally.messages)?;
    tally.findings.iter().take(40).for_each(|finding| eprintln!("{finding}"));
    eprintln!(
        "{} Services, {} slices, {} pods; {} questions, {} answered alike, on purpose different {:?}, {} findings; {} \
         answers read alike by hickory-proto and dnspython, {} not",
        world.services.len(),
        world.slices.len(),
        world.pods.len(),
        tally.asked,
        tally.asked - tally.findings.len() - tally.on_purpose.values().sum::<usize>(),
        tally.on_purpose,
        tally.findings.len(),
        tally.messages.len() - read.len(),
        read.len(),
    );
    read.iter().take(10).for_each(|finding| eprintln!("{finding}"));
    Ok(tally.findings.is_empty() && read.is_empty())
}

impl Tally {
    fn judge(
        &mut self,
        options: &Options,
        world: &objects::World,
        setup: &Setup,
        question: &Question,
        theirs: &Reading,
        ours: &Reading,
    ) {
        self.asked += 1;
        self.messages.push(ours.message.clone());
        let told = || format!("{} {question}\n  original {theirs}\n  ours     {ours}", setup.name);
        match verdicts::judge(world, setup, question, theirs, ours) {
            Verdict::Same => {}
            Verdict::OnPurpose(letter) => {
                *self.on_purpose.entry(letter).or_default() += 1;
                if options.verbose {
                    eprintln!("({letter}) {}", told());
                }
            }
            Verdict::Different => self.findings.push(told()),
        }
    }
}

async fn knowing(port: u16, world: &objects::World, setup: &Setup) -> Result<Asker> {
    knowing_at((Ipv4Addr::LOCALHOST, port).into(), world, setup).await
}

/// A connection to a server that answers, knows what was made last, and may deny names: that it knows everything.
async fn knowing_at(server: SocketAddr, world: &objects::World, setup: &Setup) -> Result<Asker> {
    let begun = Instant::now();
    let question = Question::plain(&world.last(setup.shows_labelled_only()));
    let missing = Question::plain("missing.alpha.svc.cluster.local");
    loop {
        if let Ok(mut asker) = Asker::connect(server).await
            && asker.ask(&question).await.is_ok_and(|reading| !reading.answers.is_empty())
            && asker.ask(&missing).await.is_ok_and(|reading| reading.denied())
        {
            return Ok(asker);
        }
        ensure!(begun.elapsed() < KNOWS, "{server} doesn't know {question} after {KNOWS:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
