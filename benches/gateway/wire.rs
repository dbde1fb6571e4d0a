//! The least HTTP/1.1 that a load client and a mock need, on a raw socket, in either direction.
//!
//! Cheap on purpose: what the client spends is taken from the process it measures on a machine of two cores.
//! It is strict about what it does read, and a broken message is an error, never a wait.

use std::io;
use std::net::SocketAddr;

use memchr::memmem;
use nix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes a connection can hold unread; also the limit for a message head.
const ROOM: usize = 64 * 1024;

/// One keep-alive connection.
pub struct Wire {
    stream: TcpStream,
    room: Vec<u8>,
    start: usize,
    end: usize,
    /// Reads from the socket so far: shows whether events were batched.
    pub reads: u64,
}

impl Wire {
    pub async fn connect(to: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect(to).await?)
    }

    pub fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, room: vec![0; ROOM], start: 0, end: 0, reads: 0 })
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The next message head, or `None` when the peer closed between two messages.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(length) = memmem::find(self.unread(), b"\r\n\r\n") {
                let head = Head::parse(&self.unread()[..length])?;
                self.start += length + 4;
                return Ok(Some(head));
            }
            if !self.fill().await? {
                return if self.unread().is_empty() { Ok(None) } else { Err(cut()) };
            }
        }
    }

    /// The next bytes of a body as soon as they are here, or `None` at its end.
    pub async fn piece(&mut self, body: &mut Body) -> io::Result<Option<&[u8]>> {
        loop {
            match *body {
                Body::Done => return Ok(None),
                Body::Length(0) => *body = Body::Done,
                Body::ChunkData(0) => match self.line().await? {
                    0 => *body = Body::ChunkSize,
                    _ => return Err(broken("no line end after a chunk")),
                },
                Body::ChunkSize => {
                    let length = self.line().await?;
                    let line_end = self.start - 2;
                    match chunk_size(&self.room[line_end - length..line_end])? {
                        0 => *body = Body::Trailer,
                        size => *body = Body::ChunkData(size),
                    }
                }
                Body::Trailer => {
                    if self.line().await? == 0 {
                        *body = Body::Done;
                    }
                }
                Body::Length(left) => return self.take(left, body, Body::Length).await.map(Some),
                Body::ChunkData(left) => return self.take(left, body, Body::ChunkData).await.map(Some),
                Body::UntilClose => {
                    if self.unread().is_empty() && !self.fill().await? {
                        *body = Body::Done;
                        continue;
                    }
                    let from = std::mem::replace(&mut self.start, self.end);
                    return Ok(Some(&self.room[from..self.end]));
                }
            }
        }
    }

    /// Waits until the peer closes; anything it sends before is thrown away.
    pub async fn closed(&mut self) {
        loop {
            self.start = self.end;
            if !matches!(self.fill().await, Ok(true)) {
                return;
            }
        }
    }

    /// Up to `left` body bytes, and what remains after them.
    async fn take(&mut self, left: u64, body: &mut Body, rest: fn(u64) -> Body) -> io::Result<&[u8]> {
        if self.unread().is_empty() && !self.fill().await? {
            return Err(cut());
        }
        let length = self.unread().len().min(usize::try_from(left).unwrap_or(usize::MAX));
        *body = rest(left - length as u64);
        let from = self.start;
        self.start += length;
        Ok(&self.room[from..from + length])
    }

    /// Steps over one line and returns its length without the line end.
    async fn line(&mut self) -> io::Result<usize> {
        loop {
            if let Some(length) = memmem::find(self.unread(), b"\r\n") {
                self.start += length + 2;
                return Ok(length);
            }
            if !self.fill().await? {
                return Err(cut());
            }
        }
    }

    fn unread(&self) -> &[u8] {
        &self.room[self.start..self.end]
    }

    /// One read from the socket; false when the peer has closed.
    async fn fill(&mut self) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.room.len() {
            if self.start == 0 {
                return Err(broken("a head or a chunk line over 64 KiB"));
            }
            self.room.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let length = self.stream.read(&mut self.room[self.end..]).await?;
        self.end += length;
        self.reads += 1;
        Ok(length > 0)
    }
}

/// What the bench reads in the head of a request or a reply.
pub struct Head {
    /// Request line or status line.
    pub start_line: String,
    /// How the body is framed.
    pub body: Body,
    /// The sender will close the connection after this message.
    pub close: bool,
}

impl Head {
    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|_| broken("a head that is not UTF-8"))?;
        let mut lines = text.split("\r\n");
        let start_line = lines.next().unwrap_or_default().to_owned();
        let no_length = if start_line.starts_with("HTTP/") { Body::UntilClose } else { Body::Done };
        let mut head = Self { start_line, body: no_length, close: false };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.body = Body::Length(value.parse().map_err(|_| broken("a content-length that is no number"))?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                head.body = Body::ChunkSize;
            } else if name.eq_ignore_ascii_case("connection") {
                head.close = value.eq_ignore_ascii_case("close");
            }
        }
        Ok(head)
    }

    /// The status of a reply, 0 for a request.
    pub fn status(&self) -> u16 {
        self.start_line.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }
}

/// Where a reader stands in a body.
#[derive(Clone, Copy, Debug)]
pub enum Body {
    Done,
    /// Bytes left of a known length.
    Length(u64),
    ChunkSize,
    /// Bytes left of this chunk; at 0 its line end follows.
    ChunkData(u64),
    Trailer,
    UntilClose,
}

/// Nanoseconds on the monotonic clock of the whole system, which two processes may compare.
pub fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| now.tv_sec().unsigned_abs() * 1_000_000_000 + now.tv_nsec().unsigned_abs())
}

fn chunk_size(line: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(line)
        .ok()
        .and_then(|line| line.split(';').next())
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .ok_or_else(|| broken("a chunk size that is no number"))
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed inside a message")
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
