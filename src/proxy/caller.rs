//! The client of one request, as the phases see it: its request header, its body, and the way to write the answer.
//!
//! Usually the answer is written directly to the client's connection. While followers wait for the answer as well, the
//! exchange is a task of its own (see `apart`), and writes to its own client go through a queue that the task never waits for.

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
    /// When the client left; the exchange goes on without it.
    gone: Option<Instant>,
}

/// How the client is reached.
enum Line<'a> {
    /// The client's connection.
    Direct(&'a mut Session),
    /// A queue, for an exchange that has followers.
    Apart(Box<Remote>),
}

/// What becomes of an exchange whose client leaves while nobody else waits for its answer.
#[derive(Clone, Copy, Debug)]
pub enum Parting {
    /// The exchange goes on for this long: the provider's token count is about to arrive.
    Linger(Duration),
    /// The exchange goes on to its end.
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
    /// The header of the client's request.
    pub fn request(&self) -> &RequestHeader {
        match &self.line {
            Line::Direct(session) => session.req_header(),
            Line::Apart(remote) => remote.request(),
        }
    }

    /// The first value of a header of the request.
    pub fn header(&self, name: HeaderName) -> Option<&http::HeaderValue> {
        self.request().headers.get(name)
    }

    /// The client's IP address; `None` if it has none, or if another task serves the client.
    pub fn address(&self) -> Option<IpAddr> {
        match &self.line {
            Line::Direct(session) => session.client_addr()?.as_inet().map(std::net::SocketAddr::ip),
            Line::Apart(_) => None,
        }
    }

    /// The client speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        match &self.line {
            Line::Direct(session) => session.is_http2(),
            Line::Apart(remote) => remote.request().version == http::Version::HTTP_2,
        }
    }

    /// The client asks to become a WebSocket, in a request without a body (RFC 6455 §4.1). Other upgrades (`h2c`, which some
    /// clients offer on every request) are not made.
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

    /// The client asks for an upgrade of any kind.
    pub fn wants_upgrade(&self) -> bool {
        matches!(&self.line, Line::Direct(session) if session.is_upgrade_req())
    }

    /// The client waits for `100 Continue` before it sends its body.
    pub fn expects_continue(&self) -> bool {
        let expects = self.header(header::EXPECT);
        !self.is_http2() && expects.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    }

    /// Sends `100 Continue`, so that the client sends its body.
    ///
    /// # Errors
    /// The client has left.
    pub async fn invite_body(&mut self) -> Result<()> {
        match &mut self.line {
            Line::Direct(session) => session.write_continue_response().await,
            Line::Apart(_) => Ok(()),
        }
    }

    /// The next piece of the request's body; `None` at its end.
    ///
    /// # Errors
    /// The client has left, is too slow, or frames its body wrongly.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>> {
        match &mut self.line {
            Line::Direct(session) => session.read_request_body().await,
            Line::Apart(_) => Ok(None),
        }
    }

    /// The whole body of the request has been read.
    pub fn is_body_done(&mut self) -> bool {
        match &mut self.line {
            Line::Direct(session) => session.as_mut().is_body_done(),
            Line::Apart(_) => true,
        }
    }

    /// The request has no body.
    pub fn is_body_empty(&mut self) -> bool {
        match &mut self.line {
            Line::Direct(session) => session.as_mut().is_body_empty(),
            Line::Apart(_) => true,
        }
    }

    /// How long Pingora may wait for the next piece of a body that it forwards, and for the next request.
    pub fn set_patience(&mut self, body: Option<Duration>, keepalive: Duration) {
        let Line::Direct(session) = &mut self.line else { return };
        // A client that keeps the connection open without a limit gets the gateway's limit; one that asked to close it is closed.
        if session.get_keepalive() == Some(0) {
            session.set_keepalive(Some(keepalive.as_secs().max(1)));
        }
        session.set_pipelining_enabled(true);
        session.set_read_timeout(body);
    }

    /// Closes the client's connection after this request.
    pub fn close_after(&mut self) {
        match &mut self.line {
            Line::Direct(session) => session.set_keepalive(None),
            Line::Apart(remote) => remote.close_after(),
        }
    }

    /// The client's connection may serve another request.
    pub fn keeps_connection(&self) -> bool {
        matches!(&self.line, Line::Direct(session) if session.get_keepalive().is_some())
    }

    /// The part of the request's body that was forwarded can be sent once more.
    pub fn can_repeat_body(&self) -> bool {
        matches!(&self.line, Line::Direct(session) if !session.as_ref().retry_buffer_truncated())
    }

    /// The connection has become a WebSocket.
    pub fn was_upgraded(&self) -> bool {
        matches!(&self.line, Line::Direct(session) if session.was_upgraded())
    }

    /// The status that the client was answered with, once the header was written.
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

    /// The header of the answer was written.
    pub fn has_begun(&self) -> bool {
        self.status().is_some_and(|status| status >= 200)
    }

    /// From now on the exchange does not end at once when the client leaves.
    pub fn outlived(&mut self, parting: Parting) {
        // The first call holds: an exchange that is drained need not linger.
        self.parting.get_or_insert(parting);
    }

    /// The client has left, and the exchange went on without it.
    pub fn is_gone(&self) -> bool {
        self.gone.is_some()
    }

    /// Completes when the client leaves. Anything that the client sends meanwhile is ignored: its request has been read.
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

    /// Completes when the exchange has to end because the client has left. May be dropped and called again.
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

    /// Writes to the client, in one piece where possible. If the client has left and the exchange goes on, the tasks are
    /// discarded.
    ///
    /// # Errors
    /// The client has left, and the exchange need not go on without it.
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
                    // Whether the exchange goes on is decided in [`Self::left`].
                    if !remote.is_shared() && self.parting.is_none() {
                        return Err(Error::explain(ErrorType::WriteError, "the client has left").into_down());
                    }
                }
                Ok(())
            }
        }
    }

    /// Writes the header of an answer; `ends` if the answer has no body.
    ///
    /// # Errors
    /// The client has left.
    pub async fn write_header(&mut self, header: ResponseHeader, ends: bool) -> Result<()> {
        match &mut self.line {
            Line::Direct(session) => session.write_response_header(Box::new(header), ends).await,
            Line::Apart(_) => self.write(vec![HttpTask::Header(Box::new(header), ends)]).await,
        }
    }

    /// Writes a piece of an answer's body.
    ///
    /// # Errors
    /// The client has left.
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
