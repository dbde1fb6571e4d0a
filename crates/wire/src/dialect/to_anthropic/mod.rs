//! The provider step to Anthropic: OpenAI's Chat Completions → `POST /v1/messages`, and the replies back.
//!
//! ```text
//! request   Chat body → Messages body           conversation, content, calls   messages and system
//!                                               tools, format, schema          what the model may call and must answer
//!                                               thinking, models               what the individual model takes
//!                                               cache                          breakpoints
//! reply     Messages document → chat.completion
//! stream    Messages events → chat events       usage, wire, finish, chunk     common parts of reply and stream
//! error     Anthropic's error → OpenAI's
//! ```
//!
//! Anthropic answers an unknown field with a 400, so the body is built anew and never copied. Rules that differ between models
//! are in `models`; they depend on the model's name, and an unknown name counts as the newest model.

mod cache;
mod calls;
mod chunk;
mod content;
mod conversation;
mod error;
mod finish;
mod format;
mod models;
mod reply;
mod request;
mod schema;
mod stream;
#[cfg(test)]
mod tests;
mod thinking;
mod tools;
mod usage;
mod wire;

pub use cache::has_marks;
pub use error::read_error;
pub use request::request;
pub use tools::MAX_SEARCHES;

/// Whether `thinking: {type: disabled}` keeps a model of this name from thinking.
pub(super) fn can_be_kept_from_thinking(model: &str) -> bool {
    matches!(models::Abilities::of(model).off, models::Off::Absent | models::Off::Disabled)
}

/// Whether a model of this name thinks when a request does not mention thinking.
pub(super) fn thinks_unasked(model: &str) -> bool {
    models::Abilities::of(model).thinks_by_default()
}

use super::{Refusal, Rule};

/// The dispositions of Chat's parameters.
pub const TABLE: &[Rule] = &[
    Rule::translated("model", "The provider's name for the model."),
    Rule::translated(
        "messages",
        "`messages` and `system`. System messages from the midst of a conversation move to the end of `system`, names are dropped.",
    ),
    Rule::translated("stream", "`stream`"),
    Rule::translated(
        "stream_options",
        "Anthropic always counts; the gateway hides the count from a client that did not ask for it.",
    ),
    Rule::translated(
        "max_completion_tokens",
        "`max_tokens`; without it the longest answer of the model, within the operator's bound.",
    ),
    Rule::translated("max_tokens", "`max_tokens`, unless `max_completion_tokens` is given too."),
    Rule::translated(
        "temperature",
        "`temperature`, at most 1; dropped while the model thinks and from Claude 4.7 on, where only 1 is taken.",
    ),
    Rule::translated(
        "top_p",
        "`top_p`; dropped beside a temperature from Claude 4.1 on, below 0.95 while the model thinks, and from Claude 4.7 on.",
    ),
    Rule::translated("top_k", "`top_k`, an extension; dropped while the model thinks and from Claude 4.7 on."),
    Rule::translated("stop", "`stop_sequences`; blank ones are dropped."),
    Rule::translated("tools", "`tools`; functions only. `strict` where the model has it, for 20 tools at most."),
    Rule::translated(
        "tool_choice",
        "`tool_choice`; allowed tools are the only ones sent. From Claude 5.1 on a call is asked for, not enforced.",
    ),
    Rule::translated("parallel_tool_calls", "`tool_choice.disable_parallel_tool_use`"),
    Rule::translated("functions", "`tools`; the reply has a `function_call`."),
    Rule::translated("function_call", "`tool_choice`"),
    Rule::translated(
        "response_format",
        "A schema is `output_config.format` from Claude 4.5 on and the input of a forced tool before; `json_object` is a line in `system`.",
    ),
    Rule::translated(
        "reasoning_effort",
        "`thinking`, and `output_config.effort` where the model has it; dropped where it cannot think.",
    ),
    Rule::translated("thinking", "Anthropic's own `thinking`, an extension, in the form that the model takes."),
    Rule::translated("safety_identifier", "`metadata.user_id`, hashed unless it is a plain id."),
    Rule::translated(
        "user",
        "`metadata.user_id` where there is no `safety_identifier`, hashed unless it is a plain id.",
    ),
    Rule::translated(
        "service_tier",
        "`auto` and `priority` are `auto`, `default` is `standard_only`; others are dropped.",
    ),
    Rule::translated(
        "cache_control",
        "`cache_control`, an extension; also on parts, messages and tools. Of more than four the last count.",
    ),
    Rule::translated("web_search_options", "The tool `web_search_20250305`; `search_context_size` is dropped."),
    Rule::dropped("seed", &[], "Anthropic has no seed."),
    Rule::dropped("logit_bias", &["{}"], "Anthropic has no bias."),
    Rule::dropped("frequency_penalty", &["0", "0.0"], "Anthropic has no penalties."),
    Rule::dropped("presence_penalty", &["0", "0.0"], "Anthropic has no penalties."),
    Rule::dropped("prediction", &[], "Anthropic has no predicted outputs."),
    Rule::dropped("store", &["false"], "Anthropic stores no completions."),
    Rule::dropped("metadata", &["{}"], "Anthropic's `metadata` knows the user's id only."),
    Rule::dropped("verbosity", &["\"medium\""], "Anthropic has no such setting: say it in the prompt."),
    Rule::translated(
        "prompt_cache_key",
        "Breakpoints (`cache_control`) behind the tools, behind `system` and on the last two turns of the user, so that each \
         request reads what the one before wrote. Not where the client sets breakpoints itself (`cache_control`, or OpenAI's \
         `prompt_cache_breakpoint` on parts, messages and tools). `routes[].prompt_caching` says otherwise.",
    ),
    Rule::translated(
        "prompt_cache_retention",
        "As `prompt_cache_key`. `24h` is dropped: Anthropic keeps a prompt for 5 minutes from its last use, and for an hour at \
         twice the price of input where the client writes `cache_control` with `ttl`.",
    ),
    Rule::translated(
        "prompt_cache_options",
        "As `prompt_cache_key`, with `mode: explicit` only the breakpoints of the client; `ttl` is dropped.",
    ),
    Rule::dropped("moderation", &[], "Anthropic moderates by its own rules."),
    Rule::refused("n", &["1"], "Claude gives one answer for each request: send n requests instead."),
    Rule::refused(
        "logprobs",
        &["false"],
        "Claude gives no log probabilities: ask without `logprobs`, or ask another model.",
    ),
    Rule::refused(
        "top_logprobs",
        &["0"],
        "Claude gives no log probabilities: ask without `top_logprobs`, or ask another model.",
    ),
    Rule::refused(
        "modalities",
        &["[\"text\"]", "[]"],
        "Claude answers with text only: ask for `[\"text\"]`, or ask another model.",
    ),
    Rule::refused("audio", &[], "Claude answers with text only: ask without `audio`, or ask another model."),
];

/// A refusal of a parameter that has a wrong type or a wrong value.
fn must_be(param: impl Into<String>, what: &str) -> Refusal {
    let param = param.into();
    let message = format!("`{param}` must be {what}.");
    Refusal::new(param, message)
}
