//! Breakpoints of the prompt cache.

use serde_json::Value;

use super::super::{Lost, lose};

/// The most breakpoints that Anthropic takes in one request.
const MAX: usize = 4;

/// Takes the first breakpoints away until no more are left than Anthropic takes: the last ones cover what stands before.
pub(super) fn limit(body: &mut Value, lost: &mut Vec<Lost>) {
    // The one at the top stands for one on the last block.
    let top = usize::from(body.get("cache_control").is_some());
    let mut count = 0;
    each(body, &mut |_, _| count += 1);
    let mut surplus = (count + top).saturating_sub(MAX);
    each(body, &mut |block, path| {
        if surplus > 0 {
            surplus -= 1;
            lose(lost, path);
            if let Some(block) = block.as_object_mut() {
                block.shift_remove("cache_control");
            }
        }
    });
}

/// All blocks with a breakpoint, in the order of the prompt, with their path in Chat.
fn each(body: &mut Value, visit: &mut impl FnMut(&mut Value, &'static str)) {
    const CONTENT: &str = "messages[].content[].cache_control";
    for tool in elements(body.get_mut("tools")) {
        marked(tool, "tools[].cache_control", visit);
    }
    for block in elements(body.get_mut("system")) {
        marked(block, CONTENT, visit);
    }
    for message in elements(body.get_mut("messages")) {
        for block in elements(message.get_mut("content")) {
            for part in elements(block.get_mut("content")) {
                marked(part, CONTENT, visit);
            }
            marked(block, CONTENT, visit);
        }
    }
}

fn elements(list: Option<&mut Value>) -> &mut [Value] {
    list.and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

fn marked(block: &mut Value, path: &'static str, visit: &mut impl FnMut(&mut Value, &'static str)) {
    if block.get("cache_control").is_some() {
        visit(block, path);
    }
}
