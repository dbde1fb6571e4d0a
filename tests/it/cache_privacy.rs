//! The cache as an attacker reads it: whoever asks the same as another gets the answer, and nothing that the other said of
//! itself.

use std::time::Duration;

use proptest::{
    prelude::*,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use reqwest::header::HeaderMap;
use serde_json::{Map, Value, json};

use crate::support::{Answer, COMPLETION, Fake, Gateway, Step, chat, fake::send, gateway::providers};

/// The members in question, and what OpenAI says to a request without one.
fn blanks() -> Vec<(&'static str, Value)> {
    vec![
        ("metadata", json!({})),
        ("user", Value::Null),
        ("safety_identifier", Value::Null),
        ("prompt_cache_key", Value::Null),
        ("prompt_cache_retention", Value::Null),
    ]
}

/// What a Response says of the request that it was made for.
fn echoes(request: &Value) -> Map<String, Value> {
    let echo = |(name, blank): (&str, Value)| {
        (name.to_owned(), request.get(name).filter(|v| !v.is_null()).cloned().unwrap_or(blank))
    };
    blanks().into_iter().map(echo).collect()
}

/// A Response as OpenAI would make it; `done` for the whole of it.
fn response(request: &Value, done: bool) -> Value {
    let item = json!({"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": "the answer", "annotations": [], "logprobs": []}]});
    let mut response = json!({
        "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-4o", "error": null, "incomplete_details": null,
        "status": if done { "completed" } else { "in_progress" }, "output": if done { json!([item]) } else { json!([]) },
        "temperature": 0.0, "usage": null,
    });
    if done {
        response["usage"] = json!({"input_tokens": 10, "output_tokens": 5, "total_tokens": 15,
            "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}});
    }
    response.as_object_mut().unwrap().extend(echoes(request));
    response
}

fn event(name: &str, number: u64, members: Value) -> String {
    let mut data = json!({"type": name, "sequence_number": number});
    data.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    format!("event: {name}\ndata: {data}\n\n")
}

/// The whole of a stream, in pieces with a pause between them.
fn events(request: &Value, pause: Duration) -> Vec<Step> {
    let place = json!({"item_id": "msg_1", "output_index": 0, "content_index": 0});
    let at = |more: Value| {
        let mut members = place.clone();
        members.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        members
    };
    let all = [
        event("response.created", 0, json!({"response": response(request, false)})),
        event("response.in_progress", 1, json!({"response": response(request, false)})),
        event("response.output_text.delta", 2, at(json!({"delta": "the answer"}))),
        event("response.output_text.done", 3, at(json!({"text": "the answer"}))),
        event("response.completed", 4, json!({"response": response(request, true)})),
    ];
    all.iter().flat_map(|event| [send(event), Step::Wait(pause)]).collect()
}

async fn provider(pause: Duration) -> Fake {
    Fake::start(move |seen, _| {
        let request = seen.json();
        let answer = match request["stream"] == true {
            true => Answer::stream(events(&request, pause)),
            false => Answer::json(200, &response(&request, true).to_string()).after(pause * 2),
        };
        answer.header("x-echo", seen.header("user-agent").unwrap_or_default())
    })
    .await
}

struct Got {
    course: String,
    headers: HeaderMap,
    body: String,
}

async fn ask(url: String, request: Value) -> Got {
    ask_as(url, request, None).await
}

async fn ask_as(url: String, request: Value, token: Option<String>) -> Got {
    let post = reqwest::Client::new().post(url).body(request.to_string());
    let post = match token {
        Some(token) => post.bearer_auth(token),
        None => post,
    };
    let reply = post.send().await.unwrap();
    assert_eq!(reply.status(), 200);
    let headers = reply.headers().clone();
    let course = headers["x-chittycan-cache"].to_str().unwrap().to_owned();
    Got { course, headers, body: reply.text().await.unwrap() }
}

/// Every Response in a reply, whatever its form.
fn responses(got: &Got) -> Vec<Value> {
    if got.headers["content-type"] == "application/json" {
        return vec![serde_json::from_str(&got.body).unwrap()];
    }
    let data = got.body.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str::<Value>(data).unwrap()["response"].take()).filter(Value::is_object).collect()
}

fn check(got: &Got, request: &Value, other: &str) {
    let all = responses(got);
    let expected = if request["stream"] == true { 3 } else { 1 };
    assert_eq!(all.len(), expected, "{}", got.body);
    for response in &all {
        for (name, value) in echoes(request) {
            assert_eq!(response[&name], value, "{name} for {request} in {}", got.body);
        }
    }
    assert_eq!(all.last().unwrap()["output"][0]["content"][0]["text"], "the answer");
    assert!(!got.body.contains(other), "{}", got.body);
    assert!(!format!("{:?}", got.headers).contains(other), "{:?}", got.headers);
}

/// Labels in which each text contains `who`.
fn labels(who: &'static str) -> impl Strategy<Value = Map<String, Value>> {
    let text = || {
        prop_oneof![
            2 => Just(None),
            1 => Just(Some(Value::Null)),
            4 => "[a-z\"\\\\é\n{}:,]{0,9}".prop_map(move |text| Some(json!(format!("{who}{text}"))))
        ]
    };
    let metadata = prop_oneof![
        2 => Just(None),
        4 => prop::collection::btree_map("[a-z ]{0,4}", "[a-z\"\\\\é,]{0,8}", 0..3).prop_map(move |map| {
            Some(map.into_iter().map(|(name, value)| (format!("{who}{name}"), json!(format!("{value}{who}")))).collect())
        })
    ];
    (metadata, text(), text(), text(), text()).prop_map(|(a, b, c, d, e)| {
        let names = blanks().into_iter().map(|(name, _)| name.to_owned());
        names.zip([a, b, c, d, e]).filter_map(|(name, value)| Some((name, value?))).collect()
    })
}

fn request(case: usize, labels: &Map<String, Value>, stream: bool) -> Value {
    let mut request =
        json!({"model": "gpt-4o", "input": format!("question {case}"), "temperature": 0, "stream": stream});
    request.as_object_mut().unwrap().extend(labels.clone());
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_word_that_another_caller_said_of_itself() {
    let fake = provider(Duration::from_millis(15)).await;
    // Two tenants who share their answers: nothing but the answers.
    let tenants = "tenants: {FIRST-tenant: {}, SECOND-tenant: {}}\ncache: {namespace: shared}\n";
    let gateway = Gateway::start(&(providers(&[("openai", fake.address)]) + tenants));
    let (one, two) = (Some(gateway.token("FIRST-tenant").await), Some(gateway.token("SECOND-tenant").await));
    let url = gateway.url("/v1/responses");
    let pairs = (labels("FIRST"), labels("SECOND"), any::<bool>(), any::<bool>(), any::<bool>());
    let mut runner = TestRunner::deterministic();
    for case in 0..80 {
        let (first, second, first_streams, second_streams, live) = pairs.new_tree(&mut runner).unwrap().current();
        let (mut first, mut second) = (request(case, &first, first_streams), request(case, &second, second_streams));
        // Between tenants only what no provider keeps is shared.
        (first["store"], second["store"]) = (json!(false), json!(false));
        let leading = tokio::spawn(ask_as(url.clone(), first.clone(), one.clone()));
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while fake.count() <= case {
            assert!(std::time::Instant::now() < deadline, "the provider is not asked");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (led, followed) = match live {
            // The second reads along with the first.
            true => {
                let following = ask_as(url.clone(), second.clone(), two.clone()).await;
                (leading.await.unwrap(), following)
            }
            false => (leading.await.unwrap(), ask_as(url.clone(), second.clone(), two.clone()).await),
        };
        assert_eq!((&*led.course, &*followed.course, fake.count()), ("MISS", "HIT", case + 1), "{first}\n{second}");
        check(&led, &first, "SECOND");
        check(&followed, &second, "FIRST");
        // And the first, when it asks again in the other form.
        let mut again = first.clone();
        again["stream"] = json!(!first_streams);
        let got = ask_as(url.clone(), again.clone(), one.clone()).await;
        assert_eq!(got.course, "HIT");
        check(&got, &again, "SECOND");
    }
    assert_eq!(fake.count(), 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_who_asks_the_provider_gets_its_very_bytes() {
    let fake = provider(Duration::ZERO).await;
    let gateway = Gateway::over(fake.address);
    for stream in [false, true] {
        let labels = Map::from_iter([("metadata".to_owned(), json!({"a": "1"})), ("user".to_owned(), json!("u"))]);
        let request = request(usize::from(stream), &labels, stream);
        let got = ask(gateway.url("/v1/responses"), request.clone()).await;
        let sent = match stream {
            false => response(&request, true).to_string(),
            true => events(&request, Duration::ZERO)
                .into_iter()
                .filter_map(|step| {
                    if let Step::Send(bytes) = step { Some(String::from_utf8(bytes.to_vec()).unwrap()) } else { None }
                })
                .collect(),
        };
        assert_eq!((got.course.as_str(), got.body), ("MISS", sent));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_on_disk_names_nobody() {
    let fake = provider(Duration::ZERO).await;
    let gateway = Gateway::start(&(providers(&[("openai", fake.address)]) + "cache: {disk: 128MiB}\n"));
    let labels = Map::from_iter([
        ("metadata".to_owned(), json!({"team": "WRITTEN-NOWHERE"})),
        ("user".to_owned(), json!("WRITTEN-NOWHERE")),
    ]);
    for stream in [false, true] {
        ask(gateway.url("/v1/responses"), request(usize::from(stream), &labels, stream)).await;
    }
    let folder = gateway.file.parent().unwrap().to_owned();
    let holds = |word: &str| {
        let mut folders = vec![folder.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false => {
                        let bytes = std::fs::read(entry.path()).unwrap_or_default();
                        if memchr::memmem::find(&bytes, word.as_bytes()).is_some() {
                            return true;
                        }
                    }
                }
            }
        }
        false
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !holds("the answer") {
        assert!(std::time::Instant::now() < deadline, "nothing is written to disk");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!holds("WRITTEN-NOWHERE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_about_a_label_is_for_its_caller_alone() {
    let quota = r#"{"error":{"message":"user LABEL sends too much","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#;
    let wrong = r#"{"error":{"message":"metadata.LABEL is too long","type":"invalid_request_error","param":"metadata.LABEL","code":null}}"#;
    for (status, error) in [(400, wrong), (429, quota), (503, quota)] {
        let fake = Fake::start(move |seen, _| match seen.json().get("metadata") {
            Some(_) => Answer::json(status, error).after(Duration::from_millis(300)),
            None => Answer::completion(),
        })
        .await;
        let gateway = Gateway::over(fake.address);
        let url = gateway.url("/v1/chat/completions");
        let post = |body: String| {
            let url = url.clone();
            async move {
                let reply = reqwest::Client::new().post(url).body(body).send().await.unwrap();
                (reply.status().as_u16(), reply.text().await.unwrap())
            }
        };
        let leading = tokio::spawn(post(chat("gpt-4o", r#","temperature":0,"metadata":{"LABEL":"x"}"#)));
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while fake.count() < 1 {
            assert!(std::time::Instant::now() < deadline, "the provider is not asked");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (followed, body) = post(chat("gpt-4o", r#","temperature":0"#)).await;
        assert!(!body.contains("LABEL"), "{body}");
        match status {
            400 => assert_eq!((followed, body.as_str()), (200, COMPLETION), "its own request is right"),
            _ => {
                assert_eq!(followed, status);
                let error = &serde_json::from_str::<Value>(&body).unwrap()["error"];
                assert_eq!((&error["code"], &error["type"]), (&"rate_limit_exceeded".into(), &"tokens".into()));
                assert_eq!(fake.count(), 1, "shared all the same");
            }
        }
        let (led, body) = leading.await.unwrap();
        assert_eq!((led, body.as_str()), (status, error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_stream_quotes_its_caller_to_nobody_else() {
    let error = "event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"user LABEL\",\"param\":null,\"sequence_number\":1}\n\n";
    let fake = Fake::start(move |seen, _| {
        let created = event("response.created", 0, json!({"response": response(&seen.json(), false)}));
        Answer::stream(vec![send(&created), Step::Wait(Duration::from_millis(300)), send(error)])
    })
    .await;
    let gateway = Gateway::over(fake.address);
    let labels = Map::from_iter([("user".to_owned(), json!("LABEL"))]);
    let leading = tokio::spawn(ask(gateway.url("/v1/responses"), request(0, &labels, true)));
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while fake.count() < 1 {
        assert!(std::time::Instant::now() < deadline, "the provider is not asked");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let followed = ask(gateway.url("/v1/responses"), request(0, &Map::new(), true)).await;
    assert_eq!((followed.course.as_str(), fake.count()), ("HIT", 1));
    assert!(followed.body.contains("event: error") && !followed.body.contains("LABEL"), "{}", followed.body);
    let led = leading.await.unwrap();
    assert!(led.body.contains("user LABEL"), "{}", led.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_translation_dropped_of_one_caller_is_not_told_to_another() {
    let message = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":5,"output_tokens":2}}"#;
    let fake = Fake::always(Answer::json(200, message)).await;
    let gateway = Gateway::start(&format!(
        "providers: {{anthropic: {{base_url: \"http://{}/v1\", api_key: k, credentials: mapped}}}}\nroutes: [{{model: claude, to: [anthropic]}}]\n",
        fake.address
    ));
    let asks = async |extra: &str| {
        let body = chat("claude", &format!(r#","temperature":0,"seed":1{extra}"#));
        let reply = reqwest::Client::new().post(gateway.url("/v1/chat/completions")).body(body).send().await.unwrap();
        assert_eq!(reply.status(), 200);
        let told = |name: &str| reply.headers()[name].to_str().unwrap().to_owned();
        (told("x-chittycan-cache"), told("x-chittycan-dropped"))
    };
    let (course, dropped) = asks(r#","metadata":{"a":"1"},"prompt_cache_retention":"24h""#).await;
    assert!(
        course == "MISS" && dropped.contains("metadata") && dropped.contains("prompt_cache_retention"),
        "{dropped}"
    );
    assert_eq!(asks("").await, ("HIT".to_owned(), "temperature, seed".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_that_repeats_labels_in_a_chat_completion_changes_nothing() {
    let fake = Fake::start(|seen, _| {
        let request = seen.json();
        let labels = json!({"user": request["user"], "metadata": request["metadata"]});
        match request["stream"] == true {
            false => {
                let mut reply: Value = serde_json::from_str(COMPLETION).unwrap();
                reply.as_object_mut().unwrap().extend(labels.as_object().unwrap().clone());
                Answer::json(200, &reply.to_string())
            }
            true => {
                let mut chunk = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o",
                    "choices": [{"index": 0, "delta": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]});
                chunk.as_object_mut().unwrap().extend(labels.as_object().unwrap().clone());
                let usage = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", "choices": [],
                    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}});
                Answer::stream(vec![send(&format!("data: {chunk}\n\ndata: {usage}\n\ndata: [DONE]\n\n"))])
            }
        }
    })
    .await;
    let gateway = Gateway::over(fake.address);
    let url = gateway.url("/v1/chat/completions");
    for (stored, n) in [(false, 0), (true, 1)] {
        let body = |labels: &str, stream: bool| {
            let text = chat("gpt-4o", &format!(r#","temperature":0,"seed":{n},"stream":{stream}{labels}"#));
            serde_json::from_str::<Value>(&text).unwrap()
        };
        let first = ask(url.clone(), body(r#","user":"FIRST","metadata":{"FIRST":"x"}"#, stored)).await;
        assert!(first.course == "MISS" && first.body.contains("FIRST"), "{}", first.body);
        for stream in [false, true] {
            let second = ask(url.clone(), body(r#","user":"SECOND""#, stream)).await;
            assert!(second.course == "HIT" && !second.body.contains("FIRST"), "{}", second.body);
            assert!(second.body.contains("SECOND"), "{}", second.body);
            let third = ask(url.clone(), body("", stream)).await;
            assert!(
                third.course == "HIT" && !third.body.contains("FIRST") && !third.body.contains("SECOND"),
                "{}",
                third.body
            );
        }
    }
    assert_eq!(fake.count(), 2);
}
