//! Ollama's API over real sockets.

use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::{Simulated, SimulatedConfig};

async fn provider() -> Simulated {
    Simulated::bind(([127, 0, 0, 1], 0).into(), SimulatedConfig::instant()).await.unwrap()
}

async fn post(provider: &Simulated, path: &str, faults: &str, body: &Value) -> Response {
    let url = format!("http://{}{path}", provider.addr());
    Client::new().post(url).header("x-simulate", faults).json(body).send().await.unwrap()
}

async fn get(provider: &Simulated, path: &str) -> Value {
    reqwest::get(format!("http://{}{path}", provider.addr())).await.unwrap().json().await.unwrap()
}

/// A chat request with these fields besides the model and the prompt.
fn body(prompt: &str, patch: Value) -> Value {
    let mut body = json!({"model": "llama3.2", "messages": [{"role": "user", "content": prompt}]});
    body.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
    body
}

async fn whole(provider: &Simulated, prompt: &str, mut patch: Value) -> Value {
    patch["stream"] = json!(false);
    let reply = post(provider, "/api/chat", "", &body(prompt, patch)).await;
    let status = reply.status();
    let reply: Value = reply.json().await.unwrap();
    assert_eq!(status, 200, "{reply}");
    reply
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn tools() -> Value {
    let city = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    json!([{"type": "function", "function": {"name": "get_weather", "parameters": city}},
        {"type": "function", "function": {"name": "get_time"}}])
}

#[tokio::test]
async fn a_chat_is_lines_unless_told_otherwise() {
    let provider = provider().await;
    let reply = post(&provider, "/api/chat", "", &body("Count to 3.", json!({}))).await;
    assert_eq!(reply.headers()["content-type"], "application/x-ndjson");
    assert!(!reply.headers().contains_key("x-request-id"));
    let lines = lines(&reply.text().await.unwrap());
    let said: String = lines.iter().map(|line| line["message"]["content"].as_str().unwrap()).collect();
    assert_eq!((said.as_str(), lines.len()), ("1, 2, 3", 4));
    assert!(lines[..3].iter().all(|line| line["done"] == false && line.get("eval_count").is_none()));
    let reply = whole(&provider, "Count to 3.", json!({})).await;
    assert_eq!(reply["message"], json!({"role": "assistant", "content": "1, 2, 3"}));
    for last in [&lines[3], &reply] {
        assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
        assert_eq!((&last["prompt_eval_count"], &last["eval_count"]), (&json!(3), &json!(3)));
        assert!(last["created_at"].as_str().unwrap().ends_with('Z') && last["total_duration"].is_u64());
    }
}

#[tokio::test]
async fn thinking_calls_and_formats() {
    let provider = provider().await;
    let reply = whole(&provider, "Count to 3.", json!({"think": true})).await;
    assert!(reply["message"]["thinking"].as_str().unwrap().contains("Count to 3."));
    assert!(reply["eval_count"].as_u64().unwrap() > 3);
    let text =
        post(&provider, "/api/chat", "", &body("Count to 3.", json!({"think": "low"}))).await.text().await.unwrap();
    let thought: String = lines(&text).iter().filter_map(|line| line["message"]["thinking"].as_str()).collect();
    assert_eq!(thought, reply["message"]["thinking"].as_str().unwrap());

    let both = "call get_weather and get_time";
    let reply = whole(&provider, both, json!({"tools": tools()})).await;
    let calls = reply["message"]["tool_calls"].as_array().unwrap();
    assert_eq!(calls[0]["function"]["arguments"], json!({"city": "example city"}));
    assert_eq!((&calls[1]["function"]["name"], &calls[1]["function"]["index"]), (&json!("get_time"), &json!(1)));
    let text = post(&provider, "/api/chat", "", &body(both, json!({"tools": tools()}))).await.text().await.unwrap();
    let lines = lines(&text);
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[1]["message"]["tool_calls"][0]["function"]["name"], "get_time");
    let messages = json!([{"role": "user", "content": both}, reply["message"],
        {"role": "tool", "tool_name": "get_weather", "content": "rain"}]);
    let reply = whole(&provider, "", json!({"tools": tools(), "messages": messages})).await;
    assert_eq!(reply["message"]["content"], "The tool answered: rain");

    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    assert_eq!(whole(&provider, "x", json!({"format": schema})).await["message"]["content"], r#"{"n":1}"#);
    let reply = whole(&provider, "Count to 3.", json!({"format": "json"})).await;
    assert_eq!(reply["message"]["content"], r#"{"answer":"1, 2, 3"}"#);
    let reply = whole(&provider, "Count to 3.", json!({"options": {"num_predict": 2}})).await;
    assert_eq!((&reply["message"]["content"], &reply["done_reason"]), (&json!("1, 2,"), &json!("length")));
    let reply = whole(&provider, "Count to 3.", json!({"options": {"stop": ["2"], "num_predict": -1}})).await;
    assert_eq!((&reply["message"]["content"], &reply["done_reason"]), (&json!("1, "), &json!("stop")));
}

#[tokio::test]
async fn what_is_refused() {
    let provider = provider().await;
    let of = |message: Value| json!({"messages": [message]});
    let cases = [
        (json!({"model": "nope"}), 404, "model 'nope' not found"),
        (json!({"model": ""}), 400, "model is required"),
        (json!({"model": 7}), 400, "json: cannot unmarshal value into Go struct field .model of type string"),
        (json!({"stream": 1}), 400, "json: cannot unmarshal value into Go struct field .stream of type boolean"),
        (json!({"messages": "x"}), 400, "json: cannot unmarshal"),
        (json!({"options": 7}), 400, "json: cannot unmarshal"),
        (json!({"options": {"num_ctx": "x"}}), 400, "json: cannot unmarshal"),
        (json!({"options": {"num_predict": "x"}}), 400, "json: cannot unmarshal"),
        (json!({"options": {"temperature": "x"}}), 400, "option \"temperature\" must be of type float32"),
        (json!({"options": {"stop": "x"}}), 400, "option \"stop\" must be of type array"),
        (json!({"think": "deeply"}), 400, "invalid think value"),
        (json!({"format": "xml"}), 400, "invalid format"),
        (json!({"truncate": 1}), 400, "json: cannot unmarshal"),
        (of(json!({"role": "developer", "content": "x"})), 400, "invalid role: \"developer\""),
        (of(json!({"role": "user", "content": [{"type": "text", "text": "x"}]})), 400, "json: cannot unmarshal"),
        (of(json!({"role": "user", "content": "x", "images": ["data:,x"]})), 400, "illegal base64 data"),
        (
            of(json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]})),
            400,
            "json: cannot unmarshal",
        ),
        (json!({"truncate": false, "options": {"num_ctx": 2}}), 400, "the input length exceeds the context length"),
    ];
    for (patch, status, message) in cases {
        let reply = post(&provider, "/api/chat", "", &body("Count to 3.", patch)).await;
        assert_eq!(reply.status(), status, "{message}");
        let reply: Value = reply.json().await.unwrap();
        assert_eq!(reply.as_object().unwrap().len(), 1);
        assert!(reply["error"].as_str().unwrap().starts_with(message), "{reply}");
    }
    let reply = post(&provider, "/api/show", "", &json!({"model": "nope"})).await;
    assert_eq!(
        (reply.status().as_u16(), reply.text().await.unwrap().as_str()),
        (404, r#"{"error":"model 'nope' not found"}"#)
    );
}

#[tokio::test]
async fn a_long_prompt_is_cut_in_silence_and_the_context_stays_loaded() {
    let provider = provider().await;
    assert_eq!(get(&provider, "/api/ps").await, json!({"models": []}));
    let reply = whole(&provider, "Count to 3.", json!({"options": {"num_ctx": 2}})).await;
    assert_eq!(reply["prompt_eval_count"], 2);
    let running = get(&provider, "/api/ps").await;
    assert_eq!(running["models"][0]["name"], "llama3.2:latest");
    assert_eq!(running["models"][0]["context_length"], 2);
    // Loading without a prompt, as a gateway does to learn the context.
    let load = json!({"model": "llama3.1", "stream": false});
    let loaded: Value = post(&provider, "/api/generate", "", &load).await.json().await.unwrap();
    assert_eq!((&loaded["done_reason"], &loaded["response"]), (&json!("load"), &json!("")));
    let running = get(&provider, "/api/ps").await;
    assert_eq!(running["models"][0]["context_length"], 131_072);
}

#[tokio::test]
async fn the_other_questions() {
    let provider = provider().await;
    let show: Value = post(&provider, "/api/show", "", &json!({"model": "llama3.2"})).await.json().await.unwrap();
    assert_eq!(show["model_info"]["llama.context_length"], 131_072);
    assert_eq!(show["model_info"]["general.architecture"], "llama");
    assert!(show["capabilities"].as_array().unwrap().contains(&json!("tools")));
    assert!(get(&provider, "/api/version").await["version"].is_string());
    let tags = get(&provider, "/api/tags").await;
    assert!(tags["models"].as_array().unwrap().iter().any(|model| model["name"] == "llama-3-70b:latest"));
    let prompt = json!({"model": "llama3.2", "prompt": "Count to 3.", "system": "Short.", "stream": false});
    let said: Value = post(&provider, "/api/generate", "", &prompt).await.json().await.unwrap();
    assert_eq!((&said["response"], &said["done"]), (&json!("1, 2, 3"), &json!(true)));
    let input = json!({"model": "llama3.2", "input": ["a", "b"]});
    let vectors: Value = post(&provider, "/api/embed", "", &input).await.json().await.unwrap();
    assert_eq!(vectors["embeddings"][1].as_array().unwrap().len(), 768);
    let empty = json!({"model": "llama3.2", "input": ""});
    let vectors: Value = post(&provider, "/api/embed", "", &empty).await.json().await.unwrap();
    assert_eq!(vectors["embeddings"], json!([]));
    let reply = post(&provider, "/api/nowhere", "", &json!({})).await;
    assert_eq!(reply.json::<Value>().await.unwrap()["error"]["type"], "invalid_request_error");
}

#[tokio::test]
async fn faults_have_ollama_shapes() {
    let provider = provider().await;
    let chat = body("Count to 3.", json!({}));
    let reply = post(&provider, "/api/chat", "503,retry-after=1", &chat).await;
    assert_eq!((reply.status().as_u16(), reply.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    assert!(reply.json::<Value>().await.unwrap()["error"].as_str().unwrap().starts_with("server busy"));
    let by_name = body("x", json!({"model": "llama3.2@500"}));
    assert_eq!(post(&provider, "/api/chat", "", &by_name).await.status(), 500);
    let got = lines(&post(&provider, "/api/chat", "error=2", &chat).await.text().await.unwrap());
    assert_eq!((got.len(), got[2].get("error").is_some()), (3, true));
    let got = lines(&post(&provider, "/api/chat", "no-done", &chat).await.text().await.unwrap());
    assert_eq!((got.len(), got.iter().any(|line| line["done"] == true)), (3, false));
    let text = post(&provider, "/api/chat", "crlf,split=3", &chat).await.text().await.unwrap();
    assert_eq!(text.matches("\r\n").count(), 4);
    assert!(post(&provider, "/api/chat", "cut=2", &chat).await.text().await.is_err());
    let url = format!("http://{}/api/ps", provider.addr());
    let reply = Client::new().get(url).header("x-simulate", "503").send().await.unwrap();
    assert!(reply.json::<Value>().await.unwrap()["error"].is_string());
}
