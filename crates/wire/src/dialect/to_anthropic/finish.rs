//! Why an answer ended.

/// What kind of calls an answer made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Called {
    /// No call that the client sees.
    Nothing,
    Tools,
    /// A deprecated function.
    Function,
}

/// OpenAI's `finish_reason` for Anthropic's `stop_reason`. An unknown reason becomes `stop`.
pub(super) fn finish_reason(stop_reason: &str, called: Called) -> &'static str {
    match (stop_reason, called) {
        ("tool_use", Called::Tools) => "tool_calls",
        ("tool_use", Called::Function) => "function_call",
        ("max_tokens" | "model_context_window_exceeded" | "compaction", _) => "length",
        ("refusal", _) => "content_filter",
        // Includes the call of the tool whose input is the answer, and `pause_turn`, which OpenAI does not have.
        _ => "stop",
    }
}
