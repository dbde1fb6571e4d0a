//! The dispositions of the parameters of the Messages API.

use crate::dialect::Rule;

/// Every top-level parameter of `POST /v1/messages`, betas included.
pub const TABLE: &[Rule] = &[
    Rule::translated("model", "The provider's name of the model that the route chose."),
    Rule::translated("messages", "`messages`; tool results become `tool` messages in front of the rest of their turn."),
    Rule::translated("system", "One `system` message at the start."),
    Rule::translated("max_tokens", "`max_completion_tokens`, at most what the model can write."),
    Rule::translated("stream", "`stream`, with `stream_options.include_usage`."),
    Rule::translated("stop_sequences", "`stop`; Chat Completions takes four, further ones are left out and named."),
    Rule::translated("temperature", "`temperature`."),
    Rule::translated("top_p", "`top_p`."),
    Rule::dropped("top_k", &[], "Chat Completions has no such sampling."),
    Rule::translated("tools", "`tools` of type `function`; tools that Anthropic defines or runs are refused."),
    Rule::translated("tool_choice", "`tool_choice`, and `parallel_tool_calls` for `disable_parallel_tool_use`."),
    Rule::translated("thinking", "`reasoning_effort` by the budget, where the model's name says that it takes one."),
    Rule::translated("output_config", "`effort` is `reasoning_effort`, `format` is `response_format`."),
    Rule::translated("output_format", "`response_format`; the older place of `output_config.format`."),
    Rule::translated("metadata", "`user_id` is `user`; one of more than 64 characters is hashed."),
    Rule::translated("service_tier", "`service_tier`: `standard_only` is `default`."),
    Rule::refused("thread", &[], "Only Anthropic keeps conversations; send all messages, without `thread`."),
    Rule::refused(
        "container",
        &[],
        "Containers exist at Anthropic only; leave `container` out or choose a Claude model.",
    ),
    Rule::refused(
        "mcp_servers",
        &["[]"],
        "Only Anthropic calls MCP servers for its models; offer the server's tools in `tools` and call it yourself.",
    ),
    Rule::dropped("context_management", &["{}", r#"{"edits":[]}"#], "The whole conversation is sent."),
    Rule::dropped("cache_control", &[], "Chat providers choose themselves what they cache."),
    Rule::refused(
        "inference_geo",
        &["\"global\""],
        "This model's provider promises no place of inference; leave `inference_geo` out or choose a Claude model.",
    ),
    Rule::dropped("speed", &["\"standard\""], "Chat Completions has no such mode."),
    Rule::dropped("diagnostics", &[], "Only Anthropic compares a prompt with an earlier one."),
    Rule::dropped("fallbacks", &["[]"], "The gateway's routes say which model is asked next."),
    Rule::dropped("fallback_credit_token", &[], "It is a matter of Anthropic's billing."),
];
