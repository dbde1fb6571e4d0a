use std::sync::atomic::AtomicUsize;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::config::{Config, Source};

/// The provider `ollama` at this address.
fn provider(base_url: &str) -> Provider {
    let url = base_url.to_owned();
    let env = move |name: &str| (name == "OLLAMA_BASE_URL").then(|| url.clone());
    let loaded = Config::load(&Source { file: None, env: Arc::new(env), simulate: false }).expect("a configuration");
    Provider::clone(&loaded.config.providers["ollama"])
}

/// An Ollama of which each connection gets this answer, and how often it was asked.
async fn ollama(answer: &'static str) -> (Provider, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let provider = provider(&format!("http://{}", listener.local_addr().unwrap()));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 4096]).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
            let _ = stream.write_all(head.as_bytes()).await;
        }
    });
    (provider, asked)
}

const NUM_CTX: &str = r#"{"parameters":"num_ctx 4096"}"#;

#[tokio::test]
async fn an_answer_serves_for_a_minute() {
    let (provider, asked) = ollama(NUM_CTX).await;
    let known = ContextLengths::new(Arc::new(Capacity::new(None)));
    let lengths = Some(Lengths { running: Some(4096), maximum: None });
    for _ in 0..3 {
        assert_eq!(known.lengths(&provider, "m", Effort::Ask).await, lengths);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(known.lengths(&provider, "other", Effort::Ask).await, lengths);
    assert_eq!(asked.load(Ordering::SeqCst), 2);

    tokio::time::pause();
    tokio::time::advance(FRESH).await;
    tokio::time::resume();
    assert_eq!(known.lengths(&provider, "m", Effort::Ask).await, lengths);
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn many_at_once_ask_once() {
    let (provider, asked) = ollama(NUM_CTX).await;
    let known = ContextLengths::new(Arc::new(Capacity::new(None)));
    let all = (0..32).map(|_| known.lengths(&provider, "m", Effort::Load { for_embeddings: false }));
    let answers = futures::future::join_all(all).await;
    assert!(answers.iter().all(|a| a.is_some_and(|lengths| lengths.running == Some(4096))));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn no_answer_is_remembered_for_a_shorter_time() {
    let (provider, asked) = ollama("what?").await;
    let known = ContextLengths::new(Arc::new(Capacity::new(None)));
    for _ in 0..3 {
        assert_eq!(known.lengths(&provider, "m", Effort::Ask).await, None);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    tokio::time::pause();
    tokio::time::advance(SILENCE).await;
    tokio::time::resume();
    assert_eq!(known.lengths(&provider, "m", Effort::Ask).await, None);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn an_ollama_that_accepts_and_says_nothing_costs_five_seconds() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let provider = provider(&format!("http://{}", listener.local_addr().unwrap()));
    let begun = Instant::now();
    assert_eq!(ContextLengths::new(Arc::new(Capacity::new(None))).lengths(&provider, "m", Effort::Ask).await, None);
    assert_eq!(begun.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn tls_is_not_asked() {
    let provider = provider("https://ollama.invalid");
    assert_eq!(ContextLengths::new(Arc::new(Capacity::new(None))).lengths(&provider, "m", Effort::Ask).await, None);
}

#[tokio::test]
async fn memory_is_bounded_and_keeps_what_is_in_use() {
    let (provider, known) = (provider("http://127.0.0.1:1"), ContextLengths::new(Arc::new(Capacity::new(None))));
    let used = known.slot(&provider, "used");
    for n in 0..3 * REMEMBERED {
        known.slot(&provider, &n.to_string());
    }
    assert!(known.slots.lock().len() <= REMEMBERED);
    assert!(Arc::ptr_eq(&used, &known.slot(&provider, "used")));
}

#[test]
fn the_refusal_says_what_to_do() {
    let raise = refusal("llama3.2", 9000, Some(500), 4096, Some(131_072));
    for part in ["9000", "500", "'llama3.2'", "4096", "131072", "OLLAMA_CONTEXT_LENGTH", "num_ctx"] {
        assert!(raise.contains(part), "{part} in {raise}");
    }
    let at_its_maximum = refusal("m", 9000, None, 2048, Some(2048));
    assert!(at_its_maximum.contains("maximum") && !at_its_maximum.contains("num_ctx"), "{at_its_maximum}");
    assert!(refusal("m", 9000, None, 2048, None).contains("num_ctx"));
}
