//! The dispositions of Chat's top-level parameters.

use crate::dialect::Rule;

/// Chat's parameters (those of OpenAI's API in November 2026, and supported extensions) at Ollama's `/api/chat`.
pub const TABLE: &[Rule] = &[
    Rule::translated("model", "The deployment's name of the model."),
    Rule::translated("messages", "`messages`: text, images in base64, tool calls, tool results and thinking."),
    Rule::translated("stream", "`stream`, always stated: Ollama streams by default."),
    Rule::translated("stream_options", "Nothing to ask for: Ollama always counts at the end."),
    Rule::translated("max_completion_tokens", "`options.num_predict`; thinking counts."),
    Rule::translated("max_tokens", "`options.num_predict` where `max_completion_tokens` is absent."),
    Rule::translated("temperature", "`options.temperature`; when absent the model's own default holds."),
    Rule::translated("top_p", "`options.top_p`; when absent the model's own default holds."),
    Rule::translated("top_k", "`options.top_k` (an extension)."),
    Rule::translated("min_p", "`options.min_p` (an extension)."),
    Rule::translated("repeat_penalty", "`options.repeat_penalty` (an extension)."),
    Rule::translated("frequency_penalty", "`options.frequency_penalty`."),
    Rule::translated("presence_penalty", "`options.presence_penalty`."),
    Rule::translated("seed", "`options.seed`."),
    Rule::translated("stop", "`options.stop`, always a list."),
    Rule::translated("keep_alive", "`keep_alive` (an extension): how long the model stays loaded."),
    Rule::translated("logprobs", "`logprobs`; Ollama before 0.12.11 sends none."),
    Rule::translated("top_logprobs", "`top_logprobs`."),
    Rule::translated("response_format", "`format`: `\"json\"` for json_object, the schema itself for json_schema."),
    Rule::translated(
        "reasoning_effort",
        "`think`: low, medium or high for gpt-oss, true or false for other models; named as dropped when that is not what was \
         asked for.",
    ),
    Rule::translated("tools", "`tools`, functions only; Ollama shows models the common part of JSON Schema."),
    Rule::translated(
        "tool_choice",
        "Ollama cannot force a call: none leaves the tools out, allowed_tools and a named function leave only those, and a \
         duty to call is named as dropped.",
    ),
    Rule::translated("functions", "As `tools`."),
    Rule::translated("function_call", "As `tool_choice`."),
    Rule::dropped("parallel_tool_calls", &["true"], "Ollama cannot limit a model to one call at a time."),
    Rule::refused("n", &["1"], "Ollama gives one answer per request: send n requests instead."),
    Rule::refused("modalities", &[r#"["text"]"#], "Ollama's models answer in text only: leave modalities out."),
    Rule::refused("audio", &[], "Ollama's models do not speak: leave audio out."),
    Rule::refused(
        "web_search_options",
        &[],
        "Ollama's /api/chat does not search the web: leave web_search_options out and give the model a tool that searches.",
    ),
    Rule::refused("moderation", &[], "Ollama does not moderate: leave moderation out and ask a moderation model."),
    Rule::dropped("logit_bias", &["{}"], "Ollama has no bias for single tokens."),
    Rule::dropped("prediction", &[], "Ollama does not use predicted output; the answer is the same, only slower."),
    Rule::dropped("verbosity", &["\"medium\""], "Ollama has no such control: say it in the prompt."),
    Rule::dropped("service_tier", &["\"auto\"", "\"default\""], "Ollama has no tiers."),
    Rule::dropped("store", &["false"], "Ollama stores no completions."),
    Rule::dropped("metadata", &["{}"], "Ollama stores no completions to label."),
    Rule::dropped("user", &[], "Ollama does not tell end users apart."),
    Rule::dropped("safety_identifier", &[], "Ollama does not tell end users apart."),
    Rule::dropped("prompt_cache_key", &[], "Ollama finds the longest common prefix in its cache by itself."),
    Rule::dropped("prompt_cache_options", &[], "Ollama finds the longest common prefix in its cache by itself."),
    Rule::dropped(
        "prompt_cache_retention",
        &[],
        "Ollama's cache lives as long as the model is loaded; see `keep_alive`.",
    ),
    Rule::dropped("cache_control", &[], "Ollama finds the longest common prefix in its cache by itself."),
];
