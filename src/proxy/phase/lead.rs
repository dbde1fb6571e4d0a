//! Lead: an exchange whose answer others may follow runs as a task of its own.

use std::{mem, sync::Arc};

use pingora_core::protocols::http::HttpTask;
use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::FailToProxy;
use tokio::sync::oneshot;

use super::{cache, exchange, finish, recover};
use crate::{
    cache::Lead,
    proxy::{
        apart::{self, Local},
        caller::Caller,
        context::{Context, Handed},
        upstream::Upstream,
    },
};

/// Brings the client an answer: by an [`exchange`] in this task, or as a reader of one that is a task of its own.
///
/// # Errors
/// No deployment has answered, or the client has left: for `recover::give_up`.
pub async fn run(caller: &mut Caller<'_>, ctx: &mut Context, upstream: &Arc<Upstream>) -> Result<()> {
    match cache::leads(ctx) {
        // Boxed, as seldom needed: otherwise every stream would carry its size along.
        Some((lead, finish)) => Box::pin(run_apart(caller, ctx, upstream, lead, finish)).await,
        None => exchange::run(caller, ctx, upstream).await,
    }
}

/// How an exchange that was a task of its own has ended. Whoever takes the context out records the request. If it is dropped with
/// its context, the client has left, and the drop records the request.
struct Ended {
    caller: Caller<'static>,
    ctx: Option<Context>,
    failed: Option<(Box<Error>, FailToProxy)>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(mut ctx) = self.ctx.take() {
            let error = self.failed.as_ref().map(|(error, _)| &**error);
            finish::record(&mut self.caller, &mut ctx, error);
        }
    }
}

/// Runs the exchange as a task of its own, as others may wait for the same answer; its client is one reader of it.
async fn run_apart(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    upstream: &Arc<Upstream>,
    lead: Arc<Lead>,
    finish: bool,
) -> Result<()> {
    let (remote, local) = apart::pair(caller.request().clone(), lead, finish);
    let stand_in = Context::stand_in(ctx);
    let mut own = mem::replace(ctx, stand_in);
    let (done, ended) = oneshot::channel();
    let upstream = upstream.clone();
    tokio::spawn(async move {
        let mut caller = Caller::apart(remote);
        let failed = match exchange::run(&mut caller, &mut own, &upstream).await {
            Ok(()) => None,
            Err(error) => {
                let end = recover::give_up(&mut caller, &mut own, &error).await;
                Some((error, end))
            }
        };
        // If the client has left, the value is dropped, which records the request.
        let _ = done.send(Ended { caller, ctx: Some(own), failed });
    });
    let mut ended = match read_along(caller, &local, ended).await {
        Err(error) if error.etype() == &ErrorType::InternalError => {
            // The task has panicked: `ctx` is all that is left of the request.
            ctx.handed = Handed::Here;
            return Err(error);
        }
        ended => ended?,
    };
    if let Some(own) = ended.ctx.take() {
        ctx.come_back(own);
    }
    match ended.failed.take() {
        None => Ok(()),
        Some((error, end)) => {
            ctx.handed = Handed::Back(end);
            Err(error)
        }
    }
}

/// Writes to the client what the exchange queues for it, until the exchange has ended.
async fn read_along(caller: &mut Caller<'_>, local: &Local, mut ended: oneshot::Receiver<Ended>) -> Result<Ended> {
    loop {
        let (tasks, closes) = tokio::select! {
            biased;
            next = local.next() => next,
            end = &mut ended => {
                let (tasks, closes) = local.now();
                deliver(caller, local, tasks, closes).await?;
                return end.map_err(|_| Error::explain(ErrorType::InternalError, "the exchange has come to no end"));
            }
            left = caller.departure() => return Err(left),
        };
        deliver(caller, local, tasks, closes).await?;
    }
}

async fn deliver(caller: &mut Caller<'_>, local: &Local, tasks: Vec<HttpTask>, closes: bool) -> Result<()> {
    if closes {
        caller.close_after();
    }
    let bytes = apart::size(&tasks);
    if !tasks.is_empty() {
        caller.write(tasks).await?;
    }
    local.written(bytes);
    Ok(())
}
