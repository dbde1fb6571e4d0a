//! Why an answer ended.

/// What kind of calls an answer made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Called {
    /// None that the client sees.
    Nothing,
    Tools,
    /// A deprecated function.
    Function,
}

/// OpenAI's `finish_reason` for Anthropic's `stop_reason`. An unknown one is an end like any other.
pub(super) fn finish_reason(stop_reason: &str, called: Called) -> &'static str {
    match (stop_reason, called) {
        ("tool_use", Called::Tools) => "tool_calls",
        ("tool_use", Called::Function) => "function_call",
        ("max_tokens" | "model_context_window_exceeded" | "compaction", _) => "length",
        ("refusal", _) => "content_filter",
        // Also the call of the tool whose input is the answer, and `pause_turn`, for which OpenAI has no word.
        _ => "stop",
    }
}
