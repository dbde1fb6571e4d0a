//! Read: the whole body, within its limit and its time.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use crate::{
    capacity::{MemoryBudget, PATIENCE, Part, SMALL, Share, Turns},
    config::Http,
    error::{Extra, Fault, GatewayError},
    proxy::{
        caller::Caller,
        context::Context,
        encoding::{self, Broken, Coding},
        heavy,
        stop::{Stop, invalid},
    },
};

/// How many bodies are decoded at the same time; the others wait. Each may take a decoder's window besides its decoded bytes.
static DECODERS: Semaphore = Semaphore::const_new(8);

/// The size that a compressed body usually decodes to at most: as a multiple of its size, and in bytes. More room is drawn if
/// needed.
const USUAL_RATIO: usize = 16;
const USUAL_SIZE: usize = 1 << 20;

/// The whole body, decoded if it is compressed. Its room in the memory budget is drawn before it is read, and given back when the
/// last clone is dropped.
///
/// # Errors
/// The body is over the limit (413), has an unsupported compression (415), does not arrive in time (408), or finds no room (503);
/// or the client has left.
pub async fn body(caller: &mut Caller<'_>, ctx: &Context) -> Result<Bytes, Stop> {
    let coding = Coding::of(&caller.request().headers).map_err(|_| unsupported())?;
    let body = received(caller, ctx).await?;
    match coding {
        Some(coding) if !body.is_empty() => Box::pin(decode(coding, body, ctx)).await.map_err(Stop::Error),
        _ => Ok(body),
    }
}

/// Always on a blocking thread: a few bytes may decode to the largest body.
async fn decode(coding: Coding, body: Bytes, ctx: &Context) -> Result<Bytes, GatewayError> {
    let (limits, memory) = (&ctx.snapshot.config.http, &ctx.shared.capacity.memory);
    let failed = || GatewayError::new(Fault::Internal, "The request body could not be decoded.");
    let usual = body.len().saturating_mul(USUAL_RATIO).max(USUAL_SIZE).min(limits.max_body_bytes);
    for limit in [usual, limits.max_body_bytes] {
        let drawn = memory.draw(Part::Body, limit as u64, PATIENCE).await;
        let mut share = drawn.map_err(|why| heavy::no_room(why, limit as u64))?;
        let permit = DECODERS.acquire().await.map_err(|_| failed())?;
        let encoded = body.clone();
        let outcome = spawn_blocking(move || coding.decode(&encoded, limit)).await.map_err(|_| failed())?;
        drop(permit);
        match outcome {
            Ok(decoded) => {
                share.shrink_to(decoded.len() as u64);
                return Ok(share.hold(decoded));
            }
            Err(Broken::TooLarge) => {}
            Err(Broken::Invalid) => {
                let message = "The request body is not in the form that 'content-encoding' says";
                return Err(invalid(format!("{message} ({}).", coding.name())));
            }
        }
    }
    Err(over_the_limit(limits))
}

fn unsupported() -> GatewayError {
    let message = format!(
        "The gateway does not decode this Content-Encoding of a request body. Send it in one of {}, or not compressed.",
        encoding::SUPPORTED
    );
    let headers = vec![("accept-encoding", encoding::SUPPORTED.to_owned())];
    let extra = Some(Box::new(Extra { headers, ..Extra::default() }));
    GatewayError { extra, ..GatewayError::new(Fault::UnsupportedEncoding, message) }
}

/// The body as it arrives, undecoded.
async fn received(caller: &mut Caller<'_>, ctx: &Context) -> Result<Bytes, Stop> {
    let (limits, memory) = (&ctx.snapshot.config.http, &ctx.shared.capacity.memory);
    let announced = caller
        .header(http::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limits.max_body_bytes) {
        return Err(too_large(caller, limits));
    }
    let share = match announced.filter(|length| *length > SMALL) {
        None => None,
        Some(length) => {
            let length = length as u64;
            let drawn = memory.draw(Part::Body, length, PATIENCE).await;
            Some(drawn.map_err(|why| heavy::no_room(why, length))?)
        }
    };
    invite_body(caller).await?;
    match timeout(limits.body_timeout, collect(caller, announced, share, limits, memory)).await {
        Ok(result) => result,
        Err(_) => {
            caller.close_after();
            Err(too_late(limits))
        }
    }
}

/// Tells a client that waits for `100 Continue` to send its body.
///
/// # Errors
/// The client has left.
pub async fn invite_body(caller: &mut Caller<'_>) -> Result<(), Stop> {
    match caller.expects_continue() {
        true => caller.invite_body().await.map_err(|_| Stop::Gone),
        false => Ok(()),
    }
}

/// A body up to this size, in bytes, is read to keep its connection.
const LITTLE: usize = 64 << 10;

/// Reads the rest of a small body before an early reply, so that the connection can go on being used. If the client waits for
/// `100 Continue`, or the body is large or does not arrive, the connection is closed instead.
pub async fn discard(caller: &mut Caller<'_>) {
    let length = caller.header(http::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    // Without keep-alive, no connection has to be kept.
    if !caller.keeps_connection()
        || caller.is_body_done()
        || length.is_none_or(|length| length > LITTLE)
        || caller.expects_continue()
    {
        return;
    }
    let rest = async { while let Ok(Some(_)) = caller.read_body().await {} };
    let _ = timeout(Duration::from_millis(500), rest).await;
}

/// The least by which the room of a body without a stated length grows, in bytes.
const STEP: usize = 256 << 10;

async fn collect(
    caller: &mut Caller<'_>,
    announced: Option<usize>,
    mut share: Option<Share>,
    limits: &Http,
    memory: &Arc<MemoryBudget>,
) -> Result<Bytes, Stop> {
    let Some(first) = next(caller, limits).await? else { return Ok(Bytes::new()) };
    if announced == Some(first.len()) && caller.is_body_done() {
        // The usual case: one read, no copy.
        return Ok(held(share, first));
    }
    if first.len() > limits.max_body_bytes {
        return Err(too_large(caller, limits));
    }
    // Within the limit, and drawn from the budget. The system provides memory when it is written to, which is when the body
    // arrives.
    let mut whole = BytesMut::with_capacity(announced.unwrap_or(0).max(first.len()));
    whole.extend_from_slice(&first);
    let mut turns = Turns::default();
    while let Some(chunk) = next(caller, limits).await? {
        turns.took(chunk.len()).await;
        let length = whole.len() + chunk.len();
        if length > limits.max_body_bytes {
            return Err(too_large(caller, limits));
        }
        if length > whole.capacity() {
            make_room(&mut whole, length, &mut share, limits, memory)?;
        }
        whole.extend_from_slice(&chunk);
    }
    if announced.is_some_and(|length| length != whole.len()) {
        return Err(Stop::Gone);
    }
    Ok(held(share, whole.freeze()))
}

fn held(share: Option<Share>, body: Bytes) -> Bytes {
    match share {
        Some(share) => share.hold(body),
        None => body,
    }
}

/// Moves a body without a stated length into a larger buffer. Does not wait for room: others may wait for the room that this body
/// holds.
fn make_room(
    whole: &mut BytesMut,
    length: usize,
    share: &mut Option<Share>,
    limits: &Http,
    memory: &Arc<MemoryBudget>,
) -> Result<(), GatewayError> {
    if length <= SMALL {
        return Ok(());
    }
    let room = (2 * whole.capacity()).max(length + STEP).min(limits.max_body_bytes.max(length));
    let drawn = match share {
        // Both buffers are there for a moment.
        Some(share) => share.grow(room as u64),
        None => memory.try_draw(Part::Body, room as u64).map(|drawn| *share = Some(drawn)),
    };
    drawn.map_err(|why| heavy::no_room(why, room as u64))?;
    let mut larger = BytesMut::with_capacity(room);
    larger.extend_from_slice(whole);
    *whole = larger;
    if let Some(share) = share {
        share.shrink_to(room as u64);
    }
    Ok(())
}

async fn next(caller: &mut Caller<'_>, limits: &Http) -> Result<Option<Bytes>, Stop> {
    use pingora_error::ErrorType::{ConnectionClosed, ReadError, ReadTimedout};
    match caller.read_body().await {
        Ok(chunk) => Ok(chunk),
        Err(error) => {
            caller.close_after();
            Err(match error.etype() {
                ReadTimedout => too_late(limits),
                ConnectionClosed | ReadError => Stop::Gone,
                _ => invalid("The request body is framed wrongly.").into(),
            })
        }
    }
}

fn too_late(limits: &Http) -> Stop {
    let seconds = limits.body_timeout.as_secs_f32();
    GatewayError::new(Fault::BodyTimeout, format!("The request body did not arrive within {seconds} s.")).into()
}

fn too_large(caller: &mut Caller<'_>, limits: &Http) -> Stop {
    // The rest of the body is not worth reading.
    caller.close_after();
    over_the_limit(limits).into()
}

fn over_the_limit(limits: &Http) -> GatewayError {
    let message = format!(
        "The request body is larger than the gateway's limit of {} bytes (http.max_body).",
        limits.max_body_bytes
    );
    GatewayError::new(Fault::BodyTooLarge, message)
}
