//! A decorator around the client's session: replays a rewritten body to any number of attempts, holds a JSON reply until
//! its cost is known, and keeps a client that is slow or gone from ending an exchange that others wait for.
//!
//! Two limits of Pingora 0.9.1 force it (both measured, see the tests `body_sizes` and `held_replies`):
//! a body that was read before `upstream_peer` is replayed from a 64 KiB buffer only, and a response header cannot wait
//! for its body inside a filter. Pingora's `custom::server::Session` trait lets us stand between it and the real
//! session; the trait is `doc(hidden)`, which is why the crate's version is pinned.
//!
//! The decorator is put on per request, only where it is needed, and taken off again before the connection is reused.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, Stream};
use http::HeaderMap;
use pingora_core::protocols::{
    Digest,
    http::{
        HttpTask, ServerSession as HttpSession,
        custom::{CustomMessageWrite, server::Session as CustomSession},
    },
    l4::socket::SocketAddr,
};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use crate::{
    cache::{Lead, Outcome},
    capacity::{MemoryBudget, Part, Refused, SMALL, Share},
};

/// One `write_timeout` covers one piece, so a slow provider may take a large body at its own pace.
const PIECE: usize = 256 * 1024;

/// Bodies up to this size are replayed by Pingora's own buffer; larger ones need the decorator.
pub const NATIVE_REPLAY: usize = 64 * 1024;

/// The memory budget has no room for a reply that must be held; never seen by a client.
pub const NO_ROOM: ErrorType = ErrorType::Custom("NoRoom");

/// Bytes by which the room of a held reply grows.
const STEP: u64 = 256 << 10;

/// Turns a complete reply into what the client gets: may change status, headers and body.
pub type Finish = Box<dyn FnOnce(&mut ResponseHeader, Bytes) -> Bytes + Send + Sync>;

/// Controls the decorator from the outside; the request's context keeps it.
pub struct Decorator {
    /// Made when it is first needed: a small request that is streamed never needs it.
    shared: OnceLock<Arc<Shared>>,
    installed: bool,
}

#[derive(Default)]
struct Shared {
    replay: Mutex<Option<Replay>>,
    hold: Mutex<Hold>,
    shield: OnceLock<Shield>,
    parting: OnceLock<Parting>,
    /// When the client left; the exchange goes on without it.
    gone: OnceLock<Instant>,
    /// Where the real session waits after the decorator was dropped.
    returned: Mutex<Option<Box<HttpSession>>>,
}

/// Lets an exchange go on without its client.
struct Shield {
    lead: Arc<Lead>,
    /// Also when nobody else waits for it.
    finish: bool,
}

/// What becomes of an exchange whose client leaves, where nobody else waits for its answer.
#[derive(Clone, Copy, Debug)]
pub enum Parting {
    /// It goes on for so long: what the provider counted is about to come.
    Linger(Duration),
    /// It goes on to its end.
    Drain,
}

struct Replay {
    body: Bytes,
    sent: usize,
}

/// How much is held.
#[derive(Clone, Copy)]
struct Limit {
    bytes: usize,
    /// What is larger is an error.
    must: bool,
}

#[derive(Default)]
enum Hold {
    /// Everything passes.
    #[default]
    Off,
    /// The next final response header is kept back.
    Armed { limit: Limit, finish: Finish, room: Room },
    /// Header and body so far.
    Holding { limit: Limit, finish: Finish, room: Room, header: Box<ResponseHeader>, chunks: Vec<Bytes>, length: usize },
}

/// The room of a held reply in the memory budget.
struct Room {
    memory: Arc<MemoryBudget>,
    share: Option<Share>,
}

impl Room {
    /// Makes room for a body of so many bytes: its pieces, and the whole that is made of them at the end. A small one is free.
    fn fit(&mut self, length: usize) -> Result<(), Refused> {
        if length <= SMALL {
            return Ok(());
        }
        let wanted = 2 * length as u64;
        match &mut self.share {
            Some(share) if wanted > share.bytes() => share.grow((wanted - share.bytes()).max(STEP)),
            Some(_) => Ok(()),
            None => self.memory.try_draw(Part::Reply, wanted.max(STEP)).map(|share| self.share = Some(share)),
        }
    }
}

impl Decorator {
    /// A decorator that is not installed yet.
    pub fn new() -> Self {
        Self { shared: OnceLock::new(), installed: false }
    }

    fn shared(&self) -> &Arc<Shared> {
        self.shared.get_or_init(Arc::default)
    }

    /// Sets the body the next attempt sends; replaces Pingora's own replay once installed.
    pub fn set_body(&self, body: Bytes) {
        let sent = body.len().min(PIECE);
        *lock(&self.shared().replay) = Some(Replay { body, sent });
    }

    /// Lets go of the body, of which another will be set before the next attempt.
    pub fn forget_body(&self) {
        if let Some(replay) = self.shared.get().and_then(|shared| lock(&shared.replay).take()) {
            drop(replay);
        }
    }

    /// Lets go of the body if all of it has been sent.
    pub fn forget_sent_body(&self) {
        let Some(shared) = self.shared.get() else { return };
        if let Some(replay) = lock(&shared.replay).as_mut().filter(|replay| replay.sent >= replay.body.len()) {
            *replay = Replay { body: Bytes::new(), sent: 0 };
        }
    }

    /// Keeps the next response header back until the body is complete, then calls `finish` with both. A body over
    /// `limit` bytes, or one that finds no room in the memory budget, is let through unfinished, or breaks the exchange where it
    /// `must` be finished.
    pub fn hold(&self, limit: usize, must: bool, memory: &Arc<MemoryBudget>, finish: Finish) {
        let room = Room { memory: memory.clone(), share: None };
        *lock(&self.shared().hold) = Hold::Armed { limit: Limit { bytes: limit, must }, finish, room };
    }

    /// From now on a client that leaves, or does not read, does not end the exchange while others follow `lead`; with
    /// `finish` not even if nobody does.
    pub fn shield(&self, lead: Arc<Lead>, finish: bool) {
        // The second time it would be the same one.
        let _ = self.shared().shield.set(Shield { lead, finish });
    }

    /// From now on the exchange does not end at once when the client leaves.
    pub fn outlive_client(&self, parting: Parting) {
        // The first word holds: what is drained need not linger.
        let _ = self.shared().parting.set(parting);
    }

    /// True after the client has left and the exchange went on without it.
    pub fn is_client_gone(&self) -> bool {
        self.shared.get().is_some_and(|shared| shared.gone.get().is_some())
    }

    /// Puts the decorator around the client's session. Does nothing the second time.
    pub fn install(&mut self, session: &mut Session) {
        if self.installed {
            return;
        }
        let mut inner = mem::replace(&mut session.downstream_session, placeholder());
        if self.shared().shield.get().is_some() {
            // Writes that can wait in the session while the provider is read on. HTTP/1 only.
            inner.set_proxy_tasks_enabled(true);
        }
        let layer = Layer { inner: Some(inner), shared: self.shared().clone() };
        *session.downstream_session = HttpSession::new_custom(Box::new(layer));
        self.installed = true;
    }

    /// Takes the decorator off; what it held back is dropped. Must run before the connection can be reused.
    pub fn uninstall(&mut self, session: &mut Session) {
        let Some(shared) = self.shared.get() else { return };
        *lock(&shared.hold) = Hold::Off;
        if !self.installed {
            return;
        }
        // Dropping the layer moves the real session into `returned`.
        if let Some(layer) = session.downstream_session.as_custom_mut() {
            *layer = Box::new(());
        }
        if let Some(inner) = lock(&shared.returned).take() {
            session.downstream_session = inner;
        }
        self.installed = false;
    }

    /// True while the decorator stands in the session.
    pub fn is_installed(&self) -> bool {
        self.installed
    }
}

impl Default for Decorator {
    fn default() -> Self {
        Self::new()
    }
}

/// True while something waits for a client that is slow to read.
pub fn waits_to_be_read(session: &HttpSession) -> bool {
    session.supports_proxy_task_api() && session.has_pending_downstream_proxy_tasks()
}

/// Writes what waits for a client that is slow to read. May be dropped before it has ended.
///
/// # Errors
/// When the client is gone.
pub async fn flush(session: &mut HttpSession) -> Result<()> {
    while waits_to_be_read(session) {
        session.write_downstream_proxy_tasks().await?;
    }
    Ok(())
}

/// Stands in while sessions are swapped; every call on it would panic, and none is made.
fn placeholder() -> Box<HttpSession> {
    Box::new(HttpSession::new_custom(Box::new(())))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Layer {
    /// Always present until the layer is dropped.
    inner: Option<Box<HttpSession>>,
    shared: Arc<Shared>,
}

impl Drop for Layer {
    fn drop(&mut self) {
        *lock(&self.shared.returned) = self.inner.take();
    }
}

/// What to do with a task after the hold has looked at it.
enum Verdict {
    Pass(HttpTask),
    Kept,
    Release(Box<ResponseHeader>, Bytes, Option<Box<HeaderMap>>),
    LetThrough(Vec<HttpTask>),
    Fail(Box<pingora_error::Error>),
}

impl Layer {
    fn inner(&self) -> &HttpSession {
        match &self.inner {
            Some(inner) => inner,
            None => unreachable!("the session is taken only by drop"),
        }
    }

    fn inner_mut(&mut self) -> &mut HttpSession {
        match &mut self.inner {
            Some(inner) => inner,
            None => unreachable!("the session is taken only by drop"),
        }
    }

    fn is_gone(&self) -> bool {
        self.shared.gone.get().is_some()
    }

    fn note_gone(&self) -> Instant {
        *self.shared.gone.get_or_init(Instant::now)
    }

    /// The shield, while the flight behind it is under way.
    fn shield(&self) -> Option<&Shield> {
        self.shared.shield.get().filter(|shield| !shield.lead.is_over())
    }

    /// Waits for the client to leave, or for what it sends; what it has not read yet is written meanwhile.
    async fn watch(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        let error = if self.is_gone() {
            Error::explain(ErrorType::ConnectionClosed, "the client has left")
        } else {
            let inner = self.inner_mut();
            let outcome = match flush(inner).await {
                Ok(()) => inner.read_body_or_idle(no_body_expected).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(data) => return Ok(data),
                Err(error) => error,
            }
        };
        if let Some(shield) = self.shield() {
            self.note_gone();
            match shield.finish {
                true => std::future::pending().await,
                false => shield.lead.abandoned().await,
            }
        }
        match self.shared.parting.get() {
            Some(Parting::Drain) => {
                self.note_gone();
                std::future::pending().await
            }
            Some(Parting::Linger(time)) => {
                let until = self.note_gone() + *time;
                tokio::time::sleep_until(until.into()).await;
            }
            None => {}
        }
        Err(error)
    }

    /// Writes to the client. Behind a shield it does not wait for a client that does not read, and not for one that is gone.
    async fn write(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let ends = tasks.iter().any(HttpTask::is_end);
        if self.is_gone() {
            // What failed has to be told also where nobody listens.
            return match tasks.into_iter().find_map(|task| if let HttpTask::Failed(e) = task { Some(e) } else { None })
            {
                Some(error) => Err(error),
                None => Ok(ends),
            };
        }
        let guarded = self.shield().is_some();
        let inner = self.inner_mut();
        let queued = waits_to_be_read(inner);
        let failed = tasks.iter().any(|task| matches!(task, HttpTask::Failed(_)));
        if failed || !inner.supports_proxy_task_api() || !guarded && !queued {
            return match inner.response_duplex_vec(tasks).await {
                Err(error) if !failed => self.go_on_alone(error, ends),
                outcome => outcome,
            };
        }
        for task in tasks {
            inner.send_downstream_proxy_task(task);
        }
        // Without a flight that others follow nothing is gained by reading on.
        let outcome = match guarded {
            true => inner.write_downstream_proxy_tasks().now_or_never().unwrap_or(Ok(false)),
            false => inner.write_downstream_proxy_tasks().await,
        };
        match outcome {
            Ok(done) => Ok(done || ends),
            Err(error) => self.go_on_alone(error, ends),
        }
    }

    /// The client cannot be written to: the exchange goes on if others wait for it, or if it is to outlive its client.
    fn go_on_alone(&self, error: Box<Error>, ends: bool) -> Result<bool> {
        match self.shield() {
            Some(shield) if shield.finish || !shield.lead.abandon() => {}
            _ if self.shared.parting.get().is_some() => {}
            _ => return Err(error),
        }
        self.note_gone();
        Ok(ends)
    }

    /// The hold as a state machine: Off → (Armed → Holding → Off).
    fn consider(&self, task: HttpTask) -> Verdict {
        let mut hold = lock(&self.shared.hold);
        match (mem::take(&mut *hold), task) {
            (Hold::Armed { limit, finish, room }, HttpTask::Header(header, false))
                if !header.status.is_informational() =>
            {
                *hold = Hold::Holding { limit, finish, room, header, chunks: Vec::new(), length: 0 };
                Verdict::Kept
            }
            (armed @ Hold::Armed { .. }, task @ HttpTask::Header(_, false)) => {
                *hold = armed;
                Verdict::Pass(task)
            }
            (Hold::Armed { finish, room, .. }, HttpTask::Header(header, true)) => {
                complete(finish, room, header, Vec::new(), None)
            }
            (Hold::Holding { limit, finish, mut room, header, mut chunks, length }, HttpTask::Body(data, end)) => {
                let length = length + data.as_ref().map_or(0, Bytes::len);
                chunks.extend(data.filter(|d| !d.is_empty()));
                let fits = room.fit(length).is_ok();
                if !fits && limit.must {
                    Verdict::Fail(Error::explain(NO_ROOM, "the reply finds no room in the memory budget").into_up())
                } else if end && fits {
                    complete(finish, room, header, chunks, None)
                } else if length > limit.bytes && limit.must {
                    Verdict::Fail(Error::explain(ErrorType::ReadError, "the reply is too large to be held").into_up())
                } else if length > limit.bytes || !fits {
                    let mut tasks = vec![HttpTask::Header(header, false)];
                    tasks.extend(chunks.into_iter().map(|c| HttpTask::Body(Some(c), false)));
                    if end {
                        tasks.push(HttpTask::Done);
                    }
                    Verdict::LetThrough(tasks)
                } else {
                    *hold = Hold::Holding { limit, finish, room, header, chunks, length };
                    Verdict::Kept
                }
            }
            (Hold::Holding { finish, room, header, chunks, .. }, HttpTask::Done) => {
                complete(finish, room, header, chunks, None)
            }
            (Hold::Holding { finish, room, header, chunks, .. }, HttpTask::Trailer(trailers)) => {
                complete(finish, room, header, chunks, trailers)
            }
            // What was held is gone: nothing reached the client, so another attempt may still answer.
            (Hold::Holding { .. }, HttpTask::Failed(error)) => Verdict::Fail(error),
            (state, task) => {
                *hold = state;
                Verdict::Pass(task)
            }
        }
    }
}

fn complete(
    finish: Finish,
    room: Room,
    mut header: Box<ResponseHeader>,
    mut chunks: Vec<Bytes>,
    trailers: Option<Box<HeaderMap>>,
) -> Verdict {
    let body = match chunks.len() {
        0 => Bytes::new(),
        1 => chunks.swap_remove(0),
        _ => {
            let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
            chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
            drop(chunks);
            whole.freeze()
        }
    };
    let body = finish(&mut header, body);
    let body = match room.share {
        // Until the client has read it.
        Some(share) => share.hold(body),
        None => body,
    };
    header.remove_header(&http::header::TRANSFER_ENCODING);
    // The value is a number: inserting it cannot fail.
    let _ = header.insert_header(http::header::CONTENT_LENGTH, body.len());
    Verdict::Release(header, body, trailers)
}

#[async_trait]
impl CustomSession for Layer {
    // ---- the request: our own body in place of the client's -------------------------------------------------------

    fn is_body_done(&mut self) -> bool {
        if let Some(replay) = &*lock(&self.shared.replay) {
            return replay.sent >= replay.body.len();
        }
        self.inner_mut().is_body_done()
    }

    fn is_body_empty(&mut self) -> bool {
        if let Some(replay) = &*lock(&self.shared.replay) {
            return replay.body.is_empty();
        }
        self.inner_mut().is_body_empty()
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        if let Some(replay) = &*lock(&self.shared.replay) {
            return Some(replay.body.slice(..replay.body.len().min(PIECE)));
        }
        self.inner().get_retry_buffer()
    }

    fn enable_retry_buffering(&mut self) {
        if lock(&self.shared.replay).is_none() {
            self.inner_mut().enable_retry_buffering();
        }
    }

    fn retry_buffer_truncated(&self) -> bool {
        lock(&self.shared.replay).is_none() && self.inner().retry_buffer_truncated()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        let replaying = {
            let mut replay = lock(&self.shared.replay);
            match &mut *replay {
                Some(replay) if !no_body_expected => {
                    let from = replay.sent;
                    if from >= replay.body.len() {
                        // Must be an end, not a wait: an HTTP/2 upstream hangs without it.
                        return Ok(None);
                    }
                    replay.sent = (from + PIECE).min(replay.body.len());
                    return Ok(Some(replay.body.slice(from..replay.sent)));
                }
                Some(_) => true,
                None => false,
            }
        };
        // With the body replayed the client's own body is done; what is left to watch is the client leaving.
        self.watch(replaying || no_body_expected).await
    }

    // ---- the response: hold or pass ---------------------------------------------------------------------------------

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        if matches!(*lock(&self.shared.hold), Hold::Off) {
            return self.write(tasks).await;
        }
        let mut done = false;
        for task in tasks {
            match self.consider(task) {
                Verdict::Kept => {}
                Verdict::Pass(task) => done |= self.write(vec![task]).await?,
                Verdict::LetThrough(tasks) => {
                    if let Some(shield) = self.shield() {
                        // Too large to be kept for those who wait.
                        shield.lead.end(Outcome::Solo);
                    }
                    done |= self.write(tasks).await?;
                }
                Verdict::Fail(error) => return Err(error),
                Verdict::Release(..) if self.is_gone() => done = true,
                Verdict::Release(header, body, trailers) => {
                    let inner = self.inner_mut();
                    inner.write_response_header(header).await.map_err(|e| e.into_down())?;
                    inner.write_response_body(body, trailers.is_none()).await.map_err(|e| e.into_down())?;
                    if let Some(trailers) = trailers {
                        inner.write_response_trailers(*trailers).await.map_err(|e| e.into_down())?;
                        inner.finish_body().await.map_err(|e| e.into_down())?;
                    }
                    done = true;
                }
            }
        }
        Ok(done)
    }

    async fn write_response_header(&mut self, resp: Box<ResponseHeader>, _end: bool) -> Result<()> {
        self.inner_mut().write_response_header(resp).await
    }

    async fn write_response_header_ref(&mut self, resp: &ResponseHeader, _end: bool) -> Result<()> {
        self.inner_mut().write_response_header_ref(resp).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.inner_mut().write_response_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.inner_mut().write_response_trailers(trailers).await
    }

    async fn finish(&mut self) -> Result<()> {
        if self.is_gone() {
            return Ok(());
        }
        let inner = self.inner_mut();
        flush(inner).await?;
        inner.finish_body().await
    }

    // ---- everything else is the real session's -----------------------------------------------------------------------

    fn req_header(&self) -> &RequestHeader {
        self.inner().req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.inner_mut().req_header_mut()
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.inner_mut().read_request_body().await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.inner_mut().drain_request_body().await
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.inner_mut().set_read_timeout(timeout);
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.inner().get_read_timeout()
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.inner_mut().set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.inner().get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.inner_mut().set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.inner().get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.inner().request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.inner().response_written()
    }

    async fn shutdown(&mut self, _code: u32, _ctx: &str) {
        self.inner_mut().shutdown().await;
    }

    fn body_bytes_sent(&self) -> usize {
        self.inner().body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.inner().body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.inner().digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.inner_mut().digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.inner().client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.inner().server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.inner().to_h1_raw()
    }

    fn is_upgrade_req(&self) -> bool {
        self.inner().is_upgrade_req()
    }

    fn was_upgraded(&self) -> bool {
        self.inner().was_upgraded()
    }

    // ---- Pingora's custom message channel is not used: `None` switches it off ----------------------------------------

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
