//! Checks the messages: their roles, their blocks, and the content of each block.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::answer;
use super::super::errors::ApiError;
use super::node::{Checked, Node};
use super::{SIGNATURE, pairs};

/// Most `cache_control` marks of a request.
const BREAKPOINTS: usize = 4;

const IMAGES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];

/// State of the checks of the whole request, which follow the order of the prompt: tools, system, messages.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub(super) uses_tools: bool,
    breakpoints: usize,
    /// A mark of five minutes has been seen; a mark of an hour may not follow.
    short: bool,
    /// Blocks may refer to uploaded files.
    files: bool,
}

impl Inventory {
    /// Checks and counts one `cache_control`.
    pub(super) fn breakpoint(&mut self, control: &Node) -> Checked {
        let inner = control.tagged(control.variant(&["ephemeral"])?);
        inner.closed(&["type", "ttl"])?;
        match inner.key("ttl").map(|ttl| ttl.one_of(&["5m", "1h"])).transpose()? {
            Some("1h") if self.short => {
                return Err(inner.wrong(
                    "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. Note that \
                     blocks are processed in the following order: `tools`, `system`, `messages`.",
                ));
            }
            Some("1h") => {}
            _ => self.short = true,
        }
        self.breakpoints += 1;
        if self.breakpoints > BREAKPOINTS {
            let found = self.breakpoints;
            let message =
                format!("A maximum of {BREAKPOINTS} blocks with cache_control may be provided. Found {found}.");
            return Err(ApiError::worded(400, &message));
        }
        Ok(())
    }
}

/// Where a block stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Place {
    System,
    User,
    Assistant,
    /// Inside of a tool result.
    Result,
    /// Inside of a document that consists of blocks.
    Document,
}

use Place::{Assistant, Document, Result, System, User};

/// Every kind of block: its type, where it may stand, its fields besides `type`.
const BLOCKS: [(&str, &[Place], &[&str]); 15] = [
    ("text", &[System, User, Assistant, Result, Document], &["text", "cache_control", "citations"]),
    ("image", &[User, Result, Document], &["source", "cache_control"]),
    ("document", &[User, Result], &["source", "cache_control", "citations", "context", "title"]),
    ("search_result", &[User, Result], &["content", "source", "title", "cache_control", "citations"]),
    ("tool_result", &[User], &["tool_use_id", "content", "is_error", "cache_control"]),
    ("container_upload", &[User], &["file_id", "cache_control"]),
    ("thinking", &[Assistant], &["thinking", "signature"]),
    ("redacted_thinking", &[Assistant], &["data"]),
    ("tool_use", &[Assistant], &["id", "name", "input", "cache_control", "caller"]),
    ("server_tool_use", &[Assistant], &["id", "name", "input", "cache_control", "caller"]),
    ("web_search_tool_result", &[Assistant], SERVED),
    ("web_fetch_tool_result", &[Assistant], SERVED),
    ("code_execution_tool_result", &[Assistant], SERVED),
    ("bash_code_execution_tool_result", &[Assistant], SERVED),
    ("text_editor_code_execution_tool_result", &[Assistant], SERVED),
];

const SERVED: &[&str] = &["tool_use_id", "content", "cache_control", "caller"];

/// Checks all messages.
pub(super) fn conversation(messages: &Node, inventory: &mut Inventory, files: bool) -> Checked {
    inventory.files = files;
    let list = messages.value.as_array().map_or(&[][..], Vec::as_slice);
    for (i, message) in messages.items()?.enumerate() {
        message.closed(&["role", "content"])?;
        let role = message.need("role")?.one_of(&["user", "assistant"])?;
        let last_words = role == "assistant" && i + 1 == list.len();
        let content = message.need("content")?;
        match content.value {
            Value::String(text) if text.is_empty() && last_words => {}
            Value::String(text) if text.is_empty() => return Err(empty(&message)),
            Value::String(text) if text.trim().is_empty() => {
                return Err(message.wrong("text content blocks must contain non-whitespace text"));
            }
            Value::String(_) => {}
            Value::Array(blocks) if blocks.is_empty() && last_words => {}
            Value::Array(blocks) if blocks.is_empty() => return Err(empty(&message)),
            _ => blocks(&content, if role == "user" { User } else { Assistant }, inventory)?,
        }
        if last_words && last_text(content.value).is_some_and(|text| text.ends_with(char::is_whitespace)) {
            return Err(messages.wrong("final assistant content cannot end with trailing whitespace"));
        }
    }
    if list.is_empty() {
        return Err(messages.wrong("at least one message is required"));
    }
    pairs::check(list)
}

/// Checks a list of blocks that stand at `place`.
pub(super) fn blocks(list: &Node, place: Place, inventory: &mut Inventory) -> Checked {
    if list.value.as_array().is_some_and(Vec::is_empty) && place != Result {
        return Err(list.wrong("List should have at least 1 item after validation, not 0"));
    }
    for one in list.items()? {
        block(&one, place, inventory)?;
    }
    Ok(())
}

/// Checks that, while thinking is enabled, an assistant's turn that the reply continues begins with its thinking.
pub(super) fn resumes_thinking(messages: &[Value]) -> Checked {
    let has_result = |message: &Value| {
        let blocks = message.get("content").and_then(Value::as_array);
        blocks.is_some_and(|blocks| blocks.iter().any(|block| block.get("type").is_some_and(|t| t == "tool_result")))
    };
    let is_assistant = |message: &Value| message.get("role").is_some_and(|role| role == "assistant");
    let open = messages.last().is_some_and(|last| is_assistant(last) || has_result(last));
    let Some(at) = messages.iter().rposition(is_assistant).filter(|_| open) else { return Ok(()) };
    let kind = match messages[at].get("content") {
        Some(Value::Array(blocks)) => blocks.first().and_then(|block| block.get("type")?.as_str()).unwrap_or("text"),
        _ => "text",
    };
    if matches!(kind, "thinking" | "redacted_thinking") {
        return Ok(());
    }
    let message = format!(
        "messages.{at}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{kind}`. When `thinking` is \
         enabled, a final `assistant` message must start with a thinking block (preceeding the lastmost set of `tool_use` \
         and `tool_result` blocks)."
    );
    Err(ApiError::worded(400, &message))
}

fn empty(message: &Node) -> ApiError {
    message.wrong("all messages must have non-empty content except for the optional final assistant message")
}

/// The text at the end of a content.
fn last_text(content: &Value) -> Option<&str> {
    match content {
        Value::String(text) => Some(text),
        Value::Array(blocks) => blocks.last()?.get("text")?.as_str(),
        _ => None,
    }
}

fn block(node: &Node, place: Place, inventory: &mut Inventory) -> Checked {
    let tag = node.variant(&BLOCKS.map(|(tag, ..)| tag))?;
    let Some((_, places, fields)) = BLOCKS.iter().find(|(known, ..)| *known == tag) else { return Ok(()) };
    if !places.contains(&place) {
        return Err(misplaced(node, tag, places, place));
    }
    let inner = node.tagged(tag);
    inner.closed(&[&["type"], *fields].concat())?;
    match tag {
        "text" => text(&inner)?,
        "image" => source(&inner.need("source")?, &["base64", "url"], inventory)?,
        "document" => document(&inner, inventory)?,
        "search_result" => {
            inner.need("source")?.text()?;
            inner.need("title")?.text()?;
            blocks(&inner.need("content")?, System, inventory)?;
        }
        "tool_result" => result(&inner, inventory)?,
        "container_upload" => drop(inner.need("file_id")?.filled()?),
        "thinking" => thought(&inner)?,
        "redacted_thinking" => {
            if !inner.need("data")?.filled()?.starts_with(SIGNATURE) {
                return Err(node.wrong("Invalid `data` in `redacted_thinking` block"));
            }
        }
        "tool_use" | "server_tool_use" => {
            inventory.uses_tools |= tag == "tool_use";
            inner.need("id")?.name(usize::MAX)?;
            let name = inner.need("name")?;
            if name.filled()?.len() > 200 {
                return Err(name.wrong("String should have at most 200 characters"));
            }
            inner.need("input")?.object()?;
        }
        _ => {
            inner.need("tool_use_id")?.name(usize::MAX)?;
            inner.need("content")?;
        }
    }
    if let Some(control) = inner.given("cache_control") {
        inventory.breakpoint(&control)?;
    }
    Ok(())
}

fn misplaced(node: &Node, tag: &str, places: &[Place], place: Place) -> ApiError {
    match (place, places) {
        (Assistant | User, [User, ..]) => node.wrong(&format!("`{tag}` blocks can only be in `user` messages")),
        (Assistant | User, _) => node.wrong(&format!("`{tag}` blocks can only be in `assistant` messages")),
        _ => {
            let known = BLOCKS.iter().filter(|(_, places, _)| places.contains(&place));
            let known: Vec<String> = known.map(|(known, ..)| format!("'{known}'")).collect();
            let known = known.join(", ");
            node.wrong(&format!(
                "Input tag '{tag}' found using 'type' does not match any of the expected tags: {known}"
            ))
        }
    }
}

fn text(node: &Node) -> Checked {
    let text = node.need("text")?;
    match text.text()? {
        "" => return Err(node.wrong("text content blocks must be non-empty")),
        blank if blank.trim().is_empty() => {
            return Err(node.wrong("text content blocks must contain non-whitespace text"));
        }
        _ => {}
    }
    if let Some(citations) = node.given("citations") {
        for citation in citations.items()? {
            citation.object()?;
        }
    }
    Ok(())
}

fn thought(node: &Node) -> Checked {
    let thinking = node.need("thinking")?;
    let text = thinking.text()?;
    let signature = node.need("signature")?;
    let wrong = || {
        let at = signature.to_string();
        let at = at.strip_suffix(".thinking.signature").unwrap_or(&at);
        ApiError::worded(400, &format!("{at}: Invalid `signature` in `thinking` block"))
    };
    let proof = signature.text()?.strip_prefix(SIGNATURE).filter(|proof| !proof.is_empty()).ok_or_else(wrong)?;
    // A text that was signed here must come back unchanged, or empty where it was omitted. A signature that was written by hand
    // in a test is accepted.
    let made_here = proof.len() == 16 && proof.bytes().all(|c| c.is_ascii_hexdigit());
    let fits = text.is_empty() || proof == format!("{:016x}", answer::hash(text.as_bytes()));
    if made_here && !fits { Err(wrong()) } else { Ok(()) }
}

fn result(node: &Node, inventory: &mut Inventory) -> Checked {
    inventory.uses_tools = true;
    node.need("tool_use_id")?.name(usize::MAX)?;
    if let Some(flag) = node.key("is_error") {
        flag.boolean()?;
    }
    match node.key("content") {
        None => Ok(()),
        Some(content) if content.value.is_string() => Ok(()),
        Some(content) => blocks(&content, Result, inventory),
    }
}

fn document(node: &Node, inventory: &mut Inventory) -> Checked {
    for name in ["title", "context"] {
        if let Some(text) = node.given(name) {
            text.text()?;
        }
    }
    if let Some(citations) = node.given("citations") {
        citations.closed(&["enabled"])?;
    }
    source(&node.need("source")?, &["base64", "text", "content", "url"], inventory)
}

/// The source of an image, or of a document: one of `kinds`, or an uploaded file where the request has that beta.
fn source(node: &Node, kinds: &[&'static str], inventory: &mut Inventory) -> Checked {
    let is_image = !kinds.contains(&"text");
    let file = inventory.files.then_some("file");
    let kind = node.variant(&kinds.iter().copied().chain(file).collect::<Vec<_>>())?;
    let inner = node.tagged(kind);
    match kind {
        "base64" => {
            inner.closed(&["type", "media_type", "data"])?;
            let media_type = inner.need("media_type")?;
            let media_type = media_type.one_of(if is_image { &IMAGES } else { &["application/pdf"] })?;
            let data = inner.need("data")?;
            let bytes = STANDARD.decode(data.filled()?).map_err(|_| data.wrong("invalid base64 data"))?;
            if is_image && sniff(&bytes).is_some_and(|real| real != media_type) {
                return Err(inner.wrong(&format!("Image does not match the provided media type {media_type}")));
            }
            Ok(())
        }
        "text" => {
            inner.closed(&["type", "media_type", "data"])?;
            inner.need("media_type")?.one_of(&["text/plain"])?;
            inner.need("data")?.filled().map(drop)
        }
        "content" => {
            inner.closed(&["type", "content"])?;
            let content = inner.need("content")?;
            if content.value.is_string() { Ok(()) } else { blocks(&content, Document, inventory) }
        }
        "file" => {
            inner.closed(&["type", "file_id"])?;
            inner.need("file_id")?.filled().map(drop)
        }
        _ => {
            inner.closed(&["type", "url"])?;
            let url = inner.need("url")?;
            let rest = ["https://", "http://"].iter().find_map(|scheme| url.value.as_str()?.strip_prefix(*scheme));
            match rest.filter(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace)) {
                Some(_) => Ok(()),
                None => Err(url.wrong("Only HTTP and HTTPS URLs are supported")),
            }
        }
    }
}

/// The media type that the first bytes show; `None` if they show none.
fn sniff(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}
