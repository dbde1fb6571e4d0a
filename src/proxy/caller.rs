//! The client of one request, for those who serve it: what it asks with, what else it sends, and the way its answer takes.
//!
//! Usually the answer goes straight to its connection. While others wait for the same answer, the exchange is a task of its own
//! (see `apart`), and what is for its own client goes through a queue that the task never waits for.

use std::{
    future::pending,
    net::IpAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, header};
use pingora_core::protocols::http::HttpTask;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::apart::Remote;

/// The client of one request.
pub struct Caller<'a> {
    line: Line<'a>,
    parting: Option<Parting>,
    /// When it left; the exchange goes on without it.
    gone: Option<Instant>,
}

/// The way to it.
enum Line<'a> {
    /// Its connection.
    Direct(&'a mut Session),
    /// A queue, for an exchange that others wait for.
    Apart(Box<Remote>),
}

/// What becomes of an exchange whose client leaves, where nobody else waits for its answer.
#[derive(Clone, Copy, Debug)]
pub enum Parting {
    /// It goes on for so long: what the provider counted is about to come.
    Linger(Duration),
    /// It goes on to its end.
    Drain,
}

impl<'a> Caller<'a> {
    /// The client at the other end of a connection.
    pub fn new(session: &'a mut Session) -> Self {
        Self { line: Line::Direct(session), parting: None, gone: None }
    }
}

impl Caller<'static> {
    /// A client that is served by another task.
    pub fn apart(remote: Remote) -> Self {
        Self { line: Line::Apart(Box::new(remote)), parting: None, gone: None }
    }
}

impl Caller<'_> {
    /// What it asks with.
    pub fn request(&self) -> &RequestHeader {
        match &self.line {
            Line::Direct(session) => session.req_header(),
            Line::Apart(remote) => remote.request(),
        }
    }

    /// The first value of a header of its request.
    pub fn header(&self, name: HeaderName) -> Option<&http::HeaderValue> {
        self.request().headers.get(name)
    }

    /// Its address, where it has one.
    pub fn address(&self) -> Option<IpAddr> {
        match &self.line {
            Line::Direct(session) => session.client_addr()?.as_inet().map(std::net::SocketAddr::ip),
            Line::Apart(_) => None,
        }
    }

    /// It speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        match &self.line {
            Line::Direct(session) => session.is_http2(),
            Line::Apart(remote) => remote.request().version == http::Version::HTTP_2,
        }
    }

    /// It wants to become a WebSocket, which has no body (RFC 6455 §4.1). Other upgrades (`h2c`, which some clients offer on
    /// every request) are not made.
    pub fn is_websocket(&self) -> bool {
        let Line::Direct(session) = &self.line else { return false };
        let request = session.req_header();
        let length = request.headers.get(header::CONTENT_LENGTH);
        let upgrade = request.headers.get(header::UPGRADE);
        request.method == http::Method::GET
            && session.is_upgrade_req()
            && !request.headers.contains_key(header::TRANSFER_ENCODING)
            && length.is_none_or(|length| length.as_bytes() == b"0")
            && upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
    }

    /// It asks for some upgrade.
    pub fn wants_upgrade(&self) -> bool {
        matches!(&self.line, Line::Direct(session) if session.is_upgrade_req())
    }

    /// It waits for `100 Continue` before it sends its body.
    pub fn expects_continue(&self) -> bool {
        let expects = self.header(header::EXPECT);
        !self.is_http2() && expects.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    }

    /// Invites it to send its body.
    ///
    /// # Errors
    /// It has left.
    pub async fn invite_body(&mut self) -> Result<()> {
        match &mut self.line {
            Line::Direct(session) => session.write_continue_response().await,
            Line::Apart(_) => Ok(()),
        }
    }

    /// The next piece of its request's body; `None` at its end.
    ///
    /// # Errors
    /// It has left, is too slow, or frames its body wrongly.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>> {
        match &mut self.line {
            Line::Direct(session) => session.read_request_body().await,
            Line::Apart(_) => Ok(None),
        }
    }

    /// The whole body of its request has been read.
    pub fn is_body_done(&mut self) -> bool {
        match &mut self.line {
            Line::Direct(session) => session.as_mut().is_body_done(),
            Line::Apart(_) => true,
        }
    }

    /// Its request has no body.
    pub fn is_body_empty(&mut self) -> bool {
        match &mut self.line {
            Line::Direct(session) => session.as_mut().is_body_empty(),
            Line::Apart(_) => true,
        }
    }

    /// How long Pingora may wait for the next piece of a body that it forwards, and for the next request.
    pub fn set_patience(&mut self, body: Option<Duration>, keepalive: Duration) {
        let Line::Direct(session) = &mut self.line else { return };
        // A client that keeps the connection open without a limit gets ours; one that asked to close keeps its wish.
        if session.get_keepalive() == Some(0) {
            session.set_keepalive(Some(keepalive.as_secs().max(1)));
        }
        session.set_pipelining_enabled(true);
        session.set_read_timeout(body);
    }

    /// Its connection serves no other request.
    pub fn close_after(&mut self) {
        match &mut self.line {
            Line::Direct(session) => session.set_keepalive(None),
            Line::Apart(remote) => remote.close_after(),
        }
    }

    /// Its connection may serve another request.
    pub fn keeps_connection(&self) -> bool {
        matches!(&self.line, Line::Direct(session) if session.get_keepalive().is_some())
    }

    /// The part of the request's body that was forwarded can be sent once more.
    pub fn can_repeat_body(&self) -> bool {
        matches!(&self.line, Line::Direct(session) if !session.as_ref().retry_buffer_truncated())
    }

    /// It has become a WebSocket.
    pub fn was_upgraded(&self) -> bool {
        matches!(&self.line, Line::Direct(session) if session.was_upgraded())
    }

    /// The status that it was answered with, if that has happened.
    pub fn status(&self) -> Option<u16> {
        match &self.line {
            Line::Direct(session) => {
                let status = session.response_written().map(|header| header.status);
                status
                    .filter(|status| !status.is_informational() || status.as_u16() == 101)
                    .map(|status| status.as_u16())
            }
            Line::Apart(remote) => remote.status(),
        }
    }

    /// The header of its answer has left.
    pub fn has_begun(&self) -> bool {
        self.status().is_some_and(|status| status >= 200)
    }

    /// From now on the exchange does not end at once when it leaves.
    pub fn outlived(&mut self, parting: Parting) {
        // The first word holds: what is drained need not linger.
        self.parting.get_or_insert(parting);
    }

    /// It has left, and the exchange went on without it.
    pub fn is_gone(&self) -> bool {
        self.gone.is_some()
    }

    /// Completes when it leaves. What it sends meanwhile is of no matter: its request has been read.
    pub async fn departure(&mut self) -> Box<Error> {
        match &mut self.line {
            Line::Direct(session) => match session.downstream_session.read_body_or_idle(true).await {
                Ok(_) => pending().await,
                Err(error) => error.into_down(),
            },
            Line::Apart(remote) => {
                remote.departure().await;
                left()
            }
        }
    }

    /// Ends when the exchange has to end because it has left. May be dropped and called again.
    pub async fn left(&mut self) -> Box<Error> {
        let error = match self.gone {
            Some(_) => left(),
            None => self.departure().await,
        };
        if let Line::Apart(remote) = &self.line {
            self.gone.get_or_insert_with(Instant::now);
            remote.alone().await;
        }
        match self.parting {
            Some(Parting::Drain) => {
                self.gone.get_or_insert_with(Instant::now);
                pending().await
            }
            Some(Parting::Linger(time)) => {
                let until = *self.gone.get_or_insert_with(Instant::now) + time;
                tokio::time::sleep_until(until.into()).await;
            }
            None => {}
        }
        error
    }

    /// Writes to it, in one piece where that can be. What is for one that has left, and is outlived by its exchange, goes nowhere.
    ///
    /// # Errors
    /// It has left, and the exchange need not go on without it.
    pub async fn write(&mut self, tasks: Vec<HttpTask>) -> Result<()> {
        if self.is_gone() {
            return Ok(());
        }
        match &mut self.line {
            Line::Direct(session) => match session.downstream_session.response_duplex_vec(tasks).await {
                Ok(_) => Ok(()),
                Err(_) if self.parting.is_some() => {
                    self.gone = Some(Instant::now());
                    Ok(())
                }
                Err(error) => Err(error.into_down()),
            },
            Line::Apart(remote) => {
                if !remote.write(tasks).await {
                    self.gone = Some(Instant::now());
                    // Who goes on for whom is settled where its leaving is waited for.
                    if !remote.is_shared() && self.parting.is_none() {
                        return Err(Error::explain(ErrorType::WriteError, "the client has left").into_down());
                    }
                }
                Ok(())
            }
        }
    }

    /// Writes the header of an answer; `ends` where it has no body.
    ///
    /// # Errors
    /// It has left.
    pub async fn write_header(&mut self, header: ResponseHeader, ends: bool) -> Result<()> {
        match &mut self.line {
            Line::Direct(session) => session.write_response_header(Box::new(header), ends).await,
            Line::Apart(_) => self.write(vec![HttpTask::Header(Box::new(header), ends)]).await,
        }
    }

    /// Writes a piece of an answer's body.
    ///
    /// # Errors
    /// It has left.
    pub async fn write_body(&mut self, body: Option<Bytes>, ends: bool) -> Result<()> {
        match &mut self.line {
            Line::Direct(session) => session.write_response_body(body, ends).await,
            Line::Apart(_) => self.write(vec![HttpTask::Body(body, ends)]).await,
        }
    }
}

fn left() -> Box<Error> {
    Error::explain(ErrorType::ConnectionClosed, "the client has left").into_down()
}
