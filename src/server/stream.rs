//! The stream of a client's connection, as Pingora reads and writes it.

use std::{
    io,
    os::fd::AsRawFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType, l4::socket::SocketAddr, raw_connect::ProxyDigest,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter, ReadBuf},
    net::TcpStream,
    runtime::Handle,
    time::timeout,
};

use crate::{
    capacity::Turns,
    connections::{Connection, Place},
};

/// Size of the read buffer, in bytes. Requests are small, and large bodies bypass this buffer: less memory for each open stream.
const READ_BUFFER: usize = 4096;

/// Size of the write buffer, in bytes: one packet, as in Pingora's own streams.
const WRITE_BUFFER: usize = 1460;

/// The first bytes of a client that knows that the server speaks HTTP/2; RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a client may go on sending the body of a request that was refused. nginx's figures (`lingering_time`,
/// `lingering_timeout`).
const LINGER: Duration = Duration::from_secs(30);

/// How long the client may be silent meanwhile.
const LINGER_SILENCE: Duration = Duration::from_secs(5);

/// The most bytes of that body that are read and discarded.
const LINGER_BYTES: u64 = 256 << 20;

/// A client's connection. Reading returns the end of the stream once [`Connection::is_closed`]. Dropping it gives its place back.
#[derive(Debug)]
pub struct ClientStream {
    /// `None` after it was taken in [`Drop`].
    inner: Option<Inner>,
}

#[derive(Debug)]
struct Inner {
    socket: BufReader<BufWriter<TcpStream>>,
    place: Place,
    /// Bytes that were peeked at and are to be read again.
    ahead: Vec<u8>,
    digest: Arc<SocketDigest>,
    established: SystemTime,
    /// The client has sent everything, or nothing can be read any more.
    ended: bool,
    /// Something was sent to the client.
    written: bool,
    lingering: bool,
}

impl ClientStream {
    /// A connection that was just accepted.
    pub fn new(socket: TcpStream, peer: std::net::SocketAddr, place: Place) -> Self {
        let digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
        // The address is known already, so it need not be asked for.
        let _ = digest.peer_addr.set(Some(SocketAddr::Inet(peer)));
        let socket = BufReader::with_capacity(READ_BUFFER, BufWriter::with_capacity(WRITE_BUFFER, socket));
        let inner = Inner {
            socket,
            place,
            ahead: Vec::new(),
            digest: Arc::new(digest),
            established: SystemTime::now(),
            ended: false,
            written: false,
            lingering: false,
        };
        Self { inner: Some(inner) }
    }

    #[expect(clippy::expect_used, reason = "only Drop takes it")]
    fn inner(&mut self) -> &mut Inner {
        self.inner.as_mut().expect("the stream is not dropped")
    }

    #[expect(clippy::expect_used, reason = "only Drop takes it")]
    fn get(&self) -> &Inner {
        self.inner.as_ref().expect("the stream is not dropped")
    }
}

impl Inner {
    fn connection(&self) -> &Connection {
        &self.place.connection
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.connection().is_closed() {
            self.ended = true;
            return Poll::Ready(Ok(()));
        }
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead[..length]);
            self.ahead.drain(..length);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        match Pin::new(&mut self.socket).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                if buffer.filled().len() == before {
                    self.ended = true;
                } else if !self.connection().bytes_came() {
                    self.ended = true;
                    buffer.set_filled(before);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                self.ended = true;
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                self.connection().watch(cx.waker());
                // The connection may have been closed just before.
                if self.connection().is_closed() {
                    self.ended = true;
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending
            }
        }
    }

    /// Whether the client may still be sending, so that closing the connection would lose what was sent to it: the kernel resets
    /// a connection with bytes that nobody has read.
    fn would_reset(&self) -> bool {
        !self.lingering && self.written && !self.ended && self.connection().is_unread()
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        let Some(mut inner) = self.inner.take() else { return };
        if inner.would_reset()
            && inner.connection().begin_to_linger()
            && let Ok(runtime) = Handle::try_current()
        {
            inner.lingering = true;
            runtime.spawn(linger(Self { inner: Some(inner) }));
        }
    }
}

/// Lets a client that is still sending read its reply: closes the gateway's side for writing, then reads and discards what comes.
async fn linger(mut stream: ClientStream) {
    let rest = async {
        AsyncWriteExt::shutdown(&mut stream).await?;
        let mut buffer = vec![0; 16 << 10];
        let (mut left, mut turns) = (LINGER_BYTES, Turns::default());
        while left > 0 {
            match timeout(LINGER_SILENCE, stream.read(&mut buffer)).await {
                Ok(Ok(0)) | Err(_) => break,
                Ok(read) => {
                    let read = read?;
                    turns.took(read).await;
                    left = left.saturating_sub(read as u64);
                }
            }
        }
        io::Result::Ok(())
    };
    // The client has its reply, or does not want it.
    let _ = timeout(LINGER, rest).await;
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buffer)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let inner = self.inner();
        inner.written = true;
        Pin::new(&mut inner.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = self.inner();
        inner.written = true;
        Pin::new(&mut inner.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.get().socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().socket).poll_shutdown(cx)
    }
}

#[async_trait]
impl Peek for ClientStream {
    /// Checks whether the client speaks HTTP/2. Reads only as many bytes as could be the preface. The rest of `buffer` is zero.
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut length = 0;
        while length < buffer.len() && PREFACE.starts_with(&buffer[..length]) {
            match self.read(&mut buffer[length..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => length += read,
            }
        }
        let inner = self.inner();
        inner.ahead.extend_from_slice(&buffer[..length]);
        if buffer[..length] == *PREFACE {
            inner.connection().set_multiplexed();
        }
        buffer[length..].fill(0);
        Ok(true)
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        // This fails if the client is gone.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> UniqueIDType {
        self.get().socket.get_ref().get_ref().as_raw_fd()
    }
}

impl Ssl for ClientStream {}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest { established_ts: self.get().established, ..TimingDigest::default() })]
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.get().digest.clone())
    }
}
