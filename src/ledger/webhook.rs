//! One call of a webhook, signed in the way of Standard Webhooks (standardwebhooks.com): the signature is HMAC-SHA256 over
//! `id.timestamp.body`.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ring::hmac;

use crate::{config::Webhook, types::unix_now};

/// How long a receiver may take for the whole call.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends an alert to the webhook. Blocks, so it needs a thread of its own.
///
/// # Errors
/// A short text: no connection, no answer in time, or a status that is no success.
pub fn call(webhook: &Webhook, id: &str, body: &str) -> Result<(), String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .max_redirects(0)
        .http_status_as_error(false)
        .build()
        .into();
    let timestamp = (unix_now() / 1000).to_string();
    let mut request = agent
        .post(&webhook.url)
        .header("content-type", "application/json")
        .header("webhook-id", id)
        .header("webhook-timestamp", &timestamp);
    if let Some(secret) = &webhook.secret {
        request = request.header("webhook-signature", sign(secret.expose(), id, &timestamp, body));
    }
    match request.send(body) {
        Ok(reply) if reply.status().is_success() => Ok(()),
        Ok(reply) => Err(format!("it answered {}", reply.status().as_u16())),
        Err(error) => Err(error.to_string()),
    }
}

/// Signs a call. A secret that begins with `whsec_` is base64 after that prefix, as the tools of Standard Webhooks write it; any
/// other secret is used as it is.
fn sign(secret: &str, id: &str, timestamp: &str, body: &str) -> String {
    let decoded = secret.strip_prefix("whsec_").and_then(|text| BASE64.decode(text).ok());
    let key = hmac::Key::new(hmac::HMAC_SHA256, decoded.as_deref().unwrap_or(secret.as_bytes()));
    let tag = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", BASE64.encode(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_standards_example() {
        let body = r#"{"test": 2432232314}"#;
        let signed = sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
