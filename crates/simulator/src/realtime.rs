//! `GET /v1/realtime`: a WebSocket (RFC 6455) that echoes every data frame, answers pings and answers a close frame.
//!
//! Written by hand because an echo needs no message assembly: a frame is sent back as it comes, in constant memory.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use ring::digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::call::World;
use super::errors::ApiError;

/// The constant that RFC 6455 §1.3 appends to the client's key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// Performs the handshake and starts a task that echoes. Without an upgrade request the answer is 400.
pub(super) async fn upgrade(State(world): State<Arc<World>>, mut request: Request) -> Response {
    let headers = request.headers();
    let has = |name, value: &str| {
        let text = headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
        text.split(',').any(|word| word.trim().eq_ignore_ascii_case(value))
    };
    let asked = has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket");
    let (true, Some(key)) = (asked, headers.get(header::SEC_WEBSOCKET_KEY)) else {
        let message = "You must upgrade to a WebSocket.".to_owned();
        return ApiError::invalid("upgrade", "invalid_request", message).into_response();
    };
    let accept = accept(key.as_bytes());
    let protocol = first_protocol(headers);
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrading.await {
            tokio::select! {
                // The client is gone, with or without an error, so the result is ignored.
                _ = echo(TokioIo::new(upgraded)) => {}
                () = world.closed() => {}
            }
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response
}

/// The `sec-websocket-accept` of a key.
fn accept(key: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(GUID);
    STANDARD.encode(context.finish())
}

/// The first subprotocol that is offered: `realtime` in OpenAI's browser client, which also offers its key as a
/// subprotocol.
fn first_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    HeaderValue::from_str(offered.split(',').next()?.trim()).ok()
}

async fn echo(mut socket: TokioIo<Upgraded>) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let first = socket.read_u8().await?;
        let second = socket.read_u8().await?;
        let (opcode, masked) = (first & 0x0f, second & 0x80 != 0);
        let length = match second & 0x7f {
            126 => u64::from(socket.read_u16().await?),
            127 => socket.read_u64().await?,
            short => u64::from(short),
        };
        // A client must mask (§5.1) and a control frame is short (§5.5); else close with 1002, protocol error.
        if !masked || (opcode >= CLOSE && length > 125) {
            socket.write_all(&[0x80 | CLOSE, 2, 0x03, 0xea]).await?;
            return socket.shutdown().await;
        }
        let mut mask = [0; 4];
        socket.read_exact(&mut mask).await?;
        // Same FIN and opcode, except that a ping is answered by a pong.
        let reply = if opcode == PING { (first & 0xf0) | PONG } else { first };
        let silent = opcode == PONG;
        if !silent {
            socket.write_all(&header(reply, length)).await?;
        }
        let mut done = 0;
        while done < length {
            let want = usize::try_from(length - done).unwrap_or(usize::MAX).min(buffer.len());
            let got = socket.read(&mut buffer[..want]).await?;
            if got == 0 {
                return Ok(());
            }
            for (i, byte) in buffer[..got].iter_mut().enumerate() {
                *byte ^= mask[((done + i as u64) % 4) as usize];
            }
            if !silent {
                socket.write_all(&buffer[..got]).await?;
            }
            done += got as u64;
        }
        socket.flush().await?;
        if opcode == CLOSE {
            return socket.shutdown().await;
        }
    }
}

/// The header of an unmasked frame.
fn header(first: u8, length: u64) -> Vec<u8> {
    let mut header = vec![first];
    match length {
        0..=125 => header.push(length as u8),
        126..=0xffff => {
            header.push(126);
            header.extend((length as u16).to_be_bytes());
        }
        _ => {
            header.push(127);
            header.extend(length.to_be_bytes());
        }
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_of_the_rfc() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn frame_headers() {
        assert_eq!(header(0x81, 5), [0x81, 5]);
        assert_eq!(header(0x82, 256), [0x82, 126, 1, 0]);
        assert_eq!(header(0x82, 65536), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
