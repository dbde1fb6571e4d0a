//! Responses of providers that keep none: what clients refer to is there for a while, for its owner alone, and what is gone is
//! said to be gone.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Fake, Gateway, Step, fake::send};

const RESPONSES: &str = "/v1/responses";

/// What a fake Anthropic says: signed thinking and a call, or, once it has the result of one, a text.
fn message(seen: &Value) -> Value {
    let answered = seen["messages"].to_string().contains("tool_result");
    let content = match answered || seen.get("tools").is_none() {
        true => json!([{"type": "text", "text": format!("said {}", seen["messages"].as_array().unwrap().len())}]),
        false => json!([{"type": "thinking", "thinking": "Hm.", "signature": "sig-1"},
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}}]),
    };
    json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "content": content,
        "stop_reason": if answered { "end_turn" } else { "tool_use" }, "stop_sequence": null,
        "usage": {"input_tokens": 10, "output_tokens": 5}})
}

fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap())
}

/// The same in events.
fn events(message: &Value) -> String {
    let mut start = message.clone();
    start["content"] = json!([]);
    start["stop_reason"] = Value::Null;
    let mut out = event(&json!({"type": "message_start", "message": start}));
    for (index, block) in message["content"].as_array().unwrap().iter().enumerate() {
        let (empty, deltas) = match block["type"].as_str().unwrap() {
            "thinking" => (
                json!({"type": "thinking", "thinking": "", "signature": ""}),
                vec![
                    json!({"type": "thinking_delta", "thinking": block["thinking"]}),
                    json!({"type": "signature_delta", "signature": block["signature"]}),
                ],
            ),
            "tool_use" => (
                json!({"type": "tool_use", "id": block["id"], "name": block["name"], "input": {}}),
                vec![json!({"type": "input_json_delta", "partial_json": block["input"].to_string()})],
            ),
            _ => (json!({"type": "text", "text": ""}), vec![json!({"type": "text_delta", "text": block["text"]})]),
        };
        out += &event(&json!({"type": "content_block_start", "index": index, "content_block": empty}));
        for delta in deltas {
            out += &event(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
        out += &event(&json!({"type": "content_block_stop", "index": index}));
    }
    let end = json!({"stop_reason": message["stop_reason"], "stop_sequence": null});
    out += &event(&json!({"type": "message_delta", "delta": end, "usage": {"output_tokens": 5}}));
    out + &event(&json!({"type": "message_stop"}))
}

async fn anthropic() -> Fake {
    Fake::start(|seen, _| {
        let body = seen.json();
        match body["stream"] == true {
            true => Answer::stream(vec![send(&events(&message(&body)))]),
            false => Answer::json(200, &message(&body).to_string()),
        }
    })
    .await
}

/// A provider with Chat Completions only, which gives all its answers one id.
async fn chat_only() -> Fake {
    Fake::start(|seen, _| {
        if seen.method != Method::POST {
            return Answer::json(404, r#"{"error":{"message":"No such path.","type":"invalid_request_error","param":null,"code":null}}"#);
        }
        let count = seen.json()["messages"].as_array().unwrap().len();
        let message = json!({"role": "assistant", "content": format!("said {count}")});
        let choice = json!([{"index": 0, "message": message, "finish_reason": "stop"}]);
        let usage = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15});
        let reply = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": choice, "usage": usage});
        Answer::json(200, &reply.to_string())
    })
    .await
}

fn over_anthropic(fake: &Fake, more: &str) -> Gateway {
    Gateway::start(&format!(
        "providers: {{anthropic: {{base_url: \"http://{}/v1\", api_key: sk-ant-x, credentials: mapped}}}}\n\
         routes: [{{model: m, to: [anthropic/claude-sonnet-4-5]}}]\ndefault_provider: anthropic\n{more}",
        fake.address
    ))
}

fn over_chat(fake: &Fake, more: &str) -> Gateway {
    Gateway::start(&format!(
        "providers: {{local: {{base_url: \"http://{}/v1\", api_key: k}}}}\n\
         routes: [{{model: m, to: [local/m]}}]\ndefault_provider: local\n{more}",
        fake.address
    ))
}

/// Someone who asks.
#[derive(Clone)]
struct Client<'g> {
    gateway: &'g Gateway,
    key: String,
}

impl<'g> Client<'g> {
    fn new(gateway: &'g Gateway, key: &str) -> Self {
        Self { gateway, key: key.to_owned() }
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value, reqwest::header::HeaderMap) {
        let mut request = reqwest::Client::new().request(method, self.gateway.url(path)).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(body);
        }
        let reply = request.send().await.unwrap();
        let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
        let text = reply.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}")), headers)
    }

    /// A response that is asked for and given.
    async fn ask(&self, body: Value) -> Value {
        let (status, reply, _) = self.send(Method::POST, RESPONSES, Some(&body)).await;
        assert_eq!(status, 200, "{reply} to {body}");
        reply
    }

    /// The error to one that is not given.
    async fn refused(&self, body: Value) -> (u16, Value) {
        let (status, mut reply, _) = self.send(Method::POST, RESPONSES, Some(&body)).await;
        (status, reply["error"].take())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, reply, _) = self.send(Method::GET, &format!("{RESPONSES}/{path}"), None).await;
        (status, reply)
    }

    /// The response at the end of a stream.
    async fn stream(&self, mut body: Value) -> Value {
        body["stream"] = true.into();
        let request = reqwest::Client::new().post(self.gateway.url(RESPONSES)).bearer_auth(&self.key).json(&body);
        let text = request.send().await.unwrap().text().await.unwrap();
        let last = text.lines().rev().find_map(|line| line.strip_prefix("data: ")).unwrap_or_else(|| panic!("{text}"));
        let last: Value = serde_json::from_str(last).unwrap();
        assert_eq!(last["type"], "response.completed", "{text}");
        last["response"].clone()
    }
}

fn id(value: &Value) -> &str {
    value["id"].as_str().unwrap_or_else(|| panic!("no id in {value}"))
}

fn weather() -> Value {
    json!([{"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}])
}

/// Vercel's AI SDK: at the second step of a tool loop it refers to the items of the first, since nothing said `store: false`.
#[tokio::test(flavor = "multi_thread")]
async fn a_tool_loop_refers_to_the_items_of_its_first_step() {
    let fake = anthropic().await;
    let gateway = over_anthropic(&fake, "");
    let client = Client::new(&gateway, "unknown");
    let question = json!({"role": "user", "content": [{"type": "input_text", "text": "How is the weather in Rome?"}]});
    for streamed in [false, true] {
        let first = json!({"model": "m", "input": [question], "tools": weather(), "reasoning": {"effort": "low"}});
        let response = if streamed { client.stream(first.clone()).await } else { client.ask(first.clone()).await };
        assert_eq!(response["store"], true);
        let kinds: Vec<_> = response["output"].as_array().unwrap().iter().map(|item| item["type"].clone()).collect();
        assert_eq!(kinds, ["reasoning", "function_call"], "{response}");
        let reference = |at: usize| json!({"type": "item_reference", "id": id(&response["output"][at])});
        let result =
            json!({"type": "function_call_output", "call_id": response["output"][1]["call_id"], "output": "Sunny"});
        let mut second = first.clone();
        second["input"] = json!([question, reference(0), reference(1), result]);
        let answer = if streamed { client.stream(second).await } else { client.ask(second).await };
        assert_eq!(answer["output"][0]["content"][0]["text"], "said 3", "{answer}");
        // Nothing is lost on the way: the thinking has its signature, as Anthropic requires within a loop.
        let sent = fake.last().json()["messages"].clone();
        let thinking = json!({"type": "thinking", "thinking": "Hm.", "signature": "sig-1"});
        let call = json!({"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}});
        assert_eq!(sent[1], json!({"role": "assistant", "content": [thinking, call]}), "{sent}");
        assert_eq!(sent[2]["content"][0]["content"], "Sunny", "{sent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_goes_on_from_its_last_response() {
    let (claude, local) = (anthropic().await, chat_only().await);
    for (fake, gateway) in [(&claude, over_anthropic(&claude, "")), (&local, over_chat(&local, ""))] {
        let client = Client::new(&gateway, "unknown");
        let first = client.ask(json!({"model": "m", "instructions": "Be brief.", "input": "One"})).await;
        let second = json!({"model": "m", "previous_response_id": id(&first), "input": "Two"});
        let second = if std::ptr::eq(fake, &claude) { client.stream(second).await } else { client.ask(second).await };
        assert_eq!(second["previous_response_id"], first["id"]);
        assert_ne!(second["id"], first["id"], "whatever ids the provider gives");
        let third =
            json!({"model": "m", "instructions": "Be kind.", "previous_response_id": id(&second), "input": "Three"});
        let third = client.ask(third).await;
        let sent = fake.last().json();
        let texts = sent["messages"].to_string();
        let order: Vec<_> = ["One", "said", "Two", "said", "Three"]
            .iter()
            .scan(0, |from, word| {
                let at = texts[*from..].find(word).map(|at| at + *from)?;
                *from = at + word.len();
                Some(at)
            })
            .collect();
        assert_eq!(order.len(), 5, "{texts}");
        let all = sent.to_string();
        assert!(all.contains("Be kind.") && !all.contains("Be brief."), "instructions are not carried over: {all}");
        // Each response can be gone on from, also twice.
        let branch = json!({"model": "m", "previous_response_id": id(&first), "input": "Another"});
        client.ask(branch).await;
        assert!(!fake.last().json().to_string().contains("Two"));
        assert_eq!(third["store"], true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kept_is_a_404_and_never_a_shorter_conversation() {
    let fake = chat_only().await;
    let gateway = over_chat(&fake, "");
    let client = Client::new(&gateway, "unknown");
    let private = client.ask(json!({"model": "m", "input": "One", "store": false})).await;
    assert_eq!(private["store"], false);
    let asked = fake.count();
    for previous in [id(&private), "resp_nothing", ""] {
        let (status, error) =
            client.refused(json!({"model": "m", "previous_response_id": previous, "input": "x"})).await;
        let message = format!("Previous response with id '{previous}' not found.");
        let expected = json!({"message": message, "type": "invalid_request_error", "param": "previous_response_id",
            "code": "previous_response_not_found"});
        assert_eq!((status, error), (400, expected));
    }
    for (at, item) in [id(&private["output"][0]), "msg_nothing"].into_iter().enumerate() {
        let mut input = vec![json!({"role": "user", "content": "x"}); at];
        input.push(json!({"type": "item_reference", "id": item}));
        let (status, error) = client.refused(json!({"model": "m", "input": input})).await;
        assert_eq!((status, &error["param"]), (404, &json!(format!("input[{at}]"))), "{error}");
        assert!(
            error["message"].as_str().unwrap().starts_with(&format!("Item with id '{item}' not found.")),
            "{error}"
        );
    }
    assert_eq!(fake.count(), asked, "no provider is asked");
    assert_eq!(client.get(id(&private)).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_never_sees_or_continues_anothers() {
    let fake = chat_only().await;
    let tenants = "tenants: {acme: {}, umbrella: {}}\nauth: {anonymous: default}\n";
    let gateway = over_chat(&fake, tenants);
    let (acme, colleague) = (gateway.token("acme").await, gateway.token("acme").await);
    let umbrella = gateway.token("umbrella").await;
    let client = |key: &str| Client::new(&gateway, key);
    let owners = [client(&acme), client("stranger-1")];
    for owner in owners {
        let secret = owner.ask(json!({"model": "m", "input": "The secret is 4711"})).await;
        let asked = fake.count();
        for other in [client(&umbrella), client("stranger-2"), client("")] {
            let (status, error) =
                other.refused(json!({"model": "m", "previous_response_id": id(&secret), "input": "What is it?"})).await;
            assert_eq!((status, &error["code"]), (400, &json!("previous_response_not_found")), "{error}");
            let item = json!([{"type": "item_reference", "id": id(&secret["output"][0])}]);
            assert_eq!(other.refused(json!({"model": "m", "input": item})).await.0, 404);
            for path in [id(&secret).to_owned(), format!("{}/input_items", id(&secret))] {
                let (status, reply) = other.get(&path).await;
                assert!(status >= 400 && !reply.to_string().contains("4711"), "{reply}");
            }
            let (status, reply, _) = other.send(Method::DELETE, &format!("{RESPONSES}/{}", id(&secret)), None).await;
            assert!(status >= 400, "{reply}");
        }
        assert_eq!(fake.seen_since(asked).iter().filter(|seen| seen.method == Method::POST).count(), 0);
        assert_eq!(owner.get(id(&secret)).await.1, secret);
    }
    // Those of one tenant share it.
    let first = client(&acme).ask(json!({"model": "m", "input": "One"})).await;
    client(&colleague).ask(json!({"model": "m", "previous_response_id": id(&first), "input": "Two"})).await;
    assert_eq!(fake.last().json()["messages"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_response_is_shown_listed_and_deleted() {
    let fake = chat_only().await;
    let gateway = over_chat(&fake, "");
    let client = Client::new(&gateway, "unknown");
    let first = client.ask(json!({"model": "m", "input": "One", "metadata": {"a": "b"}})).await;
    let second = client.ask(json!({"model": "m", "previous_response_id": id(&first), "input": "Two"})).await;
    let asked = fake.count();
    assert_eq!(client.get(id(&first)).await, (200, first.clone()));
    let (status, list) = client.get(&format!("{}/input_items?order=asc&limit=2", id(&second))).await;
    assert_eq!((status, &list["object"], &list["has_more"]), (200, &json!("list"), &json!(true)), "{list}");
    assert_eq!(list["data"][0]["content"], json!([{"type": "input_text", "text": "One"}]));
    assert_eq!(list["data"][1], first["output"][0]);
    let (_, rest) =
        client.get(&format!("{}/input_items?order=asc&after={}", id(&second), id(&first["output"][0]))).await;
    assert_eq!((rest["data"].as_array().unwrap().len(), &rest["has_more"]), (1, &json!(false)), "{rest}");
    assert_eq!(client.get(&format!("{}/input_items?limit=0", id(&second))).await.0, 400);
    assert_eq!(client.get(&format!("{}?stream=true", id(&second))).await.0, 400);
    let path = format!("{RESPONSES}/{}", id(&first));
    let (status, deleted, _) = client.send(Method::DELETE, &path, None).await;
    assert_eq!((status, deleted), (200, json!({"id": id(&first), "object": "response", "deleted": true})));
    assert_eq!(fake.count(), asked, "no provider is asked");
    assert_eq!(client.get(id(&first)).await.0, 404, "as the provider says, who could have one of this id");
    let gone = json!({"model": "m", "previous_response_id": id(&first), "input": "x"});
    assert_eq!(client.refused(gone).await.0, 400);
    // What had continued it is whole.
    client.ask(json!({"model": "m", "previous_response_id": id(&second), "input": "Three"})).await;
    assert_eq!(fake.last().json()["messages"].as_array().unwrap().len(), 5);
}

/// The cache knows an answer for longer than it is kept here, and one that is shared gives nobody another's id.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_cache_serves_can_be_continued_too() {
    let fake = chat_only().await;
    let gateway = over_chat(&fake, "");
    let client = Client::new(&gateway, "unknown");
    let question = json!({"model": "m", "input": "One", "temperature": 0});
    let first = client.ask(question.clone()).await;
    let path = format!("{RESPONSES}/{}", id(&first));
    assert_eq!(client.send(Method::DELETE, &path, None).await.0, 200);
    let (_, hit, headers) = client.send(Method::POST, RESPONSES, Some(&question)).await;
    assert_eq!((headers["x-chittycan-cache"].to_str().unwrap(), &hit), ("HIT", &first));
    let next = json!({"model": "m", "previous_response_id": id(&hit), "input": "Two", "temperature": 0});
    let next = client.ask(next).await;
    assert_eq!(fake.last().json()["messages"].as_array().unwrap().len(), 3);
    // The same in events.
    assert_eq!(client.send(Method::DELETE, &path, None).await.0, 200);
    assert_eq!(client.stream(question).await["id"], first["id"]);
    let again = json!({"model": "m", "previous_response_id": id(&first), "input": "Two", "temperature": 0});
    let (_, again, headers) = client.send(Method::POST, RESPONSES, Some(&again)).await;
    assert_eq!((headers["x-chittycan-cache"].to_str().unwrap(), &again), ("HIT", &next));

    // The same conversation without a reference is another response: this one says what it continues.
    let by_value = json!({"model": "m", "temperature": 0, "input": [{"type": "message", "role": "user", "content": "One"},
        first["output"][0], {"type": "message", "role": "user", "content": "Two"}]});
    assert_eq!(client.ask(by_value).await["previous_response_id"], Value::Null);

    let shared = over_chat(&fake, "cache: {namespace: shared}\ntenants: {acme: {}, umbrella: {}}\n");
    let mut ids = Vec::new();
    for tenant in ["acme", "umbrella"] {
        let client = Client::new(&shared, &shared.token(tenant).await);
        let (_, reply, headers) =
            client.send(Method::POST, RESPONSES, Some(&json!({"model": "m", "input": "One", "temperature": 0}))).await;
        assert_eq!(headers["x-chittycan-cache"], "BYPASS", "{reply}");
        ids.push(id(&reply).to_owned());
    }
    assert_ne!(ids[0], ids[1]);
}

/// Those who ask the same at the same time wait for one answer, and each can go on from it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_along_can_be_continued_too() {
    let release = std::sync::Arc::new(tokio::sync::Notify::new());
    let held = release.clone();
    let fake = Fake::start(move |seen, number| {
        let body = seen.json();
        match number {
            0 => {
                let all = events(&message(&body));
                let (head, rest) = all.split_at(all.find("event: content_block_start").unwrap());
                Answer::stream(vec![send(head), Step::Until(held.clone()), send(rest)])
            }
            _ => Answer::json(200, &message(&body).to_string()),
        }
    })
    .await;
    let gateway = over_anthropic(&fake, "");
    let question = json!({"model": "m", "input": "One", "temperature": 0});
    let asks = |_: usize| {
        let (client, question) = (Client::new(&gateway, "unknown"), question.clone());
        async move { client.stream(question).await }
    };
    let both = async { tokio::join!(asks(0), asks(1)) };
    let ((first, second), ()) = tokio::join!(both, async {
        let begun = Instant::now();
        while !gateway.metrics().await.contains("can_requests_in_flight 2") {
            assert!(begun.elapsed() < Duration::from_secs(10), "two requests are not under way");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        release.notify_one();
    });
    assert_eq!((fake.count(), &first["id"]), (1, &second["id"]));
    let next = json!({"model": "m", "previous_response_id": id(&second), "input": "Two"});
    Client::new(&gateway, "unknown").ask(next).await;
    assert_eq!(fake.last().json()["messages"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_or_was_pushed_out_is_gone_and_the_bounds_hold() {
    let fake = chat_only().await;
    let gateway = over_chat(&fake, "stored_responses: {ttl: 300ms}\n");
    let client = Client::new(&gateway, "unknown");
    let first = client.ask(json!({"model": "m", "input": "One"})).await;
    let next = json!({"model": "m", "previous_response_id": id(&first), "input": "Two"});
    client.ask(next.clone()).await;
    let begun = Instant::now();
    while client.get(id(&first)).await.0 == 200 {
        // Each look is a use.
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    assert_eq!(client.refused(next).await.0, 400);

    let bounded =
        over_chat(&fake, "stored_responses: {memory: 400KiB, tenant_memory: 100KiB}\ntenants: {acme: {}, loud: {}}\n");
    let acme = Client::new(&bounded, &bounded.token("acme").await);
    let loud = Client::new(&bounded, &bounded.token("loud").await);
    let quiet = acme.ask(json!({"model": "m", "input": "One"})).await;
    let (mut oldest, mut newest) = (Value::Null, Value::Null);
    for n in 0..30 {
        newest = loud.ask(json!({"model": "m", "input": format!("{n}{}", "x".repeat(20_000))})).await;
        if n == 0 {
            oldest = newest.clone();
        }
    }
    assert_eq!((loud.get(id(&oldest)).await.0, loud.get(id(&newest)).await.0), (404, 200));
    assert_eq!(acme.get(id(&quiet)).await.0, 200, "another's flood pushes out nothing");
    // What fits nowhere is answered all the same, and says that it is not kept.
    let large = loud.ask(json!({"model": "m", "input": "x".repeat(200_000)})).await;
    assert_eq!((&large["store"], loud.get(id(&large)).await.0), (&json!(false), 404));
    let metrics = bounded.metrics().await;
    let line = metrics.lines().find(|line| line.contains("stored_responses\"}")).unwrap_or_else(|| panic!("{metrics}"));
    let held: u64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!((1..=400 << 10).contains(&held), "{line}");

    let off = over_chat(&fake, "stored_responses: {memory: 0B}\n");
    let client = Client::new(&off, "unknown");
    let (_, kept_nowhere, headers) =
        client.send(Method::POST, RESPONSES, Some(&json!({"model": "m", "input": "One", "store": true}))).await;
    assert_eq!((&kept_nowhere["store"], headers["x-chittycan-dropped"].to_str().unwrap()), (&json!(false), "store"));
    let (status, error) =
        client.refused(json!({"model": "m", "previous_response_id": id(&kept_nowhere), "input": "x"})).await;
    assert_eq!((status, &error["param"]), (400, &json!("previous_response_id")), "{error}");
}

/// Who has no credential is refused before anything is kept for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_pushes_out_nothing() {
    let fake = chat_only().await;
    let gateway = over_chat(&fake, "stored_responses: {tenant_memory: 100KiB}\n");
    let client = Client::new(&gateway, &gateway.token("default").await);
    let first = client.ask(json!({"model": "m", "input": "One"})).await;
    let stranger = Client::new(&gateway, "");
    for n in 0..10 {
        let (status, error) =
            stranger.refused(json!({"model": "m", "input": format!("{n}{}", "x".repeat(40_000))})).await;
        assert_eq!(status, 401, "{error}");
    }
    assert_eq!(client.get(id(&first)).await, (200, first));
}

/// A stream that broke is no response.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_is_not_kept() {
    let fake = Fake::start(|seen, _| {
        if seen.method != Method::POST {
            return Answer::json(
                404,
                r#"{"type":"error","error":{"type":"not_found_error","message":"No such path."}}"#,
            );
        }
        let all = events(&message(&seen.json()));
        Answer::stream(vec![send(&all[..all.find("event: message_delta").unwrap()])])
    })
    .await;
    let gateway = over_anthropic(&fake, "");
    let body = json!({"model": "m", "input": "One", "stream": true});
    let request = reqwest::Client::new().post(gateway.url(RESPONSES)).bearer_auth("unknown").json(&body);
    let text = request.send().await.unwrap().text().await.unwrap();
    let created = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let created: Value = serde_json::from_str(created).unwrap();
    let client = Client::new(&gateway, "unknown");
    assert_eq!(client.get(id(&created["response"])).await.0, 404, "{text}");
    let next = json!({"model": "m", "previous_response_id": id(&created["response"]), "input": "x"});
    assert_eq!(client.refused(next).await.0, 400);
}

/// What a request continues is part of its prompt, for limits and for money as well.
#[tokio::test(flavor = "multi_thread")]
async fn who_continues_a_conversation_pays_for_all_of_it() {
    let uncounted = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","stop_sequence":null}"#;
    let fake = Fake::always(Answer::json(200, uncounted)).await;
    let gateway = over_anthropic(&fake, "http: {max_body: 64KiB}\ntenants: {default: {budgets: [{usd: 5}]}}\n");
    let client = Client::new(&gateway, "unknown");
    let long = "The quick brown fox jumps over the lazy dog. ".repeat(1_000);
    let first = client.ask(json!({"model": "m", "input": long, "max_output_tokens": 10})).await;
    let next = json!({"model": "m", "previous_response_id": id(&first), "input": "And?", "max_output_tokens": 10});
    client.ask(next).await;
    let begun = Instant::now();
    while gateway.query("SELECT count(*) FROM entries").await < 2 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no entry");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Nobody has counted, and a byte is the least that a token has: 3 000 nano-dollars for each of claude-sonnet-4-5.
    let cost = gateway.query("SELECT cost FROM entries ORDER BY id DESC LIMIT 1").await;
    assert!(cost >= long.len() as i64 * 3_000, "{cost}");
    // No way round the bound on bodies either.
    let more = json!({"model": "m", "previous_response_id": id(&first), "input": long, "max_output_tokens": 10});
    let (status, error) = client.refused(more).await;
    assert_eq!((status, &error["code"]), (413, &json!("request_too_large")), "{error}");
}

/// A provider that keeps responses itself gets its own ids as they are, also where another one stands in for it.
#[tokio::test(flavor = "multi_thread")]
async fn ids_of_a_provider_that_keeps_responses_are_left_alone() {
    let native = Fake::start(|seen, _| {
        let previous = seen.json()["previous_response_id"].clone();
        let reply = json!({"id": "resp_native", "object": "response", "status": "completed", "model": "gpt-4o",
            "previous_response_id": previous, "output": [], "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}});
        Answer::json(200, &reply.to_string())
    })
    .await;
    let spare = chat_only().await;
    let gateway = Gateway::start(&format!(
        "providers:\n  openai: {{base_url: \"http://{}/v1\", api_key: k, credentials: mapped}}\n\
         \x20 local: {{base_url: \"http://{}/v1\", api_key: k}}\nroutes: [{{model: m, to: [openai/gpt-4o, local/m]}}]\n",
        native.address, spare.address
    ));
    let client = Client::new(&gateway, "unknown");
    let first = client.ask(json!({"model": "m", "input": "One"})).await;
    assert_eq!(id(&first), "resp_native");
    client.ask(json!({"model": "m", "previous_response_id": id(&first), "input": "Two"})).await;
    assert_eq!(native.last().json()["previous_response_id"], "resp_native");
    assert_eq!(spare.count(), 0);
}
