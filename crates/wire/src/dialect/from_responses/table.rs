//! The dispositions of the parameters of the Responses API.

use crate::dialect::Rule;

/// Every top-level parameter of `POST /v1/responses`.
pub const TABLE: &[Rule] = &[
    Rule::translated("model", "The provider's name of the model that the route chose."),
    Rule::translated("input", "`messages`; calls and their outputs become `tool_calls` and `tool` messages."),
    Rule::translated("instructions", "One `system` message at the start."),
    Rule::translated("stream", "`stream`, with `stream_options.include_usage`."),
    Rule::dropped(
        "stream_options",
        &["{}", r#"{"include_obfuscation":false}"#, r#"{"include_obfuscation":true}"#],
        "Events are never padded; there are no other options.",
    ),
    Rule::translated("max_output_tokens", "`max_completion_tokens`."),
    Rule::translated("temperature", "`temperature`."),
    Rule::translated("top_p", "`top_p`."),
    Rule::translated("top_logprobs", "`logprobs` and `top_logprobs` where it is more than 0."),
    Rule::translated(
        "tools",
        "`tools`; a `custom` tool becomes a function with one text, those of a namespace get its name in front of theirs, a web search is dropped, other tools that OpenAI runs or defines are refused.",
    ),
    Rule::translated("tool_choice", "`tool_choice`; left out where there are no tools."),
    Rule::translated("parallel_tool_calls", "`parallel_tool_calls`; left out where there are no tools."),
    Rule::dropped("max_tool_calls", &[], "It counts calls of tools that OpenAI runs, and there are none."),
    Rule::translated("text", "`format` is `response_format`, `verbosity` is `verbosity`."),
    Rule::translated(
        "reasoning",
        "`effort` is `reasoning_effort`; summaries are the reasoning that the provider shows.",
    ),
    Rule::translated(
        "include",
        "`reasoning.encrypted_content` and `message.output_text.logprobs`; further ones are left out and named.",
    ),
    Rule::translated("metadata", "Repeated in the response; the provider does not get it."),
    Rule::translated("user", "`user`."),
    Rule::translated("safety_identifier", "`safety_identifier`."),
    Rule::translated("prompt_cache_key", "`prompt_cache_key`."),
    Rule::translated("prompt_cache_retention", "`prompt_cache_retention`."),
    Rule::translated("prompt_cache_options", "`prompt_cache_options`."),
    Rule::translated("cache_control", "`cache_control`; an extension that Anthropic's models understand."),
    Rule::translated("service_tier", "`service_tier`."),
    Rule::translated(
        "store",
        "The gateway keeps the response for a while in the provider's place, unless this is `false` (`stored_responses` in the \
         configuration). Where it keeps none, `true` is dropped, and the response says so.",
    ),
    Rule::dropped("truncation", &["\"disabled\""], "The whole conversation is sent."),
    Rule::dropped("context_management", &["[]"], "The whole conversation is sent."),
    Rule::translated(
        "previous_response_id",
        "The conversation so far stands before `input`, without its `instructions`. What the gateway does not keep (any more) is \
         a 400 with code `previous_response_not_found`; an `item_reference` in `input` a 404.",
    ),
    Rule::refused(
        "conversation",
        &[],
        "Conversations of this model are not stored; send the whole conversation in `input`.",
    ),
    Rule::refused(
        "prompt",
        &[],
        "Prompts are stored at OpenAI, where this model's provider cannot read them; send the text in `instructions` and \
         `input`.",
    ),
    Rule::refused(
        "background",
        &["false"],
        "This model cannot answer in the background; leave `background` out and use `stream` for a long answer.",
    ),
    Rule::refused(
        "moderation",
        &[],
        "This model's provider does not moderate; leave `moderation` out and ask `/v1/moderations` instead.",
    ),
];
