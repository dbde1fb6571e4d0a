//! An exchange that runs as a task of its own because followers read its answer too. Its own client is one reader among several:
//! a client that is slow or leaves does not affect the others.

use std::{mem, sync::Arc};

use parking_lot::{Mutex, MutexGuard};
use pingora_core::protocols::http::HttpTask;
use pingora_http::RequestHeader;
use tokio::sync::Notify;

use crate::cache::Lead;

/// Bytes that may wait for a client whose answer has no followers; beyond that the provider is made to wait too.
const ROOM: usize = 64 << 10;

/// The exchange's end of the queue to its client.
pub struct Remote {
    request: RequestHeader,
    queue: Arc<Queue>,
    lead: Arc<Lead>,
    /// The exchange runs to its end even if nobody waits for the answer.
    finish: bool,
    status: Option<u16>,
}

/// The client's end of the queue. Dropping it tells the exchange that the client has left.
pub struct Local(Arc<Queue>);

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    more: Notify,
    room: Notify,
    parted: Notify,
}

#[derive(Default)]
struct State {
    tasks: Vec<HttpTask>,
    /// Bytes of bodies that are not written yet.
    bytes: usize,
    close: bool,
    gone: bool,
}

/// The two ends for an exchange that leads a flight.
pub fn pair(request: RequestHeader, lead: Arc<Lead>, finish: bool) -> (Remote, Local) {
    let queue = Arc::new(Queue::default());
    (Remote { request, queue: queue.clone(), lead, finish, status: None }, Local(queue))
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Remote {
    /// The header of the client's request.
    pub fn request(&self) -> &RequestHeader {
        &self.request
    }

    /// The status that the client was answered with, once an answer's header is queued.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Closes the client's connection after this request.
    pub fn close_after(&self) {
        self.queue.state().close = true;
    }

    /// True while others wait for the answer, or it is to be completed in any case. Once this has returned false, no follower can
    /// join.
    pub fn is_shared(&self) -> bool {
        !self.lead.is_over() && (self.finish || !self.lead.abandon())
    }

    /// Completes when the client has left.
    pub async fn departure(&self) {
        loop {
            let parted = self.queue.parted.notified();
            if self.queue.state().gone {
                return;
            }
            parted.await;
        }
    }

    /// Completes when nobody waits for the answer any more. Never, if the exchange is to run to its end in any case.
    pub async fn alone(&self) {
        if self.lead.is_over() {
            return;
        }
        match self.finish {
            true => std::future::pending().await,
            false => self.lead.abandoned().await,
        }
    }

    /// Queues what is to be written to the client. Waits for a slow client only where there are no followers. False if the client
    /// has left.
    pub async fn write(&mut self, tasks: Vec<HttpTask>) -> bool {
        for task in &tasks {
            if let HttpTask::Header(header, _) = task
                && !header.status.is_informational()
            {
                self.status = Some(header.status.as_u16());
            }
        }
        {
            let mut state = self.queue.state();
            if state.gone {
                return false;
            }
            state.bytes += size(&tasks);
            state.tasks.extend(tasks);
        }
        self.queue.more.notify_one();
        loop {
            let room = self.queue.room.notified();
            {
                let state = self.queue.state();
                if state.gone {
                    return false;
                }
                if state.bytes <= ROOM || !self.lead.is_over() {
                    return true;
                }
            }
            room.await;
        }
    }
}

impl Local {
    /// The next tasks to write, and whether the connection is to be closed after them.
    pub async fn next(&self) -> (Vec<HttpTask>, bool) {
        loop {
            let more = self.0.more.notified();
            let (tasks, close) = self.now();
            if !tasks.is_empty() {
                return (tasks, close);
            }
            more.await;
        }
    }

    /// Like [`Self::next`], without waiting; the list may be empty.
    pub fn now(&self) -> (Vec<HttpTask>, bool) {
        let mut state = self.0.state();
        (mem::take(&mut state.tasks), state.close)
    }

    /// Reports that this many bytes of bodies are written.
    pub fn written(&self, bytes: usize) {
        self.0.state().bytes -= bytes;
        self.0.room.notify_one();
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.0.state().gone = true;
        self.0.parted.notify_one();
        self.0.room.notify_one();
    }
}

/// Bytes of bodies in these tasks.
pub fn size(tasks: &[HttpTask]) -> usize {
    let body = |task: &HttpTask| match task {
        HttpTask::Body(body, _) => body.as_ref().map_or(0, bytes::Bytes::len),
        _ => 0,
    };
    tasks.iter().map(body).sum()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::FutureExt;
    use pingora_http::ResponseHeader;

    use super::*;
    use crate::cache::{Flights, Key, Outcome};

    fn ends(finish: bool) -> (Remote, Local, Arc<Flights>) {
        let flights = Arc::new(Flights::default());
        let lead = Arc::new(flights.alone(Key([1; 32]), &"team".into()));
        let request = RequestHeader::build("POST", b"/v1/chat/completions", None).unwrap();
        let (remote, local) = pair(request, lead, finish);
        (remote, local, flights)
    }

    fn body(bytes: usize) -> Vec<HttpTask> {
        vec![HttpTask::Body(Some(Bytes::from(vec![0; bytes])), false)]
    }

    #[tokio::test]
    async fn nobody_waits_for_a_client_while_others_may_read_and_then_the_provider_does() {
        let (mut remote, local, _flights) = ends(false);
        let header = |status: u16| HttpTask::Header(Box::new(ResponseHeader::build(status, None).unwrap()), false);
        assert!(remote.write(vec![header(103)]).await && remote.status().is_none());
        assert!(remote.write(vec![header(200)]).await && remote.status() == Some(200));
        for _ in 0..10 {
            assert_eq!(remote.write(body(ROOM)).now_or_never(), Some(true));
        }
        remote.lead.end(Outcome::Solo);
        assert_eq!(remote.write(body(1)).now_or_never(), None, "nobody else reads");
        remote.close_after();
        let (tasks, closes) = local.next().await;
        assert!(closes && tasks.len() == 13 && size(&tasks) == 10 * ROOM + 1);
        assert_eq!(remote.write(body(1)).now_or_never(), None, "it is not written yet");
        local.written(size(&tasks));
        assert_eq!(remote.write(body(1)).now_or_never(), Some(true));
        assert_eq!(local.next().await.0.len(), 2);
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_noticed_where_it_is_waited_for_and_where_it_is_written_to() {
        let (mut remote, local, _flights) = ends(false);
        remote.lead.end(Outcome::Solo);
        assert!(remote.departure().now_or_never().is_none());
        let waits = remote.write(body(2 * ROOM));
        let (written, ()) = tokio::join!(waits, async { drop(local) });
        assert!(!written && remote.departure().now_or_never().is_some());
        assert_eq!(remote.write(body(1)).now_or_never(), Some(false));
    }

    #[tokio::test]
    async fn an_exchange_is_alone_when_nobody_follows_unless_it_is_wanted_in_any_case() {
        for (finish, follows, alone) in [(false, false, true), (false, true, false), (true, false, false)] {
            let flights = Arc::new(Flights::default());
            let key = Key([1; 32]);
            let crate::cache::Role::Lead(lead) = flights.join(key, &"team".into()) else { panic!("nobody leads") };
            let _follower = follows.then(|| flights.join(key, &"team".into()));
            let request = RequestHeader::build("POST", b"/", None).unwrap();
            let (remote, _local) = pair(request, Arc::new(lead), finish);
            assert_eq!(remote.is_shared(), !alone, "{finish} {follows}");
            assert_eq!(remote.alone().now_or_never().is_some(), alone, "{finish} {follows}");
        }
    }
}
