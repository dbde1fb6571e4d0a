//! Duplex: sends a large request body over HTTP/1 and reads at the same time, since a provider may answer before it has read the
//! body (RFC 9112 §9.5), and read no more of it.
//!
//! Pingora's session writes and reads through one `&mut self`, and a write that is dropped does not say how far it came. So the
//! session's stream is taken out while the body, framed by its length, is sent, and then goes into a new session that reads the
//! answer from its first byte.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType, raw_connect::ProxyDigest, tls::SslDigest,
};
use pingora_error::{Error, ErrorType, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are read and kept until the body is sent. A provider that sends more has to wait.
const MOST: usize = 64 << 10;

/// Bytes that are read at a time.
const STEP: usize = 4 << 10;

/// A stream to a provider that takes a body, and the bytes that were read from it meanwhile.
pub struct Duplex {
    stream: Stream,
    heard: BytesMut,
    /// Bytes of interim headers that were looked at.
    passed: usize,
    /// The provider goes on taking the body after its answer has begun.
    continues: bool,
}

/// How a piece of a body ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    /// The provider has it.
    Whole,
    /// The provider has refused the request meanwhile: the rest of the body is not sent.
    Refused,
}

impl Duplex {
    /// A stream on which the header of a request has been sent.
    pub fn new(stream: Stream) -> Self {
        Self { stream, heard: BytesMut::new(), passed: 0, continues: false }
    }

    /// Sends a piece of the body. Must not be called again after its future was dropped, or after it returned anything but
    /// [`Sent::Whole`].
    ///
    /// # Errors
    /// The connection broke. What was read before may be an answer.
    pub async fn send(&mut self, mut piece: Bytes) -> Result<Sent> {
        std::future::poll_fn(|context| self.poll_send(context, &mut piece)).await
    }

    fn poll_send(&mut self, context: &mut Context<'_>, piece: &mut Bytes) -> Poll<Result<Sent>> {
        if self.poll_listen(context)? {
            return Poll::Ready(Ok(Sent::Refused));
        }
        while !piece.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(context, piece)) {
                Ok(0) => return Poll::Ready(Err(Error::explain(ErrorType::WriteError, "nothing more can be written"))),
                Ok(written) => piece.advance(written),
                Err(error) => return Poll::Ready(Err(write_error(error))),
            }
        }
        ready!(Pin::new(&mut self.stream).poll_flush(context)).map_err(write_error)?;
        Poll::Ready(Ok(Sent::Whole))
    }

    /// Reads what has come. True if it is a refusal.
    fn poll_listen(&mut self, context: &mut Context<'_>) -> Result<bool> {
        while self.heard.len() < MOST {
            let mut step = [0; STEP];
            let mut buffer = ReadBuf::new(&mut step);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(error)) => {
                    return Err(Error::because(ErrorType::ReadError, "while sending a request", error));
                }
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    return Err(Error::explain(ErrorType::ConnectionClosed, "while sending a request"));
                }
                Poll::Ready(Ok(())) => self.heard.extend_from_slice(buffer.filled()),
            }
            match self.status() {
                None | Some(b'2') => {}
                Some(_) => return Ok(true),
            }
        }
        Ok(false)
    }

    /// The first digit of the answer's status, once it has been read.
    fn status(&mut self) -> Option<u8> {
        if self.continues {
            return Some(b'2');
        }
        loop {
            // Empty lines before the header are skipped, as the parser does.
            let empty = |byte: &&u8| matches!(byte, b'\r' | b'\n');
            self.passed += self.heard[self.passed..].iter().take_while(empty).count();
            let rest = &self.heard[self.passed..];
            // `HTTP/1.1 200`
            let first = *rest.get(9)?;
            if first != b'1' || !rest.starts_with(b"HTTP/1.") {
                self.continues = first == b'2';
                return Some(first);
            }
            self.passed += memchr::memmem::find(rest, b"\r\n\r\n")? + 4;
        }
    }

    /// The stream; the bytes that were read already are read from it once more.
    pub fn into_stream(self) -> Stream {
        match self.heard.is_empty() {
            true => self.stream,
            false => Box::new(Rewound { heard: self.heard.freeze(), stream: self.stream }),
        }
    }
}

fn write_error(error: io::Error) -> Box<Error> {
    Error::because(ErrorType::WriteError, "while sending a request's body", error)
}

/// A stream with bytes that were read from it before.
struct Rewound {
    heard: Bytes,
    stream: Stream,
}

impl fmt::Debug for Rewound {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Rewound").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.heard.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let size = self.heard.len().min(buffer.remaining());
        buffer.put_slice(&self.heard.split_to(size));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[async_trait]
impl Shutdown for Rewound {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(&mut *self.stream).await;
    }
}

impl UniqueID for Rewound {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl Ssl for Rewound {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }
}

impl GetTimingDigest for Rewound {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }
}

impl GetProxyDigest for Rewound {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }
}

impl GetSocketDigest for Rewound {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }
}

impl Peek for Rewound {}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    fn ends(room: usize) -> (Duplex, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(room);
        (Duplex::new(Box::new(ours)), theirs)
    }

    #[tokio::test]
    async fn a_refusal_ends_the_body_and_is_read_from_its_first_byte() {
        for early in
            ["HTTP/1.1 413 X\r\n\r\n", "HTTP/1.1 103 X\r\na: b\r\n\r\nHTTP/1.0 503 X\r\n\r\n", "no HTTP at all"]
        {
            let (mut duplex, mut provider) = ends(64);
            provider.write_all(early.as_bytes()).await.unwrap();
            assert_eq!(duplex.send(vec![0; 1_000].into()).await.unwrap(), Sent::Refused, "{early}");
            let mut seen = vec![0; early.len()];
            duplex.into_stream().read_exact(&mut seen).await.unwrap();
            assert_eq!(seen, early.as_bytes());
        }
    }

    #[tokio::test]
    async fn what_is_no_refusal_does_not_end_the_body() {
        for early in [
            "",
            "\r\nHTTP/1.1 200",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 1",
            "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 500 body",
        ] {
            let (mut duplex, mut provider) = ends(64);
            provider.write_all(early.as_bytes()).await.unwrap();
            let mut taken = vec![0; 1_000];
            let (sent, read) = tokio::join!(duplex.send(vec![7; 1_000].into()), provider.read_exact(&mut taken));
            assert_eq!((sent.unwrap(), read.unwrap()), (Sent::Whole, 1_000), "{early}");
            assert_eq!(taken, [7; 1_000]);
        }
    }

    #[tokio::test]
    async fn a_provider_that_closes_breaks_the_body_off_and_one_that_chatters_has_to_wait() {
        let (mut duplex, provider) = ends(64);
        drop(provider);
        assert!(duplex.send(vec![0; 1_000].into()).await.is_err());

        let (mut duplex, mut provider) = ends(4 * MOST);
        let hint = b"HTTP/1.1 103 X\r\n\r\n";
        provider.write_all(&hint.repeat(3 * MOST / hint.len())).await.unwrap();
        assert_eq!(duplex.send(vec![0; 1_000].into()).await.unwrap(), Sent::Whole);
        assert!(duplex.heard.len() <= MOST + STEP);
    }
}
