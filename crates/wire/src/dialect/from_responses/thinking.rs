//! Packs signed thinking into the `encrypted_content` of a reasoning item, so that the client sends it back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Distinguishes the gateway's `encrypted_content` from any other.
const PREFIX: &str = "ccg1.";

/// The blocks as one text, encoded but not encrypted: the model's own signature protects each block.
pub(super) fn seal(blocks: &[Value]) -> Option<String> {
    if blocks.is_empty() {
        return None;
    }
    let json = serde_json::to_vec(blocks).ok()?;
    let mut sealed = PREFIX.to_owned();
    STANDARD.encode_string(json, &mut sealed);
    Some(sealed)
}

/// The blocks in a text of [`seal`]; `None` for any other text.
pub(super) fn open(sealed: &str) -> Option<Vec<Value>> {
    let json = STANDARD.decode(sealed.strip_prefix(PREFIX)?).ok()?;
    let blocks: Vec<Value> = serde_json::from_slice(&json).ok()?;
    (!blocks.is_empty() && blocks.iter().all(is_whole)).then_some(blocks)
}

/// Whether a block can be given back to the model: it has its signature, or consists of ciphertext.
pub(super) fn is_whole(block: &Value) -> bool {
    let is_text = |name: &str| block.get(name).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    match block.get("type").and_then(Value::as_str) {
        Some("thinking") => block.get("thinking").is_some_and(Value::is_string) && is_text("signature"),
        Some("redacted_thinking") => is_text("data"),
        _ => false,
    }
}
