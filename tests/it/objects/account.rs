//! A provider's account as all tenants share it: it makes objects, lists all of them, shows any, and asks nobody whose they are.
//! Each id bears the name of the one who made it, which the tests send in a header.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::{Answer, Fake, Step, fake::Seen};

/// Who asks, as the tests tell the provider.
pub const AS: &str = "x-as";

/// Last segments of the paths whose POST makes something.
const MAKERS: &[&str] = &[
    "assistants",
    "batches",
    "calls",
    "characters",
    "completions",
    "containers",
    "conversations",
    "edits",
    "evals",
    "extensions",
    "file_batches",
    "files",
    "items",
    "jobs",
    "messages",
    "parts",
    "remix",
    "responses",
    "runs",
    "sessions",
    "skills",
    "threads",
    "uploads",
    "vector_stores",
    "versions",
    "videos",
    "voice_consents",
    "voices",
];

#[derive(Clone)]
struct Object {
    id: String,
    path: String,
    body: Bytes,
}

/// The account, and the provider that keeps it.
#[derive(Clone)]
pub struct Account {
    pub fake: Fake,
    objects: Arc<Mutex<Vec<Object>>>,
}

impl Account {
    pub async fn start() -> Self {
        let objects: Arc<Mutex<Vec<Object>>> = Arc::default();
        let state = objects.clone();
        let fake = Fake::start(move |seen, _| serve(seen, &mut state.lock().unwrap())).await;
        Self { fake, objects }
    }

    pub fn ids(&self) -> Vec<String> {
        self.objects.lock().unwrap().iter().map(|object| object.id.clone()).collect()
    }
}

/// The ids in a text with the names of those who made them.
pub fn ids_in(text: &str) -> Vec<(String, String)> {
    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && !"-_:".contains(char));
    words.filter_map(|word| Some((word.to_owned(), owner_of(word)?.to_owned()))).collect()
}

/// `files-child-000012x` is child's.
pub fn owner_of(id: &str) -> Option<&str> {
    let (rest, number) = id.rsplit_once('-')?;
    let digits = number.strip_suffix('x')?;
    let (_, owner) = rest.rsplit_once('-')?;
    (digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(owner)
}

fn serve(seen: &Seen, objects: &mut Vec<Object>) -> Answer {
    let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
    let path = path.trim_end_matches('/');
    let caller = seen.header(AS).unwrap_or("nobody");
    // What is made within another's object is counted as that one's.
    let within = path.split('/').find_map(owner_of).unwrap_or(caller).to_owned();
    let last = path.rsplit('/').next().unwrap_or_default();
    let mut make = |kind: &str, body: &Bytes| {
        let id = format!("{kind}-{within}-{:06}x", objects.len());
        objects.push(Object { id: id.clone(), path: path.to_owned(), body: body.clone() });
        id
    };
    let method = seen.method.as_str();
    if method == "POST" && MAKERS.contains(&last) {
        return made(seen, path, last, &mut make);
    }
    if method == "GET"
        && (MAKERS.contains(&last)
            || matches!(last, "events" | "checkpoints" | "input_items" | "steps" | "output_items"))
    {
        return list(path, query, objects);
    }
    if method == "GET" && last == "content" {
        let id = path.rsplit('/').nth(1).unwrap_or_default();
        let body = objects.iter().find(|object| object.id == id).map(|object| object.body.clone()).unwrap_or_default();
        return Answer { steps: vec![Step::Send(body)], ..Answer::json(200, "") }
            .header("content-type", "application/octet-stream");
    }
    let id = path.split('/').rfind(|segment| owner_of(segment).is_some()).unwrap_or(last);
    // A finished batch and a finished fine-tune tell of what they have made.
    let more = match path.split('/').nth(2) {
        Some("batches") => json!({"output_file_id": make("files", &Bytes::new())}),
        Some("fine_tuning") => json!({"fine_tuned_model": make("ft:gpt-4o", &Bytes::new())}),
        _ => json!({}),
    };
    let all: Vec<String> = match path.contains("/organization") || path.contains("/projects") {
        true => objects.iter().map(|object| object.id.clone()).collect(),
        false => Vec::new(),
    };
    let mut reply = json!({"id": id, "secret": format!("secret of {}", owner_of(id).unwrap_or("nobody")), "all": all});
    merge(&mut reply, more);
    Answer::json(200, &reply.to_string())
}

fn merge(into: &mut Value, more: Value) {
    let Value::Object(more) = more else { return };
    into.as_object_mut().unwrap().extend(more);
}

fn made(seen: &Seen, path: &str, kind: &str, make: &mut impl FnMut(&str, &Bytes) -> String) -> Answer {
    let id = make(kind, &seen.body);
    let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
    if kind == "calls" {
        let sdp = Answer::json(201, "v=0").header("content-type", "application/sdp");
        return sdp.header("location", &format!("/v1/realtime/calls/{id}"));
    }
    // What a client wrote comes back, ids of others among it: nobody gets them by that.
    let mut reply =
        json!({"object": kind, "metadata": body.get("metadata"), "id": id, "echo": {"id": body.get("claim")}});
    match path {
        "/v1/responses" => {
            let item = make("msg", &seen.body);
            let container = make("cntr", &seen.body);
            let file = make("cfile", &seen.body);
            let response = json!({"id": id, "object": "response", "status": "completed", "model": "gpt-4o", "metadata": body.get("metadata"),
                "output": [{"type": "message", "id": item, "role": "assistant", "content": [{"type": "output_text", "text": "Hi",
                    "annotations": [{"type": "container_file_citation", "file_id": file, "container_id": container}]}]}],
                "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}});
            if body["stream"] == true {
                let event = |name: &str, data: Value| format!("event: {name}\ndata: {data}\n\n");
                let open = json!({"type": "response.created", "sequence_number": 0, "response": {"id": id, "status": "in_progress", "output": []}});
                let added = json!({"type": "response.output_item.added", "sequence_number": 1, "item": {"type": "message", "id": item}});
                let delta =
                    json!({"type": "response.output_text.delta", "sequence_number": 2, "item_id": item, "delta": "Hi"});
                let done = json!({"type": "response.completed", "sequence_number": 3, "response": response});
                let events = [
                    event("response.created", open),
                    event("response.output_item.added", added),
                    event("response.output_text.delta", delta),
                    event("response.completed", done),
                ];
                return Answer::stream(
                    events.iter().map(|text| Step::Send(Bytes::copy_from_slice(text.as_bytes()))).collect(),
                );
            }
            return Answer::json(200, &response.to_string());
        }
        "/v1/chat/completions" => {
            let completion = crate::support::COMPLETION.replace("chatcmpl-1", &id);
            if body["stream"] == true {
                let chunk = json!({"id": id, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]});
                return Answer::stream(vec![crate::support::fake::send(&format!("data: {chunk}\n\ndata: [DONE]\n\n"))]);
            }
            return Answer::json(200, &completion);
        }
        "/v1/messages" => {
            let file = make("file", &seen.body);
            let reply = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "stop_reason": "end_turn",
                "container": {"id": make("container", &seen.body)}, "usage": {"input_tokens": 1, "output_tokens": 1},
                "content": [{"type": "text", "text": "Hi"}, {"type": "tool_use", "id": "toolu_1", "name": "x", "input": {"file_id": body.get("claim")}},
                    {"type": "bash_code_execution_tool_result", "content": {"type": "x", "content": [{"file_id": file}]}}]});
            return Answer::json(200, &reply.to_string());
        }
        path if path.ends_with("/items") => reply["data"] = json!([{"id": id}]),
        _ if body["stream"] == true => {
            let event =
                format!("event: thread.run.created\ndata: {}\n\nevent: done\ndata: [DONE]\n\n", json!({"id": id}));
            return Answer::stream(vec![crate::support::fake::send(&event)]);
        }
        _ => {}
    }
    Answer::json(200, &reply.to_string())
}

/// The newest last, all of everybody.
fn list(path: &str, query: &str, objects: &[Object]) -> Answer {
    let value = |names: &[&str]| {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(name, _)| names.contains(name))
            .map(|(_, value)| value)
    };
    let of: Vec<&Object> = objects.iter().filter(|object| object.path == path).collect();
    let limit = value(&["limit"]).and_then(|limit| limit.parse().ok()).unwrap_or(20);
    let after = value(&["after", "after_id"]);
    let from = after.map_or(0, |id| of.iter().position(|object| object.id == id).map_or(of.len(), |at| at + 1));
    let page: Vec<Value> =
        of[from..].iter().take(limit).map(|object| json!({"id": object.id, "metadata": object.path})).collect();
    let more = from + page.len() < of.len();
    let reply = json!({"object": "list", "data": page, "has_more": more, "total": of.len(),
        "first_id": page.first().map(|element| &element["id"]), "last_id": page.last().map(|element| &element["id"])});
    Answer::json(200, &reply.to_string())
}
