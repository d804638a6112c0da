//! Follows the configuration file, and has the running proxy follow it. Not responsible for how the proxy changes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use proxy::Order;
use proxy::config::settings::{Settings, settings};
use proxy::config::validate::validate;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::setup::{self, Maker};
use super::{Read, machine, read};
use crate::cli::Proxy;

/// How often the file is looked at. It is small, and reading it sees every kind of change: a new file under its name, the
/// turn of a link that a ConfigMap is mounted with, a write.
const LOOK: Duration = Duration::from_secs(1);
/// A file is taken when it has been the same for so long: whoever writes it may not be done.
const SETTLED: Duration = Duration::from_millis(200);

/// Gives an order for each change of the file, until cancelled.
pub async fn follow(
    options: Proxy,
    mut maker: Maker,
    mut running: Settings,
    mut text: String,
    orders: mpsc::Sender<Order>,
    stop: CancellationToken,
) {
    let Some(path) = options.config.clone() else { return };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let Some(new) = settled(&path, &text).await else { continue };
        text = new;
        tracing::info!(file = %path.display(), "the configuration has changed");
        let told = match understand(&options, &maker, &running).await {
            Ok((settings, made)) => {
                let (done, answer) = oneshot::channel();
                let told = orders.send(Order::Become(Box::new(made.setup.clone()), done)).await;
                if answer.await == Ok(true) {
                    setup::oom_score(&settings);
                    maker.keep(made);
                    running = settings;
                }
                told
            }
            Err(error) => orders.send(Order::Refuse(format!("{}: {error:#}", path.display()))).await,
        };
        if told.is_err() {
            return;
        }
    }
}

/// The file's new text once it holds still. Between two versions it may be missing.
async fn settled(path: &Path, known: &str) -> Option<String> {
    let mut text = tokio::fs::read_to_string(path).await.ok().filter(|text| text != known)?;
    loop {
        tokio::time::sleep(SETTLED).await;
        let again = tokio::fs::read_to_string(path).await.ok()?;
        if again == text {
            return Some(text).filter(|text| text != known);
        }
        text = again;
    }
}

async fn understand(options: &Proxy, maker: &Maker, running: &Settings) -> Result<(Settings, setup::Made)> {
    let Read { config, warnings, .. } = read(options)?;
    validate(&config)?;
    let settings = settings(&config, machine::processors())?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    setup::say(&settings);
    if settings.logging != running.logging {
        tracing::warn!("logging: another format or level takes effect with the next start");
    }
    let made = maker.make(settings.clone()).await.context("cannot do what it asks")?;
    Ok((settings, made))
}
