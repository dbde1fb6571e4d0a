//! Another deployment answers while nothing has reached the client.

use std::time::Duration;

use crate::support::{Answer, Fake, Gateway, Step, chat, fake::send, gateway::providers};

async fn ask(gateway: &Gateway) -> (u16, String, String) {
    let reply =
        reqwest::Client::new().post(gateway.url("/v1/chat/completions")).body(chat("gpt-4o", "")).send().await.unwrap();
    let header = |name: &str| reply.headers().get(name).map_or(String::new(), |v| v.to_str().unwrap().to_owned());
    let (status, provider, attempts) =
        (reply.status().as_u16(), header("x-chittycan-provider"), header("x-chittycan-attempts"));
    reply.bytes().await.expect("a whole body");
    (status, provider, attempts)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_failure_moves_on_to_the_next_deployment() {
    let cut = Answer {
        sized: false,
        steps: vec![send("{\"id\":"), Step::Wait(Duration::from_millis(20)), Step::Cut],
        ..Answer::completion()
    };
    let failures = [
        ("429", Answer::json(429, "{}")),
        ("500", Answer::json(500, "{}")),
        ("503", Answer::json(503, "{}")),
        ("529", Answer::json(529, "{}")),
        ("our key refused", Answer::json(401, "{}")),
        ("closed before the header", Answer { headers: vec![], ..Answer::stream(vec![Step::Cut]) }),
        ("JSON cut in the middle", cut),
        ("silent", Answer::completion().after(Duration::from_secs(30))),
    ];
    for (name, failure) in failures {
        let bad = Fake::always(failure).await;
        let good = Fake::always(Answer::completion()).await;
        let yaml = providers(&[("openai", bad.address), ("other", good.address)]).replacen(
            "mapped",
            "mapped, timeouts: {read: 300ms}",
            1,
        );
        let gateway = Gateway::start(&yaml);
        assert_eq!(ask(&gateway).await, (200, "other".into(), "2".into()), "{name}");
        assert_eq!((bad.count(), good.count()), (1, 1), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_moves_on_and_the_last_answer_is_passed_on() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let busy = Fake::always(
        Answer::json(429, r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#).header("retry-after", "3"),
    )
    .await;
    let gateway = Gateway::start(&providers(&[("openai", closed), ("second", closed), ("third", busy.address)]));
    assert_eq!(ask(&gateway).await, (429, "third".into(), "3".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_bounded() {
    let bad = Fake::always(Answer::json(500, "{}")).await;
    let list: Vec<_> = ["openai", "b", "c", "d", "e"].into_iter().map(|name| (name, bad.address)).collect();
    let gateway = Gateway::start(&format!("retry: {{attempts: 2}}\n{}", providers(&list)));
    assert_eq!(ask(&gateway).await, (500, "b".into(), "2".into()));
    assert_eq!(bad.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_fault_is_not_tried_elsewhere() {
    let strict = Fake::always(Answer::json(
        400,
        r#"{"error":{"message":"m","type":"invalid_request_error","param":null,"code":null}}"#,
    ))
    .await;
    let other = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&providers(&[("openai", strict.address), ("other", other.address)]));
    assert_eq!(ask(&gateway).await, (400, "openai".into(), "1".into()));
    assert_eq!(other.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_connection_that_the_provider_closed_costs_the_client_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    // Answers one request per connection, then closes it without saying so.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                let _ = stream.read(&mut buffer).await;
                let body = crate::support::COMPLETION;
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
                // Wait for the next request, then hang up on it.
                let _ = stream.read(&mut buffer).await;
            });
        }
    });
    let gateway = Gateway::over(address);
    for _ in 0..5 {
        assert_eq!(ask(&gateway).await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_answers_early_without_reading_does_not_hang_the_request() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}").await;
                tokio::time::sleep(Duration::from_secs(60)).await;
            });
        }
    });
    let good = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", address), ("other", good.address)]).replacen(
        "mapped",
        "mapped, timeouts: {write: 500ms}",
        1,
    );
    let gateway = Gateway::start(&yaml);
    let body = chat("gpt-4o", &format!(r#","user":"{}""#, "x".repeat(20 << 20)));
    let begun = std::time::Instant::now();
    let reply = reqwest::Client::new().post(gateway.url("/v1/chat/completions")).body(body).send().await.unwrap();
    assert_eq!((reply.status().as_u16(), &reply.headers()["x-chittycan-provider"]), (200, &"other".parse().unwrap()));
    assert!(begun.elapsed() < Duration::from_secs(10), "took {:?}", begun.elapsed());
}
