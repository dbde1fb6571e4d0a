//! The real gateway, recording fakes and raw clients. Everything listens on port 0.

pub mod fake;
pub mod gateway;
pub mod process;
pub mod raw;
mod tls;

pub use fake::{Answer, Fake, Step};
pub use gateway::Gateway;
pub use process::{Process, free_port};
pub use tls::SelfSigned;

/// A chat request body with this model and extra members (`,"stream":true`).
pub fn chat(model: &str, extra: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]{extra}}}"#)
}

/// False for an error whose message has a gap, as a line that is continued wrongly leaves one.
pub fn reads_well(reply: &serde_json::Value) -> bool {
    !reply["error"]["message"].as_str().is_some_and(|message| message.contains("  "))
}

/// A chat completion as OpenAI would send it.
pub const COMPLETION: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o-2024-08-06","choices":[{"index":0,"message":{"role":"assistant","content":"Hello there friend","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100,"prompt_tokens_details":{"cached_tokens":400,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}},"service_tier":"default","system_fingerprint":"fp_1"}"#;
