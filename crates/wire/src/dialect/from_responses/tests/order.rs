//! Whether events come in an order that clients understand.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::scanned;
use bytes::Bytes;

/// The payloads of a stream that the gateway wrote.
pub(super) fn read(stream: &Bytes) -> Vec<Value> {
    let events = scanned(std::slice::from_ref(stream));
    let payload = |(name, data): (Option<Vec<u8>>, Vec<u8>)| {
        let value: Value = serde_json::from_slice(&data).expect("a payload is JSON");
        assert_eq!(name.as_deref(), value["type"].as_str().map(str::as_bytes));
        value
    };
    events.into_iter().map(payload).collect()
}

/// The first violation of the order.
pub(super) fn check(events: &[Value]) -> Result<(), String> {
    let mut open: HashMap<u64, String> = HashMap::new();
    let mut texts: HashMap<(u64, String, u64), String> = HashMap::new();
    let mut parts: HashSet<(u64, u64)> = HashSet::new();
    let mut done: Vec<Value> = Vec::new();
    let (mut items, mut over) = (0, false);
    for (at, event) in events.iter().enumerate() {
        let kind = event["type"].as_str().ok_or("no type")?;
        let fault = |what: &str| Err(format!("event {at}, {kind}: {what}"));
        if event["sequence_number"] != at || over {
            return fault("out of order");
        }
        let first = ["response.created", "response.in_progress", "error"];
        if at < 2 && kind != "error" && kind != first[at] {
            return fault("too early");
        }
        let index = event["output_index"].as_u64().unwrap_or(u64::MAX);
        let part = event["content_index"].as_u64().or(event["summary_index"].as_u64()).unwrap_or(0);
        match kind {
            "response.created" | "response.in_progress" if at < 2 => {}
            "error" => over = true,
            "response.completed" | "response.incomplete" => {
                over = true;
                if !open.is_empty() || !parts.is_empty() {
                    return fault("something is open");
                }
                done.sort_by_key(|event| event["output_index"].as_u64());
                let items: Vec<_> = done.iter().map(|event| event["item"].clone()).collect();
                if event["response"]["output"] != json!(items) {
                    return fault("the output is not what was done");
                }
            }
            "response.output_item.added" => {
                if index != items {
                    return fault("an index is left out");
                }
                items += 1;
                open.insert(index, event["item"]["id"].as_str().ok_or("no id")?.to_owned());
            }
            "response.output_item.done" => {
                if open.remove(&index).as_deref() != event["item"]["id"].as_str() {
                    return fault("was not open");
                }
                done.push(event.clone());
            }
            _ => {
                if open.get(&index).map(String::as_str) != event["item_id"].as_str() {
                    return fault("belongs to nothing");
                }
                match kind.strip_prefix("response.").and_then(|kind| kind.rsplit_once('.')) {
                    Some(("content_part" | "reasoning_summary_part", "added")) if parts.insert((index, part)) => {}
                    Some(("content_part" | "reasoning_summary_part", "done")) if parts.remove(&(index, part)) => {}
                    Some(("output_text.annotation", "added")) => {}
                    Some((what, step)) => {
                        if ["output_text", "refusal", "reasoning_summary_text"].contains(&what)
                            && !parts.contains(&(index, part))
                        {
                            return fault("no part is open");
                        }
                        let text = texts.entry((index, what.to_owned(), part)).or_default();
                        if step == "delta" {
                            text.push_str(event["delta"].as_str().ok_or("no delta")?);
                        } else {
                            let whole =
                                ["text", "refusal", "arguments", "input"].iter().find_map(|name| event[name].as_str());
                            if whole != Some(text.as_str()) {
                                return fault("is not the sum of its deltas");
                            }
                        }
                    }
                    None => return fault("is unknown"),
                }
            }
        }
    }
    Ok(())
}
