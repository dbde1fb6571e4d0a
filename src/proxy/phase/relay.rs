//! Relay: pass events on as they arrive, and read what they tell about usage.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::respond;
use crate::{
    openai::StreamEnd,
    proxy::context::{Bill, Context, Delivery},
};

/// Takes what the provider sent and leaves what the client gets now.
pub fn events(body: &mut Option<Bytes>, end: bool, ctx: &mut Context) {
    let Delivery::Relay(relay) = &mut ctx.delivery else { return };
    let mut out = body.take().map(|chunk| relay.feed(chunk)).unwrap_or_default();
    if end {
        out = join(out, relay.finish(&StreamEnd::Clean));
    }
    *body = Some(out).filter(|out| !out.is_empty());
    if body.is_some() {
        ctx.first_byte.get_or_insert_with(Instant::now);
    }
    if end {
        settle(ctx);
    }
}

/// The event that tells a client that its stream broke; `None` when the stream had ended properly.
pub fn interruption(ctx: &mut Context, why: &str) -> Option<Bytes> {
    let Delivery::Relay(relay) = &mut ctx.delivery else { return None };
    let out = relay.finish(&StreamEnd::Cut(why.to_owned()));
    settle(ctx);
    Some(out).filter(|out| !out.is_empty())
}

/// Writes down what the stream used.
pub fn settle(ctx: &mut Context) {
    let Delivery::Relay(relay) = &ctx.delivery else { return };
    let usage = relay.usage();
    let tier = respond::stream_tier(relay, ctx);
    let cost = usage.zip(ctx.price()).map(|(usage, price)| price.cost(&usage, tier));
    *ctx.bill() = Bill { usage, cost };
}

fn join(first: Bytes, second: Bytes) -> Bytes {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => second,
        (_, true) => first,
        (false, false) => {
            let mut whole = BytesMut::with_capacity(first.len() + second.len());
            whole.extend_from_slice(&first);
            whole.extend_from_slice(&second);
            whole.freeze()
        }
    }
}
