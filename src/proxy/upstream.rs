//! Connections to providers, which live as long as the process, and how a request is sent and its answer is read on one of them.

use std::{
    mem,
    pin::{Pin, pin},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Method, header};
use pingora_core::{
    connectors::http::Connector,
    protocols::http::{
        client::HttpSession,
        v1::client::HttpSession as Http1Session,
        v2::{self, client::Http2Session},
    },
    upstreams::peer::HttpPeer,
};
use pingora_error::{Error, ErrorType, Result, RetryType};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::{Sleep, sleep_until};

use super::{
    duplex::{Duplex, Sent},
    known_models::KnownModels,
    resolve::Resolver,
};
use crate::capacity::Turns;

/// What it takes to reach providers; lives as long as the process.
pub struct Upstream {
    /// Keeps the connections, except those of uploads and WebSockets.
    pub connector: Connector,
    /// Resolves host names to addresses.
    pub resolver: Resolver,
    /// What providers report about their models.
    pub models: KnownModels,
}

/// Bytes that one `write_timeout` covers, so that a slow provider may take a large body at its own pace.
const PIECE: usize = 256 * 1024;

/// A body up to this size, in bytes, is sent without reading meanwhile: it fits into the buffers of the connection.
const LISTENED: usize = 64 << 10;

/// How long the answer of a provider that stopped taking the request is waited for: the answer is there already, or does not
/// come.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How far a request was sent.
pub enum Progress {
    /// The whole request was sent.
    Whole,
    /// The provider refused the request before it was sent whole.
    Refused,
    /// Sending failed with this error. The provider may have answered before it had read the whole request.
    Broken(Box<Error>),
}

/// Sends a request. The header and the first piece of the body together have `write_timeout` to be taken, and so has each further
/// piece: the timeouts of a session would begin anew with each write, and with each byte of window in HTTP/2.
///
/// A provider may answer before it has read all of a large body. If that answer is an error or a redirect, sending ends (RFC 9112
/// §9.5, RFC 9113 §8.1). If it is a good answer, the provider reads on to finish it: the body is sent to its end, and then the
/// answer is read.
///
/// # Errors
/// The header could not be sent, or the provider has said that it does not process the request.
pub async fn send(
    provider: &mut HttpSession,
    peer: &HttpPeer,
    request: RequestHeader,
    body: Bytes,
) -> Result<Progress> {
    // The deadlines of each step take the place of the session's own: those would set a timer for each read and write.
    provider.set_read_timeout(None);
    provider.set_write_timeout(None);
    // A session that has not sent the header itself does not know that the answer to it has no body.
    let large = body.len() > LISTENED && request.method != Method::HEAD;
    match provider {
        // Boxed, as seldom needed: otherwise every request would carry their size along.
        HttpSession::H2(http2) => Box::pin(send_http2(http2, peer, request, body)).await,
        _ if large => Box::pin(send_large(provider, peer, request, body)).await,
        _ => send_small(provider, peer, request, body).await,
    }
}

async fn send_small(
    provider: &mut HttpSession,
    peer: &HttpPeer,
    request: RequestHeader,
    body: Bytes,
) -> Result<Progress> {
    let mut begun = false;
    let sent = async {
        provider.write_request_header(Box::new(request)).await?;
        begun = true;
        if !body.is_empty() {
            provider.write_request_body(body, true).await?;
        }
        provider.finish_request_body().await
    };
    let sent = until(deadline(peer.options.write_timeout), not_taken, pin!(sent)).await;
    match sent {
        Ok(()) => Ok(Progress::Whole),
        Err(error) if begun => Ok(Progress::Broken(error.into_up())),
        Err(error) => Err(error.into_up()),
    }
}

async fn send_large(
    provider: &mut HttpSession,
    peer: &HttpPeer,
    request: RequestHeader,
    mut body: Bytes,
) -> Result<Progress> {
    let patience = peer.options.write_timeout;
    let header = provider.write_request_header(Box::new(request));
    until(deadline(patience), not_taken, pin!(header)).await.map_err(Error::into_up)?;
    let HttpSession::H1(http1) = mem::replace(provider, HttpSession::Custom(())) else {
        return Error::e_explain(ErrorType::InternalError, "no HTTP/1");
    };
    let (mut duplex, mut turns) = (Duplex::new(http1.into_inner()), Turns::default());
    let progress = loop {
        let piece = body.split_to(body.len().min(PIECE));
        let size = piece.len();
        match until(deadline(patience), not_taken, pin!(duplex.send(piece))).await {
            Ok(Sent::Whole) if body.is_empty() => break Progress::Whole,
            Ok(Sent::Whole) => turns.took(size).await,
            Ok(Sent::Refused) => break Progress::Refused,
            Err(error) => break Progress::Broken(error.into_up()),
        }
    };
    *provider = HttpSession::H1(Http1Session::new_with_options(duplex.into_stream(), peer));
    Ok(progress)
}

async fn send_http2(
    http2: &mut Http2Session,
    peer: &HttpPeer,
    request: RequestHeader,
    mut body: Bytes,
) -> Result<Progress> {
    http2.write_request_header(Box::new(request), false).map_err(|mut error| {
        if error.etype() == &ErrorType::H2Error {
            // The connection has closed since it was taken from the pool: no stream was opened, so nothing was processed.
            error.set_retry(true);
        }
        error.into_up()
    })?;
    // If the writer is dropped before the body's end, the stream is reset once its answer is read.
    let Some(mut writer) = http2.take_request_body_writer() else {
        return Error::e_explain(ErrorType::InternalError, "no stream to write to");
    };
    let mut turns = Turns::default();
    loop {
        let piece = body.split_to(body.len().min(PIECE));
        let (size, ends) = (piece.len(), body.is_empty());
        let mut dead = false;
        let sent = async {
            let mut write = pin!(v2::write_body(&mut writer, piece, ends, None));
            loop {
                tokio::select! {
                    biased;
                    sent = &mut write => return sent.map(|()| Sent::Whole),
                    read = http2.read_response_header(), if http2.response_header().is_none() => {
                        dead = read.is_err();
                        read?;
                        if http2.response_header().is_some_and(|header| !header.status.is_success()) {
                            return Ok(Sent::Refused);
                        }
                    }
                }
            }
        };
        let sent = until(deadline(peer.options.write_timeout), not_taken, pin!(sent)).await;
        match sent {
            Ok(Sent::Whole) if ends => return Ok(Progress::Whole),
            Ok(Sent::Whole) => turns.took(size).await,
            Ok(Sent::Refused) => return Ok(Progress::Refused),
            // A stream that has failed cannot be read again.
            Err(error) if dead => return Err(error.into_up()),
            Err(error) => return Ok(Progress::Broken(error.into_up())),
        }
    }
}

/// The wait for the header of an answer: one deadline for everything up to the end of that header.
pub struct Wait {
    deadline: Option<Instant>,
    broken: Option<Box<Error>>,
    /// The whole request was sent.
    pub is_sent: bool,
}

impl Wait {
    /// Begins when the request was sent, or its sending broke off.
    pub fn new(peer: &HttpPeer, progress: Progress) -> Self {
        let patience = peer.options.read_timeout;
        match progress {
            Progress::Whole => Self { deadline: deadline(patience), broken: None, is_sent: true },
            Progress::Refused => Self { deadline: deadline(patience), broken: None, is_sent: false },
            Progress::Broken(error) => {
                let patience = patience.map(|most| most.min(LAST_WORDS));
                Self { deadline: deadline(patience), broken: Some(error), is_sent: false }
            }
        }
    }

    /// The next header: an interim one (1xx), or that of the answer.
    ///
    /// # Errors
    /// No header arrived until the deadline, the connection broke, or the provider upgraded the connection.
    pub async fn header(&mut self, provider: &mut HttpSession) -> Result<ResponseHeader> {
        // HTTP/2 shows one header, and it may have come while the body was sent.
        let is_read = matches!(provider, HttpSession::H2(http2) if http2.response_header().is_some());
        if !is_read && let Err(error) = until(self.deadline, silent, pin!(provider.read_response_header())).await {
            // An error that says that the request was not processed is worth more than the one that broke off its sending.
            let unprocessed = matches!(error.retry, RetryType::Decided(true));
            return Err(self.broken.take().filter(|_| !unprocessed).unwrap_or(error).into_up());
        }
        let Some(header) = provider.response_header() else {
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "no header").into_up());
        };
        if header.status == http::StatusCode::SWITCHING_PROTOCOLS {
            // The gateway asks for an upgrade only through Pingora's own loop.
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "an upgrade that nobody asked for").into_up());
        }
        // A header that has arrived already is read whatever the time.
        if header.status.is_informational() && self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(silent());
        }
        Ok(header.clone())
    }
}

/// RFC 9113 §8.1.1 with RFC 9110 §8.6: a length other than zero is followed by data.
pub fn promises_body(request: &RequestHeader, header: &ResponseHeader) -> bool {
    let length = header.headers.get(header::CONTENT_LENGTH);
    has_body(request, header) && length.is_some_and(|length| length.as_bytes().iter().any(|digit| *digit != b'0'))
}

/// Whether a reply with this header has a body at all (RFC 9110 §6.4.1).
pub fn has_body(request: &RequestHeader, header: &ResponseHeader) -> bool {
    request.method != Method::HEAD && !matches!(header.status.as_u16(), 204 | 304)
}

/// True once the whole reply was read.
///
/// # Errors
/// The reply broke off; in HTTP/2 no other call reports that.
pub fn is_over(provider: &mut HttpSession) -> Result<bool> {
    match provider {
        HttpSession::H2(http2) => http2.check_response_end_or_error().map_err(Error::into_up),
        other => Ok(other.response_done()),
    }
}

/// The body of an answer, piece by piece, from a provider that must not be silent. One timer watches over all of them: it is set
/// when a piece has to be waited for, and looked at again only when it ends. A session's own read timeout sets one for each read.
pub struct Pieces {
    /// How long the provider may be silent.
    patience: Option<Duration>,
    /// When the last piece came, or the header.
    heard: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pieces {
    /// The body that follows a header which has just come.
    pub fn new(peer: &HttpPeer) -> Self {
        Self { patience: peer.options.read_timeout, heard: Instant::now(), timer: None }
    }

    /// A piece that has arrived already; `None` if it has to be waited for.
    pub fn ready(&mut self, provider: &mut HttpSession) -> Option<Result<Option<Bytes>>> {
        let read = provider.read_response_body().now_or_never()?.map_err(Error::into_up);
        // A frame without a byte is no piece.
        let is_piece = !matches!(&read, Ok(Some(chunk)) if chunk.is_empty());
        is_piece.then(|| {
            self.heard = Instant::now();
            read
        })
    }

    /// The next piece; `None` at the end of the body. Frames without a byte of the body (an empty frame, a byte of a trailer) count
    /// as silence.
    ///
    /// # Errors
    /// The provider is silent, or the connection broke.
    pub async fn next(&mut self, provider: &mut HttpSession) -> Result<Option<Bytes>> {
        loop {
            let chunk = tokio::select! {
                biased;
                read = provider.read_response_body() => read.map_err(Error::into_up)?,
                () = self.silence() => return Err(silent()),
            };
            let now = Instant::now();
            if chunk.as_ref().is_none_or(|chunk| !chunk.is_empty()) {
                self.heard = now;
                return Ok(chunk);
            }
            if self.patience.is_some_and(|patience| now >= self.heard + patience) {
                return Err(silent());
            }
        }
    }

    /// Ends when the provider has been silent for too long.
    async fn silence(&mut self) {
        let Some(patience) = self.patience else { return std::future::pending().await };
        loop {
            let end = self.heard + patience;
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end.into())));
            timer.as_mut().await;
            if Instant::now() >= end {
                return;
            }
            // It was set for an earlier piece.
            timer.as_mut().reset(end.into());
        }
    }
}

/// The trailers after an answer's body, in HTTP/2; `None` in HTTP/1.
///
/// # Errors
/// The trailers broke off.
pub async fn read_trailers(provider: &mut HttpSession) -> Result<Option<Box<HeaderMap>>> {
    match provider {
        HttpSession::H2(http2) => Ok(http2.read_trailers().await.map_err(Error::into_up)?.map(Box::new)),
        _ => Ok(None),
    }
}

/// Does some work until a deadline; `missed` makes the error after that.
async fn until<T>(
    deadline: Option<Instant>,
    missed: fn() -> Box<Error>,
    work: Pin<&mut impl Future<Output = Result<T>>>,
) -> Result<T> {
    match deadline {
        None => work.await,
        Some(deadline) => tokio::time::timeout_at(deadline.into(), work).await.unwrap_or_else(|_| Err(missed())),
    }
}

fn not_taken() -> Box<Error> {
    Error::explain(ErrorType::WriteTimedout, "the provider does not take the request")
}

fn silent() -> Box<Error> {
    Error::explain(ErrorType::ReadTimedout, "the provider is silent").into_up()
}

fn deadline(patience: Option<Duration>) -> Option<Instant> {
    patience.map(|patience| Instant::now() + patience)
}
