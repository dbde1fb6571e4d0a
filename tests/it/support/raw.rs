//! A client that writes and reads bytes, for what no HTTP library would send.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A reply as it came over the wire.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    pending: Vec<u8>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the gateway accepts");
        stream.set_nodelay(true).expect("a TCP stream");
        Self { stream, pending: Vec::new() }
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("the gateway reads");
    }

    /// Writes as much as the other side takes; false when it stopped reading.
    pub async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// A POST with a length.
    pub async fn post(&mut self, path: &str, headers: &str, body: &[u8]) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: gw\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        );
        self.write(head).await;
        self.write(body).await;
    }

    /// A POST in chunks of this size.
    pub async fn post_chunked(&mut self, path: &str, body: &[u8], chunk: usize) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: gw\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        self.write(head).await;
        for piece in body.chunks(chunk) {
            let mut framed = format!("{:x}\r\n", piece.len()).into_bytes();
            framed.extend_from_slice(piece);
            framed.extend_from_slice(b"\r\n");
            self.write(framed).await;
        }
        self.write(b"0\r\n\r\n").await;
    }

    /// The next reply, 100-continue included; `None` when the connection closed instead.
    pub async fn reply(&mut self) -> Option<Reply> {
        timeout(Duration::from_secs(20), self.read_reply()).await.expect("a reply within 20 s")
    }

    /// True when the other side closes within the given time.
    pub async fn closes_within(&mut self, time: Duration) -> bool {
        let mut byte = [0u8; 1];
        matches!(timeout(time, self.stream.read(&mut byte)).await, Ok(Ok(0) | Err(_)))
    }

    /// Bytes as they come, for streams; empty at the end.
    pub async fn read_some(&mut self) -> Vec<u8> {
        if !self.pending.is_empty() {
            return std::mem::take(&mut self.pending);
        }
        let mut buffer = vec![0u8; 64 * 1024];
        let read = timeout(Duration::from_secs(20), self.stream.read(&mut buffer)).await.expect("bytes within 20 s");
        buffer.truncate(read.unwrap_or(0));
        buffer
    }

    async fn fill(&mut self) -> bool {
        let mut buffer = [0u8; 64 * 1024];
        match self.stream.read(&mut buffer).await {
            Ok(0) | Err(_) => false,
            Ok(read) => {
                self.pending.extend_from_slice(&buffer[..read]);
                true
            }
        }
    }

    async fn read_reply(&mut self) -> Option<Reply> {
        let head_end = loop {
            if let Some(at) = find(&self.pending, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill().await {
                return None;
            }
        };
        let head = String::from_utf8(self.pending.drain(..head_end).collect()).expect("a printable head");
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status line");
        let mut reply = Reply { status, head, body: Vec::new() };
        if status < 200 || status == 204 || status == 304 {
            return Some(reply);
        }
        if let Some(length) = reply.header("content-length").and_then(|v| v.parse::<usize>().ok()) {
            while self.pending.len() < length {
                if !self.fill().await {
                    return None;
                }
            }
            reply.body = self.pending.drain(..length).collect();
        } else if reply.header("transfer-encoding").is_some() {
            loop {
                let line_end = loop {
                    if let Some(at) = find(&self.pending, b"\r\n") {
                        break at;
                    }
                    if !self.fill().await {
                        return None;
                    }
                };
                let size = std::str::from_utf8(&self.pending[..line_end]).expect("a chunk size");
                let size = usize::from_str_radix(size.trim(), 16).expect("a chunk size");
                while self.pending.len() < line_end + 2 + size + 2 {
                    if !self.fill().await {
                        return None;
                    }
                }
                self.pending.drain(..line_end + 2);
                reply.body.extend(self.pending.drain(..size));
                self.pending.drain(..2);
                if size == 0 {
                    break;
                }
            }
        } else {
            while self.fill().await {}
            reply.body = std::mem::take(&mut self.pending);
        }
        Some(reply)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
