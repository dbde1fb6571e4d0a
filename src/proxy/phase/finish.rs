//! Finish: gives the connection back and records the request, exactly once, even if the client vanished.

use std::{borrow::Cow, sync::Arc, time::Duration};

use pingora_error::{Error, ErrorSource};

use super::{
    relay,
    settle::{self, CLIENT_CLOSED, End, SettleVerdict},
};
use crate::{
    proxy::{
        caller::Caller,
        context::{Context, Delivery, Handed},
    },
    routing::AttemptOutcome,
    telemetry::{InFlight, Observer, Record},
};

/// Records a request at its end.
pub fn record(caller: &mut Caller<'_>, ctx: &mut Context, error: Option<&Error>) {
    if let Some(connection) = ctx.arrival.connection.take()
        && !caller.was_upgraded()
        && !caller.is_body_done()
    {
        connection.leave_unread();
    }
    if matches!(ctx.handed, Handed::Over) {
        return;
    }
    let left = caller.is_gone() || error.is_some_and(|e| e.esource() == &ErrorSource::Downstream);
    let written = caller.status();
    ctx.dispatch.end(if left { AttemptOutcome::Left } else { AttemptOutcome::Answered }, &ctx.metrics);
    let status = match written {
        Some(status) if !left => status,
        _ => CLIENT_CLOSED,
    };
    relay::read_bill(ctx);
    if let Delivery::Relay(stream) = &mut ctx.reply.delivery
        && !error.is_some_and(|error| noticed_while_idle(caller, error))
    {
        stream.unread_for = stream.last_read.map_or(Duration::MAX, |at| at.elapsed());
    }
    let duration = ctx.arrival.started.elapsed();
    // A held reply is written in one piece, just now.
    let held = written.filter(|_| matches!(ctx.reply.delivery, Delivery::Hold)).map(|_| duration);
    let first_byte = ctx.reply.first_byte.map(|at| at.duration_since(ctx.arrival.started)).or(held);
    let fault = ctx.reply.fault.map(|fault| Cow::Borrowed(fault.code()));
    let error = fault.or_else(|| error.map(|error| Cow::Owned(error.etype().as_str().to_owned())));
    let end = End { status, first_byte, duration, error };
    let snapshot = ctx.snapshot.clone();
    match settle::close(caller.request(), ctx, end) {
        (closing, SettleVerdict::Known(settled)) => tell(&snapshot.observers, &closing.settle(settled)),
        (closing, SettleVerdict::Count(count)) => {
            // The process does not end before the count is in the ledger.
            let open = InFlight::enter(&ctx.metrics);
            tokio::spawn(async move {
                let settled = count.count().await;
                tell(&snapshot.observers, &closing.settle(settled));
                drop(open);
            });
        }
    }
}

fn tell(observers: &[Arc<dyn Observer>], record: &Record) {
    observers.iter().for_each(|observer| observer.finished(record));
}

/// Whether the gateway noticed that the client left while it waited for the provider, rather than when it wrote to the client. In
/// HTTP/2 the errors of both are alike.
fn noticed_while_idle(caller: &Caller<'_>, error: &Error) -> bool {
    use pingora_error::ErrorType::{ConnectionClosed, ReadError};
    let idle = matches!(error.etype(), ConnectionClosed | ReadError);
    idle && error.esource() == &ErrorSource::Downstream && !caller.is_http2()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// An observer that counts the records it gets, as one beside the product's own would.
    #[derive(Default)]
    struct Counter(AtomicU32);

    impl Observer for Counter {
        fn finished(&self, record: &Record) {
            self.0.fetch_add(record.attempts, Ordering::Relaxed);
        }
    }

    #[test]
    fn everybody_is_told_of_each_request() {
        let counters = [Arc::new(Counter::default()), Arc::new(Counter::default())];
        let observers: Vec<Arc<dyn Observer>> = counters.iter().map(|counter| counter.clone() as _).collect();
        for attempts in [1, 2] {
            tell(&observers, &Record { attempts, ..crate::telemetry::tests::record("openai") });
        }
        assert_eq!(counters.map(|counter| counter.0.load(Ordering::Relaxed)), [3, 3]);
    }
}
