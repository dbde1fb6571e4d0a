//! Tells which kind of value stands under which key, in all dialects that clients use.

use super::{Role, TextKind};

/// Where a value stands. The elements of an array stand where the array does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A request; `input` is the kind of its member `input`.
    Request { input: TextKind },
    /// A whole reply.
    Reply,
    /// The payload of an event: a chunk, an event of a Responses stream or of Anthropic's.
    Event,
    /// A choice of a reply, or of a chunk.
    Choice,
    /// A text, or messages, items, parts or blocks with texts.
    Content { role: Role, kind: TextKind },
    /// A value in which every string is a text, whatever its key.
    Leaves { role: Role, kind: TextKind },
}

/// How a member is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberStep {
    /// It has no text and is skipped.
    Skip,
    /// It names who speaks.
    Role,
    /// It names what the object is.
    Type,
    /// It is text only where the object's `type` says so, otherwise encoded media.
    Data,
    /// It is walked as a value of this place.
    Into(Place),
}

/// What the `type` of an object says about its texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing beyond what the place says.
    Plain,
    /// A source whose `data` is text.
    Text,
    /// The texts are a tool's result.
    ToolResult,
    /// The texts are of this kind.
    Kind(TextKind),
    /// The strings are encoded sound.
    Sound,
}

impl Role {
    pub(super) fn of(word: &str) -> Self {
        match word {
            "system" => Self::System,
            "developer" => Self::Developer,
            "user" => Self::User,
            "assistant" => Self::Assistant,
            "tool" | "function" => Self::Tool,
            _ => Self::Other,
        }
    }
}

impl Place {
    /// Role and kind of a string in this place; `None` where a string is not a text.
    pub(super) fn text(self) -> Option<(Role, TextKind)> {
        match self {
            Self::Content { role, kind } | Self::Leaves { role, kind } => Some((role, kind)),
            _ => None,
        }
    }

    /// How the member with this key is handled.
    pub(super) fn under(self, key: &str) -> MemberStep {
        match self {
            Self::Request { input } => of_request(key, input),
            Self::Reply => of_reply(key),
            Self::Event => of_event(key),
            Self::Choice => match key {
                "message" | "delta" | "text" => REPLY,
                _ => MemberStep::Skip,
            },
            Self::Content { role, kind } => of_content(key, role, kind),
            Self::Leaves { .. } => MemberStep::Into(self),
        }
    }

    /// What an object's `type` says about its texts in this place.
    pub(super) fn meaning(self, word: &str) -> Meaning {
        match self {
            Self::Event => of_event_name(word),
            Self::Content { .. } => match word {
                "text" => Meaning::Text,
                "tool_result" => Meaning::ToolResult,
                "reasoning" | "reasoning_text" | "summary_text" | "thinking" => Meaning::Kind(TextKind::Reasoning),
                "refusal" => Meaning::Kind(TextKind::Refusal),
                _ if word.ends_with("_tool_result") || word.ends_with("_output") => Meaning::ToolResult,
                _ => Meaning::Plain,
            },
            _ => Meaning::Plain,
        }
    }
}

const fn content(role: Role, kind: TextKind) -> MemberStep {
    MemberStep::Into(Place::Content { role, kind })
}

const fn leaves(role: Role, kind: TextKind) -> MemberStep {
    MemberStep::Into(Place::Leaves { role, kind })
}

const REPLY: MemberStep = content(Role::Assistant, TextKind::Reply);
const ARGUMENTS: MemberStep = leaves(Role::Assistant, TextKind::ToolArguments);

fn of_request(key: &str, input: TextKind) -> MemberStep {
    match key {
        "messages" => content(Role::Other, TextKind::Prompt),
        "system" | "instructions" => content(Role::System, TextKind::Prompt),
        "prompt" | "suffix" => content(Role::User, TextKind::Prompt),
        "input" => content(Role::User, input),
        "prediction" => content(Role::Assistant, TextKind::Prompt),
        "tools" | "functions" | "response_format" | "text" | "output_config" | "output_format" => {
            leaves(Role::Other, TextKind::Definition)
        }
        _ => MemberStep::Skip,
    }
}

fn of_reply(key: &str) -> MemberStep {
    match key {
        "choices" => MemberStep::Into(Place::Choice),
        // In the Responses API, and in Anthropic's Messages.
        "output" | "content" => REPLY,
        _ => MemberStep::Skip,
    }
}

fn of_event(key: &str) -> MemberStep {
    match key {
        "type" => MemberStep::Type,
        "choices" => MemberStep::Into(Place::Choice),
        "response" | "message" => MemberStep::Into(Place::Reply),
        "delta" | "text" | "transcript" | "part" | "item" | "content_block" | "refusal" | "output" => REPLY,
        "arguments" | "input" | "code" | "command" => ARGUMENTS,
        _ => MemberStep::Skip,
    }
}

fn of_event_name(name: &str) -> Meaning {
    let holds = |word: &str| name.contains(word);
    match () {
        () if name.ends_with("audio.delta") => Meaning::Sound,
        () if holds("reasoning") => Meaning::Kind(TextKind::Reasoning),
        () if holds("refusal") => Meaning::Kind(TextKind::Refusal),
        () if holds("arguments") || holds("_input.") || holds("_code.") || holds("_command.") => {
            Meaning::Kind(TextKind::ToolArguments)
        }
        () if holds("_output_content.") => Meaning::ToolResult,
        () => Meaning::Plain,
    }
}

/// Members of messages, items, parts, blocks and calls.
fn of_content(key: &str, role: Role, kind: TextKind) -> MemberStep {
    match key {
        "role" => MemberStep::Role,
        "type" => MemberStep::Type,
        "data" => MemberStep::Data,
        "content" | "text" | "transcript" | "source" | "audio" => content(role, kind),
        "variables" => leaves(role, kind),
        "output" | "outputs" | "results" | "stdout" | "stderr" => content(Role::Tool, TextKind::ToolResult),
        "refusal" => content(role, TextKind::Refusal),
        "thinking" | "reasoning" | "reasoning_content" | "reasoning_details" | "thinking_blocks" | "summary" => {
            content(role, TextKind::Reasoning)
        }
        "tool_calls" | "function_call" | "function" | "custom" => content(Role::Assistant, TextKind::Other),
        "arguments" | "input" | "code" | "partial_json" | "action" | "queries" => ARGUMENTS,
        "image_url" | "input_audio" | "file" => content(role, TextKind::Other),
        // Members that only the provider reads, and members without meaning for the text.
        "id" | "call_id" | "tool_call_id" | "tool_use_id" | "item_id" | "file_id" | "container_id" | "signature"
        | "encrypted_content" | "cache_control" | "status" | "phase" | "object" | "media_type" | "mime_type"
        | "format" | "detail" | "stop_reason" | "stop_sequence" | "finish_reason" | "logprobs" | "usage" => {
            MemberStep::Skip
        }
        _ => leaves(role, TextKind::Other),
    }
}
