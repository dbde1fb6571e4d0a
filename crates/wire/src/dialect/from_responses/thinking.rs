//! Signed thinking as the `encrypted_content` of a reasoning item, in which it travels with the client.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// What distinguishes ours from anyone else's.
const PREFIX: &str = "ccg1.";

/// The blocks as one text. It hides nothing: the model's own signature in each block is what protects it.
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

/// Whether a block can be given back to the model: it has its signature, or is all ciphertext.
pub(super) fn is_whole(block: &Value) -> bool {
    let is_text = |name: &str| block.get(name).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    match block.get("type").and_then(Value::as_str) {
        Some("thinking") => block.get("thinking").is_some_and(Value::is_string) && is_text("signature"),
        Some("redacted_thinking") => is_text("data"),
        _ => false,
    }
}
