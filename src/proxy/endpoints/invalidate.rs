//! Invalidate: `POST /v1/cache/invalidate`, the gateway's own endpoint.

use bytes::Bytes;
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::{
    cache::PurgeRequest,
    error::{Fault, GatewayError},
    identity::Scope,
    proxy::{
        caller::Caller,
        context::Context,
        phase::read,
        stop::{Stop, invalid},
    },
};

/// Purges what the body names. A token with the scope `admin` may purge anything; one with `ai:write`, what its own tenant has
/// paid for; a client without a token, nothing. Returns status and body of the reply.
pub async fn answer(caller: &mut Caller<'_>, ctx: &Context) -> Result<(u16, Bytes), Stop> {
    let Some(principal) = ctx.asker.principal.clone().filter(|principal| !principal.is_anonymous()) else {
        let message = "Only a token may purge the cache. Present yours as `Authorization: Bearer chitty_…`.";
        return Err(GatewayError::new(Fault::MissingCredential, message).into());
    };
    let body = read::body(caller, ctx).await?;
    let mut request = PurgeRequest::parse(&body).map_err(invalid)?;
    if !principal.may(Scope::Admin) {
        let tenant = &principal.policy.id;
        request = request.confined_to(tenant).map_err(|other| {
            let message = format!(
                "The token belongs to tenant '{tenant}': to purge what '{other}' has paid for, the scope 'admin' is needed."
            );
            GatewayError::new(Fault::MissingScope, message)
        })?;
    }
    let cache = ctx.shared.cache.clone();
    let (request, written) = spawn_blocking(move || {
        let written = cache.purges.run(&request);
        (request, written)
    })
    .await
    .map_err(|_| GatewayError::new(Fault::Internal, "The purge failed."))?;
    let at = written.map_err(|error| {
        tracing::error!(%error, "a purge could not be written down");
        let message = "The purge has taken effect in this process, but could not be written down: other processes do not know \
                       of it, and this one forgets it when it ends. Send it again.";
        GatewayError::new(Fault::LedgerUnavailable, message)
    })?;
    let reply = json!({ "object": "cache.invalidation", "purged": request, "at": at });
    Ok((200, Bytes::from(reply.to_string())))
}
