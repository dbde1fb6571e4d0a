//! One accepted connection: a socket that can be closed with a TCP reset, which no HTTP library offers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// The handle by which a reply resets the connection that carries it. Travels as a request extension.
#[derive(Clone, Default)]
pub(super) struct Connection(Arc<State>);

#[derive(Default)]
struct State {
    reset: AtomicBool,
    asked: Notify,
}

impl Connection {
    /// Asks the serving task to close the socket with a reset. The caller then waits; its task ends with the connection.
    pub(super) fn reset(&self) {
        self.0.reset.store(true, Ordering::Release);
        self.0.asked.notify_one();
    }

    /// Resolves when a reset was asked for.
    pub(super) async fn reset_asked(&self) {
        self.0.asked.notified().await;
    }

    /// The socket under this handle.
    pub(super) fn wrap(&self, stream: TcpStream) -> Socket {
        Socket { stream, state: Arc::clone(&self.0) }
    }
}

/// A TCP stream that sends RST instead of FIN when it is dropped after [`Connection::reset`].
pub(super) struct Socket {
    stream: TcpStream,
    state: Arc<State>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.state.reset.load(Ordering::Acquire) {
            // A linger of zero makes close(2) discard what is unsent and send RST. If the option cannot be set, the
            // peer sees an ordinary close, which is still a failure for it.
            let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
