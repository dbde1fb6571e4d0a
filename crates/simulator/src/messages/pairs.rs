//! Checks that every tool call has exactly one result, in the next message, and that every result has a call.

use std::collections::HashSet;

use serde_json::Value;

use super::super::errors::ApiError;
use super::node::Checked;

/// Checks the calls and results of a conversation whose blocks are well-formed.
pub(super) fn check(messages: &[Value]) -> Checked {
    let wrong = |message: String| Err(ApiError::worded(400, &message));
    let mut seen = HashSet::new();
    let mut open: Vec<&str> = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        let blocks = message.get("content").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mut answered = HashSet::new();
        // Results count only in front of all other blocks; results behind other blocks are found but come too late.
        let mut leading = HashSet::new();
        let mut at_start = true;
        for (k, block) in blocks.iter().enumerate() {
            let Some(id) = result_of(block) else {
                at_start = false;
                continue;
            };
            if !open.contains(&id) {
                return wrong(format!(
                    "messages.{i}.content.{k}: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each \
                     `tool_result` block must have a corresponding `tool_use` block in the previous message."
                ));
            }
            if !answered.insert(id) {
                return wrong(format!(
                    "messages.{i}.content.{k}: each tool_use must have a single result. Found multiple `tool_result` \
                     blocks with id: {id}"
                ));
            }
            if at_start {
                leading.insert(id);
            }
        }
        unanswered(i.saturating_sub(1), &open, &leading)?;
        open = blocks.iter().filter_map(call_of).collect();
        if let Some(twice) = open.iter().find(|id| !seen.insert(**id)) {
            return wrong(format!("messages.{i}.content: `tool_use` ids must be unique: {twice}"));
        }
    }
    unanswered(messages.len().saturating_sub(1), &open, &HashSet::new())
}

fn unanswered(i: usize, calls: &[&str], answers: &HashSet<&str>) -> Checked {
    let missing: Vec<&str> = calls.iter().copied().filter(|id| !answers.contains(id)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(", ");
    Err(ApiError::worded(
        400,
        &format!(
            "messages.{i}: `tool_use` ids were found without `tool_result` blocks immediately after: {missing}. Each \
             `tool_use` block must have a corresponding `tool_result` block in the next message."
        ),
    ))
}

fn call_of(block: &Value) -> Option<&str> {
    (block.get("type")? == "tool_use").then(|| block.get("id")?.as_str())?
}

fn result_of(block: &Value) -> Option<&str> {
    (block.get("type")? == "tool_result").then(|| block.get("tool_use_id")?.as_str())?
}
