//! Watching collections: what a client sees as events, as a stream of encoded lines.
//!
//! Not responsible for delivery (the store's watch) nor for the form of objects (`http::render`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api::status::Status;
use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;
use rand::RngExt;
use serde_json::{Value, json};
use store::{Entry, Event, Range, Revision, Watch, WatchEnd};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::lines::{Lines, Name};
use super::{Answer, ListOptions, Registry, Selection, set_revision, store_failed, stored};
use crate::http::body::BoxError;
use crate::http::negotiate::Form;
use crate::http::render::Renderer;
use crate::http::route::Target;
use crate::kinds;

/// Between bookmarks, and before the end of a watch (apiserver storage/cacher).
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);

/// A watch without a timeout of its own lasts this long to twice this long (--min-request-timeout).
const LASTS: Duration = Duration::from_secs(1800);

/// Initial events are sent in pieces of about this size.
const PIECE: usize = 64 * 1024;

/// What a watch is asked for.
pub struct WatchOptions {
    pub list: ListOptions,
    pub renderer: Renderer,
    /// Ends the watch with the server.
    pub ending: CancellationToken,
}

/// An open watch of a collection.
pub struct WatchStream {
    selection: Selection,
    renderer: Renderer,
    lines: Arc<Lines>,
    initial: VecDeque<Entry>,
    /// The bookmark that ends the initial events, where one was asked for.
    initial_end: Option<Revision>,
    watch: Option<Box<dyn Watch>>,
    bookmarks: Option<Interval>,
    deadline: Instant,
    before_end: bool,
    ending: CancellationToken,
    first: bool,
    failed: Option<Status>,
}

impl Registry {
    pub async fn watch(&self, target: &Target, options: WatchOptions) -> Answer<WatchStream> {
        let list = &options.list;
        let mut prefix = kinds::prefix(target.resource, target.namespace.as_deref());
        if let Some(name) = list.selection.name()
            && (target.namespace.is_some() || !target.resource.namespaced())
        {
            // Names that only start like it are sorted out by the selector.
            prefix.push_str(name);
        }
        if let Some(revision) = list.revision.filter(|_| list.send_initial_events == Some(true)) {
            // Over an open stream as well.
            if let Err(status) = self.reach(revision).await {
                let mut stream = WatchStream::new(&options, self.lines.clone());
                stream.failed = Some(*status);
                return Ok(stream);
            }
        }
        if list.timeout.is_some_and(|timeout| timeout.is_zero()) {
            // Over before anything could be told: half of a state would be worse than none.
            let mut stream = WatchStream::new(&options, self.lines.clone());
            stream.failed = Some(Status::broken_watch("context deadline exceeded"));
            return Ok(stream);
        }
        let wants_state = list.send_initial_events.unwrap_or(list.revision.is_none());
        let mut stream = WatchStream::new(&options, self.lines.clone());
        let after = if wants_state {
            let found = self.store.range(Range::prefix(prefix.clone())).await.map_err(store_failed)?;
            stream.initial = found.entries.into();
            let end = list.send_initial_events == Some(true) && list.bookmarks;
            stream.initial_end = end.then_some(found.revision);
            found.revision
        } else {
            match list.revision {
                Some(revision) => revision,
                None => self.store.revision().await.map_err(store_failed)?,
            }
        };
        match self.store.watch(&prefix, after).await {
            Ok(watch) => stream.watch = Some(watch),
            // Over an open stream, as clients expect it: an ERROR event.
            Err(store::Error::Compacted { .. }) => stream.failed = Some(too_old()),
            Err(error) => return Err(store_failed(error)),
        }
        Ok(stream)
    }
}

fn too_old() -> Status {
    Status::expired("The resourceVersion for the provided watch is too old.")
}

impl WatchStream {
    fn new(options: &WatchOptions, lines: Arc<Lines>) -> Self {
        let lasts = options.list.timeout.unwrap_or_else(|| LASTS.mul_f64(rand::rng().random_range(1.0..2.0)));
        let deadline = Instant::now() + lasts;
        let bookmarks = options.list.bookmarks.then(|| {
            let mut interval = tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        WatchStream {
            selection: options.list.selection.clone(),
            renderer: options.renderer,
            lines,
            initial: VecDeque::new(),
            initial_end: None,
            watch: None,
            bookmarks,
            deadline,
            before_end: options.list.bookmarks && lasts > BOOKMARK_BEFORE_END,
            ending: options.ending.clone(),
            first: true,
            failed: None,
        }
    }

    /// The encoded events as they come, one chunk per flush.
    pub fn into_chunks(self) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
        futures::stream::unfold(self, |mut stream| async move {
            let chunk = stream.chunk().await?;
            Some((Ok(chunk), stream))
        })
    }

    /// The next lines; `None` at the end.
    async fn chunk(&mut self) -> Option<Bytes> {
        if let Some(lines) = self.initial_chunk() {
            return Some(lines);
        }
        if let Some(status) = self.failed.take() {
            self.watch = None;
            return Some(line("ERROR", &status.to_value()).into());
        }
        loop {
            let watch = self.watch.as_mut()?;
            let before_end = self.deadline - BOOKMARK_BEFORE_END;
            tokio::select! {
                batch = watch.next() => match batch {
                    Ok(batch) => {
                        self.renderer.now = Timestamp::now();
                        let lines: Vec<u8> = batch.events.iter().flat_map(|e| self.change(e, batch.revision)).collect();
                        if !lines.is_empty() {
                            return Some(lines.into());
                        }
                    }
                    Err(end) => {
                        self.watch = None;
                        return ended(end);
                    }
                },
                () = tick(&mut self.bookmarks) => {
                    if let Some(revision) = watch.progress() {
                        return Some(self.bookmark(revision, false).into());
                    }
                }
                () = tokio::time::sleep_until(before_end), if self.before_end => {
                    self.before_end = false;
                    if let Some(revision) = watch.progress() {
                        return Some(self.bookmark(revision, false).into());
                    }
                }
                () = tokio::time::sleep_until(self.deadline) => return None,
                () = self.ending.cancelled() => return None,
            }
        }
    }

    fn initial_chunk(&mut self) -> Option<Bytes> {
        let mut lines = Vec::new();
        while lines.len() < PIECE
            && let Some(entry) = self.initial.pop_front()
        {
            if let Some(object) = self.selected(Some(&entry)) {
                lines.extend(self.event("ADDED", object));
            }
        }
        if self.initial.is_empty()
            && let Some(revision) = self.initial_end.take()
        {
            lines.extend(self.bookmark(revision, true));
        }
        (!lines.is_empty()).then(|| lines.into())
    }

    /// A change as this client sees it: crossing the selector's border is appearing or disappearing.
    fn change(&mut self, event: &Event, revision: Revision) -> Vec<u8> {
        // Where everything is selected, what was before needs no look, only whether it was.
        if self.selection.is_empty() && event.entry.is_some() {
            let kind = if event.previous.is_some() { "MODIFIED" } else { "ADDED" };
            return self.shared(kind, event, revision);
        }
        match (self.selected(event.entry.as_ref()), self.selected(event.previous.as_ref())) {
            (Some(new), None) => self.event("ADDED", new),
            (Some(new), Some(_)) => self.event("MODIFIED", new),
            (None, Some(mut old)) => {
                set_revision(&mut old, revision);
                self.event("DELETED", old)
            }
            (None, None) => Vec::new(),
        }
    }

    /// The line of an object that everybody who watches in this form sees the same.
    fn shared(&mut self, kind: &str, event: &Event, revision: Revision) -> Vec<u8> {
        let name =
            (self.renderer.form == Form::Object).then(|| Name::new(self.renderer.resource, revision, &event.key));
        if let Some(line) = name.as_ref().and_then(|name| self.lines.get(name)) {
            return line.into();
        }
        let Some(object) = self.selected(event.entry.as_ref()) else { return Vec::new() };
        let line = self.event(kind, object);
        match name {
            Some(name) => {
                let line = Bytes::from(line);
                self.lines.keep(name, &line);
                line.into()
            }
            None => line,
        }
    }

    fn selected(&self, entry: Option<&Entry>) -> Option<Value> {
        // A broken object can't be shown; lists and gets say so, a watch goes on with the others.
        let object = stored(entry?).map_err(|status| tracing::error!(%status, "skipping an object in a watch")).ok()?;
        self.selection.matches(self.renderer.resource, &object.object).then_some(object.object)
    }

    fn event(&mut self, kind: &str, object: Value) -> Vec<u8> {
        let shown = self.renderer.event(object, std::mem::take(&mut self.first));
        line(kind, &shown)
    }

    fn bookmark(&mut self, revision: Revision, initial_end: bool) -> Vec<u8> {
        let shown = self.renderer.bookmark(revision, initial_end, std::mem::take(&mut self.first));
        line("BOOKMARK", &shown)
    }
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

fn ended(end: WatchEnd) -> Option<Bytes> {
    match end {
        WatchEnd::Slow => Some(line("ERROR", &too_old().to_value()).into()),
        WatchEnd::Closed => None,
    }
}

fn line(kind: &str, object: &Value) -> Vec<u8> {
    let mut line = json!({"type": kind, "object": object}).to_string().into_bytes();
    line.push(b'\n');
    line
}
