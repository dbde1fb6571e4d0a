//! A table of all paths on which providers keep objects: which segments are ids, whether the body refers to objects, and which
//! ids the reply contains. Sources: OpenAI's API description and Anthropic's reference. A path that is not in the table is not
//! served with the gateway's key to a tenant that may see only its own objects (`provider_objects: own`).

use std::borrow::Cow;

use super::index::Class;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Check the ids in the path, the query and the body, which is read for this.
    Check,
    /// As `Check`, for a list of items within an object. The client may have chosen the items' ids, and they are not recorded
    /// from the list; a cursor that belongs to nobody is accepted, because it reveals nothing.
    Items,
    /// As `Check`, and check the lines of the batch's input file.
    Batch,
    /// Check the ids in the path and the query, but not the body: it is an upload without fields that refer to objects.
    Upload,
    /// A list of all objects of the account: only those that the tenant may see are passed on.
    List,
    /// Settings, members, keys and bills of the whole account.
    Admin,
    /// The path shows or uses objects of others without naming them: not served if there are several tenants.
    Shared,
}

/// The places of ids in a reply: member names separated by dots, with `[]` for each element of a list.
pub type Answer = &'static [&'static str];

/// The rule for one path.
#[derive(Debug)]
pub struct Rule {
    /// Names of methods separated by one space, or `*`. `HEAD` counts as `GET`.
    methods: &'static str,
    /// The path after `/v1/`. `{}` stands for an id, `{item}` for an id that the provider looks for only within the object before
    /// it, `*` for one segment that is no id, and a final `**` for any number of segments.
    path: &'static str,
    /// What happens to a request.
    pub action: Action,
    /// The places of ids in the reply; for a list, in each element besides its `id`.
    pub answer: Answer,
    /// The class of these ids.
    pub class: Class,
}

const ID: Answer = &["id"];
const NONE: Answer = &[];
const ELEMENTS: Answer = &["data.[].id"];
const BATCH: Answer = &["id", "output_file_id", "error_file_id"];
const JOB: Answer = &["id", "fine_tuned_model", "result_files.[]"];
const ASSISTANT: Answer = &["id", "tool_resources.file_search.vector_store_ids.[]"];
const RUN: Answer = &["id", "thread_id"];

/// The places of a response's own id and its items' ids. The conversation is not among them, because the client has named it.
pub const RESPONSE: Answer = &["id", "output.[].id"];

/// The places of ids of files and containers that a response's tools create. They outlive the response, even one that is not
/// stored.
pub const SIDE_EFFECTS: Answer = &[
    "output.[].container_id",
    "output.[].environment.container_id",
    "output.[].content.[].annotations.[].container_id",
    "output.[].content.[].annotations.[].file_id",
    "output.[].outputs.[].file_id",
];

const fn rule(methods: &'static str, path: &'static str, action: Action, answer: Answer) -> Rule {
    Rule { methods, path, action, answer, class: Class::Kept }
}

const fn turn(methods: &'static str, path: &'static str, action: Action, answer: Answer) -> Rule {
    Rule { methods, path, action, answer, class: Class::Turn }
}

use Action::{Admin, Batch, Check, Items, List, Shared, Upload};

/// All rules. The first match counts, so literal segments come before ids in the same place.
static RULES: &[Rule] = &[
    // Accounts.
    rule("*", "organization/**", Admin, NONE),
    rule("*", "organizations/**", Admin, NONE),
    rule("*", "projects/**", Admin, NONE),
    rule("*", "fine_tuning/checkpoints/**", Admin, NONE),
    // Paths without objects, or with references only.
    rule("POST", "audio/speech", Check, NONE),
    rule("POST", "audio/transcriptions", Upload, NONE),
    rule("POST", "audio/translations", Upload, NONE),
    rule("POST", "images/generations", Check, NONE),
    rule("POST", "images/edits", Check, NONE),
    rule("POST", "images/variations", Upload, NONE),
    rule("POST", "content_provenance_checks", Upload, NONE),
    rule("POST", "fine_tuning/alpha/graders/run", Check, NONE),
    rule("POST", "fine_tuning/alpha/graders/validate", Check, NONE),
    rule("POST", "complete", Check, NONE),
    // Voices.
    rule("GET", "audio/voice_consents", List, NONE),
    rule("POST", "audio/voice_consents", Upload, ID),
    rule("GET POST DELETE", "audio/voice_consents/{}", Check, NONE),
    rule("POST", "audio/voices", Check, ID),
    // Files and uploads.
    rule("GET", "files", List, NONE),
    rule("POST", "files", Upload, ID),
    rule("GET DELETE", "files/{}", Check, NONE),
    rule("GET", "files/{}/content", Check, NONE),
    rule("POST", "uploads", Check, ID),
    rule("POST", "uploads/{}/parts", Upload, ID),
    rule("POST", "uploads/{}/complete", Check, &["file.id"]),
    rule("POST", "uploads/{}/cancel", Check, NONE),
    // Batches.
    rule("GET", "batches", List, &["output_file_id", "error_file_id"]),
    rule("POST", "batches", Batch, BATCH),
    rule("GET", "batches/{}", Check, BATCH),
    rule("POST", "batches/{}/cancel", Check, BATCH),
    rule("GET", "messages/batches", List, NONE),
    rule("POST", "messages/batches", Check, ID),
    rule("GET DELETE", "messages/batches/{}", Check, NONE),
    rule("POST", "messages/batches/{}/cancel", Check, NONE),
    rule("GET", "messages/batches/{}/results", Check, NONE),
    // Stored completions.
    turn("GET", "chat/completions", List, NONE),
    turn("GET POST DELETE", "chat/completions/{}", Check, NONE),
    turn("GET", "chat/completions/{}/messages", Items, NONE),
    // Responses. `POST responses` is not here, because the gateway understands it and does not only forward it.
    turn("POST", "responses/input_tokens", Check, NONE),
    turn("POST", "responses/compact", Check, &["id", "output.[].id"]),
    turn("GET", "responses/{}", Check, RESPONSE),
    turn("DELETE", "responses/{}", Check, NONE),
    turn("POST", "responses/{}/cancel", Check, RESPONSE),
    turn("GET", "responses/{}/input_items", Items, NONE),
    // Conversations.
    rule("POST", "conversations", Check, ID),
    rule("GET POST DELETE", "conversations/{}", Check, NONE),
    turn("GET", "conversations/{}/items", Items, NONE),
    turn("POST", "conversations/{}/items", Check, ELEMENTS),
    turn("GET DELETE", "conversations/{}/items/{item}", Check, NONE),
    // Containers.
    rule("GET", "containers", List, NONE),
    rule("POST", "containers", Check, ID),
    rule("GET DELETE", "containers/{}", Check, NONE),
    rule("GET", "containers/{}/files", Check, ELEMENTS),
    rule("POST", "containers/{}/files", Check, ID),
    rule("GET DELETE", "containers/{}/files/{}", Check, NONE),
    rule("GET", "containers/{}/files/{}/content", Check, NONE),
    // Vector stores.
    rule("GET", "vector_stores", List, NONE),
    rule("POST", "vector_stores", Check, ID),
    rule("GET POST DELETE", "vector_stores/{}", Check, NONE),
    rule("POST", "vector_stores/{}/search", Check, NONE),
    rule("GET POST", "vector_stores/{}/files", Check, NONE),
    rule("GET POST DELETE", "vector_stores/{}/files/{}", Check, NONE),
    rule("GET", "vector_stores/{}/files/{}/content", Check, NONE),
    rule("POST", "vector_stores/{}/file_batches", Check, ID),
    rule("GET", "vector_stores/{}/file_batches/{}", Check, NONE),
    rule("POST", "vector_stores/{}/file_batches/{}/cancel", Check, NONE),
    rule("GET", "vector_stores/{}/file_batches/{}/files", Check, NONE),
    // Fine-tuning.
    rule("GET", "fine_tuning/jobs", List, &["fine_tuned_model", "result_files.[]"]),
    rule("POST", "fine_tuning/jobs", Check, JOB),
    rule("GET", "fine_tuning/jobs/{}", Check, JOB),
    rule("POST", "fine_tuning/jobs/{}/cancel", Check, JOB),
    rule("POST", "fine_tuning/jobs/{}/pause", Check, JOB),
    rule("POST", "fine_tuning/jobs/{}/resume", Check, JOB),
    rule("GET", "fine_tuning/jobs/{}/events", Check, ELEMENTS),
    rule("GET", "fine_tuning/jobs/{}/checkpoints", Check, &["data.[].id", "data.[].fine_tuned_model_checkpoint"]),
    rule("DELETE", "models/{}", Check, NONE),
    // Evals.
    rule("GET", "evals", List, NONE),
    rule("POST", "evals", Check, ID),
    rule("GET POST DELETE", "evals/{}", Check, NONE),
    rule("GET", "evals/{}/runs", Check, ELEMENTS),
    rule("POST", "evals/{}/runs", Check, ID),
    rule("GET POST DELETE", "evals/{}/runs/{}", Check, NONE),
    rule("GET", "evals/{}/runs/{}/output_items", Check, ELEMENTS),
    rule("GET", "evals/{}/runs/{}/output_items/{}", Check, NONE),
    // Assistants, threads, runs.
    rule("GET", "assistants", List, NONE),
    rule("POST", "assistants", Check, ASSISTANT),
    rule("GET DELETE", "assistants/{}", Check, NONE),
    rule("POST", "assistants/{}", Check, ASSISTANT),
    rule("POST", "threads", Check, ASSISTANT),
    rule("POST", "threads/runs", Check, RUN),
    rule("GET DELETE", "threads/{}", Check, NONE),
    rule("POST", "threads/{}", Check, ASSISTANT),
    rule("GET", "threads/{}/messages", Check, ELEMENTS),
    rule("POST", "threads/{}/messages", Check, ID),
    rule("GET POST DELETE", "threads/{}/messages/{}", Check, NONE),
    rule("GET", "threads/{}/runs", Check, ELEMENTS),
    rule("POST", "threads/{}/runs", Check, ID),
    rule("GET POST", "threads/{}/runs/{}", Check, NONE),
    rule("POST", "threads/{}/runs/{}/cancel", Check, NONE),
    rule("POST", "threads/{}/runs/{}/submit_tool_outputs", Check, NONE),
    rule("GET", "threads/{}/runs/{}/steps", Check, ELEMENTS),
    rule("GET", "threads/{}/runs/{}/steps/{}", Check, NONE),
    // Videos.
    rule("GET", "videos", List, NONE),
    rule("POST", "videos", Check, ID),
    rule("POST", "videos/characters", Check, ID),
    rule("GET", "videos/characters/{}", Check, NONE),
    rule("POST", "videos/edits", Check, ID),
    rule("POST", "videos/extensions", Check, ID),
    rule("GET DELETE", "videos/{}", Check, NONE),
    rule("GET", "videos/{}/content", Check, NONE),
    rule("POST", "videos/{}/remix", Check, ID),
    // Skills, OpenAI's and Anthropic's.
    rule("GET", "skills", List, NONE),
    rule("POST", "skills", Upload, ID),
    rule("GET POST DELETE", "skills/{}", Check, NONE),
    rule("GET", "skills/{}/content", Check, NONE),
    rule("GET", "skills/{}/versions", Check, ELEMENTS),
    rule("POST", "skills/{}/versions", Upload, ID),
    rule("GET DELETE", "skills/{}/versions/*", Check, NONE),
    rule("GET", "skills/{}/versions/*/content", Check, NONE),
    // Realtime. The id of a call comes in the header `location`.
    rule("GET", "realtime", Check, NONE),
    rule("POST", "realtime/calls", Check, ID),
    rule("POST", "realtime/calls/{}/accept", Check, NONE),
    rule("POST", "realtime/calls/{}/hangup", Check, NONE),
    rule("POST", "realtime/calls/{}/refer", Check, NONE),
    rule("POST", "realtime/calls/{}/reject", Check, NONE),
    rule("POST", "realtime/client_secrets", Check, NONE),
    rule("POST", "realtime/sessions", Check, NONE),
    rule("POST", "realtime/transcription_sessions", Check, NONE),
    rule("POST", "realtime/translations/client_secrets", Check, NONE),
    // ChatKit keeps threads by a name that the client chooses, and two tenants may choose the same name.
    rule("*", "chatkit/**", Shared, NONE),
];

impl Rule {
    /// Whether the id at this index among the ids of the path is looked for only within the object before it, so that an id that
    /// belongs to nobody reveals nothing.
    pub fn is_item(&self, at: usize) -> bool {
        self.path.split('/').filter(|segment| segment.starts_with('{')).nth(at) == Some("{item}")
    }
}

/// The rule for a path that begins with `/v1/`, and the ids in the path, with escapes decoded.
pub fn find_rule<'p>(method: &str, path: &'p str) -> Option<(&'static Rule, Vec<Cow<'p, str>>)> {
    let path = path.strip_prefix("/v1/")?;
    let path = path.strip_suffix('/').unwrap_or(path);
    let method = if method == "HEAD" { "GET" } else { method };
    RULES.iter().find_map(|rule| {
        let fits = rule.methods == "*" || rule.methods.split(' ').any(|name| name == method);
        Some((rule, if fits { ids(rule.path, path)? } else { return None }))
    })
}

/// The ids in a path; `None` if the pattern does not match.
fn ids<'p>(pattern: &str, path: &'p str) -> Option<Vec<Cow<'p, str>>> {
    let (mut found, mut segments) = (Vec::new(), path.split('/'));
    for wanted in pattern.split('/') {
        if wanted == "**" {
            return Some(found);
        }
        let segment = segments.next()?;
        match wanted {
            // An id with invalid escapes belongs to nobody.
            "{}" | "{item}" => found.push(super::refs::decode(segment, false)),
            "*" => {}
            literal if literal == segment => {}
            _ => return None,
        }
    }
    segments.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: &str, path: &str) -> Option<(Action, Vec<String>)> {
        find_rule(method, path).map(|(rule, ids)| (rule.action, ids.into_iter().map(Cow::into_owned).collect()))
    }

    #[test]
    fn paths_are_found_with_their_ids() {
        let ids = |list: &[&str]| list.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        assert_eq!(found("GET", "/v1/files"), Some((List, vec![])));
        assert_eq!(found("GET", "/v1/files/"), Some((List, vec![])));
        assert_eq!(found("POST", "/v1/files"), Some((Upload, vec![])));
        assert_eq!(found("HEAD", "/v1/files/file-1/content"), Some((Check, ids(&["file-1"]))));
        assert_eq!(found("GET", "/v1/vector_stores/vs_1/files/file-1/"), Some((Check, ids(&["vs_1", "file-1"]))));
        assert_eq!(found("DELETE", "/v1/models/ft%3Agpt-4o%3Ax"), Some((Check, ids(&["ft:gpt-4o:x"]))));
        assert_eq!(found("GET", "/v1/responses/%C3%A9"), Some((Check, ids(&["é"]))));
        assert_eq!(found("POST", "/v1/threads/runs"), Some((Check, vec![])));
        assert_eq!(found("PATCH", "/v1/organization/users/x"), Some((Admin, vec![])));
        assert_eq!(found("GET", "/v1/organization"), Some((Admin, vec![])));
        let (rule, _) = find_rule("DELETE", "/v1/conversations/conv_1/items/msg_1").unwrap();
        assert_eq!([0, 1, 2].map(|at| rule.is_item(at)), [false, true, false]);
        for (method, path) in [
            ("PUT", "/v1/files/file-1"),
            ("GET", "/v1/Files"),
            ("GET", "/v1/files/file-1/content/x"),
            ("GET", "/v1/files//"),
            ("POST", "/v1/anything"),
            ("GET", "/v1/responses"),
            ("get", "/v1/files"),
        ] {
            assert!(found(method, path).is_none_or(|(_, ids)| ids == [""]), "{method} {path}");
        }
    }

    #[test]
    fn no_rule_hides_behind_another() {
        for (at, rule) in RULES.iter().enumerate() {
            let method = rule.methods.split(' ').next().map(|name| if name == "*" { "GET" } else { name }).unwrap();
            let path = format!(
                "/v1/{}",
                rule.path.replace("{}", "id").replace("{item}", "id").replace("/**", "/a/b").replace('*', "v")
            );
            let (first, _) = find_rule(method, &path).unwrap();
            assert!(std::ptr::eq(first, &RULES[at]), "{method} {path} is found as {}", first.path);
        }
    }
}
