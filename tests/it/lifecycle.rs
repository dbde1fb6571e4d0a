//! Life of the process: ready at once, configuration swapped whole or not at all, no request lost at the end.

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{Answer, Fake, Gateway, Process, Step, chat, fake::send, free_port, gateway::providers, raw};

fn config(folder: &Path, port: u16, upstream: SocketAddr, grace: &str) -> String {
    let text = format!(
        "listen: [{{address: 127.0.0.1:{port}}}]\nadmin: off\nserver: {{threads: 1, shutdown_grace: {grace}, lame_duck: 0s, upgrade_socket: {}}}\n{}",
        folder.join("upgrade/socket").display(),
        providers(&[("openai", upstream)])
    );
    let file = folder.join("can.yaml");
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

async fn ask(port: u16) -> Result<u16, reqwest::Error> {
    let url = format!("http://127.0.0.1:{port}/v1/chat/completions");
    let reply = reqwest::Client::new().post(url).body(chat("gpt-4o", "")).send().await?;
    let status = reply.status().as_u16();
    reply.bytes().await?;
    Ok(status)
}

fn slow_stream(events: usize, gap: Duration) -> Answer {
    let event = send("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"finish_reason\":null}]}\n\n");
    let mut steps: Vec<_> = (0..events).flat_map(|_| [event.clone(), Step::Wait(gap)]).collect();
    steps.push(send("data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"));
    Answer::stream(steps)
}

async fn stream_to_its_end(port: u16) -> String {
    let url = format!("http://127.0.0.1:{port}/v1/chat/completions");
    let reply = reqwest::Client::new().post(url).body(chat("gpt-4o", r#","stream":true"#)).send().await.unwrap();
    reply.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_at_once_and_ends_at_once_when_idle() {
    let fake = Fake::always(Answer::completion()).await;
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let file = config(folder.path(), port, fake.address, "30s");
    let begun = Instant::now();
    let mut process = Process::start(&["serve", "--config", &file]);
    process.until("ready");
    let took = begun.elapsed();
    println!("ready after {took:?} (debug build)");
    // The release build has 200 ms; the test runs the debug build beside other tests.
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(ask(port).await.unwrap(), 200);
    let told = Instant::now();
    process.signal(Signal::SIGTERM);
    let status = process.ended_within(Duration::from_secs(5)).expect("an idle gateway ends long before its grace");
    assert!(status.success(), "{status}");
    println!("ended {:?} after SIGTERM", told.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_a_stream_finish_and_refuses_new_connections() {
    let fake = Fake::always(slow_stream(15, Duration::from_millis(100))).await;
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let file = config(folder.path(), port, fake.address, "30s");
    let mut process = Process::start(&["serve", "--config", &file]);
    process.until("ready");
    let stream = tokio::spawn(stream_to_its_end(port));
    while fake.count() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process.signal(Signal::SIGTERM);
    let mut refused = false;
    for _ in 0..100 {
        if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            refused = true;
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(refused, "new connections are still accepted a second after SIGTERM");
    let text = stream.await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "the stream was cut: {text}");
    assert!(process.ended_within(Duration::from_secs(3)).expect("it ends once idle").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_an_error_not_a_silent_process() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let fake = Fake::always(Answer::completion()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = config(folder.path(), taken.local_addr().unwrap().port(), fake.address, "1s");
    let mut process = Process::start(&["serve", "--config", &file]);
    process.until("cannot listen on 127.0.0.1:");
    let status = process.ended_within(Duration::from_secs(5)).expect("it gives up");
    assert_eq!(status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigquit_hands_the_sockets_over_without_a_failed_request() {
    let fake = Fake::start(|seen, _| match seen.json()["stream"] == true {
        true => slow_stream(30, Duration::from_millis(100)),
        false => Answer::completion(),
    })
    .await;
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let file = config(folder.path(), port, fake.address, "30s");
    let mut old = Process::start(&["serve", "--config", &file]);
    old.until("ready");
    let stream = tokio::spawn(stream_to_its_end(port));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load = {
        let stop = stop.clone();
        tokio::spawn(async move {
            let (mut good, mut bad) = (0, Vec::new());
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                match ask(port).await {
                    Ok(200) => good += 1,
                    other => bad.push(format!("{other:?}")),
                }
            }
            (good, bad)
        })
    };
    while fake.count() < 10 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let new = Process::start(&["serve", "--config", &file, "--upgrade"]);
    old.signal(Signal::SIGQUIT);
    new.until("ready");
    let status = old.ended_within(Duration::from_secs(20)).expect("the old process ends");
    assert!(status.success());
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (good, bad) = load.await.unwrap();
    println!("{good} requests during the upgrade, {} failed", bad.len());
    assert!(bad.is_empty(), "{bad:?}");
    assert!(good > 50, "{good}");
    assert!(stream.await.unwrap().ends_with("data: [DONE]\n\n"), "the stream was cut");
    assert_eq!(ask(port).await.unwrap(), 200, "the new process serves");
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_and_a_changed_file_reload_and_a_bad_file_changes_nothing() {
    let one = Fake::always(Answer::completion()).await;
    let two = Fake::always(Answer::completion()).await;
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let file = config(folder.path(), port, one.address, "1s");
    let process = Process::start(&["serve", "--config", &file]);
    process.until("ready");
    assert_eq!(ask(port).await.unwrap(), 200);
    assert_eq!((one.count(), two.count()), (1, 0));

    config(folder.path(), port, two.address, "1s");
    process.until("configuration reloaded");
    assert_eq!(ask(port).await.unwrap(), 200);
    assert_eq!((one.count(), two.count()), (1, 1));

    std::fs::write(&file, "providers: {openai: {preset: nonsense}}\nroutes: 7\n").unwrap();
    let line = process.until("configuration refused");
    assert!(line.contains("nonsense") || line.contains("providers.openai.preset"), "{line}");
    assert_eq!(ask(port).await.unwrap(), 200);
    assert_eq!((one.count(), two.count()), (1, 2), "the old configuration stays");

    config(folder.path(), port, one.address, "1s");
    process.until("configuration reloaded");
    process.signal(Signal::SIGHUP);
    process.until("configuration reloaded");
    assert_eq!(ask(port).await.unwrap(), 200);
    assert_eq!((one.count(), two.count()), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_in_the_log_at_any_level() {
    let fake = Fake::start(|_, number| match number {
        0 => Answer::completion(),
        1 => Answer::json(
            401,
            r#"{"error":{"message":"Incorrect API key provided: sk-gateway","type":"t","param":null,"code":"c"}}"#,
        ),
        _ => Answer { headers: vec![], ..Answer::stream(vec![Step::Cut]) },
    })
    .await;
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let file = config(folder.path(), port, fake.address, "1s");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("mapped", "auto") + "log: {level: trace}\n";
    std::fs::write(&file, text).unwrap();
    let mut process = Process::start(&["serve", "--config", &file]);
    process.until("ready");
    let client = reqwest::Client::new();
    let url = format!("http://127.0.0.1:{port}/v1/chat/completions");
    for key in ["anything", "anything", "anything", "sk-clients-own"] {
        let request = client.post(&url).bearer_auth(key).body(chat("gpt-4o", ""));
        let text = request.send().await.unwrap().text().await.unwrap();
        assert!(!text.contains("sk-gateway") || key == "sk-clients-own", "{text}");
    }
    assert_eq!(fake.seen()[0].header("authorization"), Some("Bearer sk-gateway"));
    assert_eq!(fake.last().header("authorization"), Some("Bearer sk-clients-own"));
    process.signal(Signal::SIGTERM);
    process.ended_within(Duration::from_secs(5)).expect("it ends");
    let log: Vec<String> = process.lines.iter().collect();
    assert!(log.iter().any(|line| line.contains("chittycan::access")), "{log:?}");
    for line in &log {
        assert!(!line.contains("sk-gateway") && !line.contains("sk-clients-own"), "{line}");
    }
}

/// A pipe holds 64 KiB; the lines of these requests have more.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_holds_up_no_request() {
    const REQUESTS: usize = 600;
    let fake = Fake::always(Answer::completion()).await;
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let file = config(folder.path(), port, fake.address, "1s");
    struct Killed(Child);
    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_can"));
    command.args(["serve", "--config", &file]).env_clear().stderr(Stdio::piped());
    let mut process = Killed(command.spawn().unwrap());
    let mut log = BufReader::new(process.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "it ends before it is ready");
    }
    let client = reqwest::Client::new();
    let url = format!("http://127.0.0.1:{port}/v1/chat/completions");
    for number in 0..REQUESTS {
        let request = client.post(&url).bearer_auth("k").body(chat("gpt-4o", "")).timeout(Duration::from_secs(10));
        let status = request.send().await.map(|reply| reply.status().as_u16());
        assert_eq!(status.unwrap(), 200, "request {number}");
    }
    kill(Pid::from_raw(i32::try_from(process.0.id()).unwrap()), Signal::SIGTERM).unwrap();
    // Read again, it has a line for each of them.
    let text: Vec<String> = log.lines().map_while(Result::ok).collect();
    let lines = text.iter().filter(|line| line.contains("chittycan::access: id=req_")).count();
    assert_eq!((lines, text.join("").len() > 1 << 16), (REQUESTS, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_under_load_fails_no_request_and_is_counted() {
    let one = Fake::always(Answer::completion()).await;
    let two = Fake::always(Answer::completion()).await;
    let gateway = Gateway::over(one.address);
    let client = reqwest::Client::new();
    for round in 0..20 {
        let text = std::fs::read_to_string(&gateway.file).unwrap();
        let (from, to) = if round % 2 == 0 { (one.address, two.address) } else { (two.address, one.address) };
        std::fs::write(&gateway.file, text.replace(&from.to_string(), &to.to_string())).unwrap();
        let asked = client.post(gateway.url("/v1/chat/completions")).body(chat("gpt-4o", "")).send();
        let reload = async { gateway.reloader.reload() };
        let (reply, reloaded) = tokio::join!(asked, reload);
        reloaded.unwrap();
        assert_eq!(reply.unwrap().status().as_u16(), 200);
    }
    assert_eq!(one.count() + two.count(), 20);
    std::fs::write(&gateway.file, "routes: 7").unwrap();
    assert!(gateway.reloader.reload().is_err());
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("can_config_reloads_total{outcome=\"applied\"} 20"), "{metrics}");
    assert!(metrics.contains("can_config_reloads_total{outcome=\"refused\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_tells_health_readiness_and_metrics() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::over(fake.address);
    let get = async |path: &str| reqwest::get(format!("http://{}{path}", gateway.admin)).await.unwrap();
    assert_eq!(get("/healthz").await.status().as_u16(), 200);
    let ready = get("/readyz").await;
    assert_eq!(ready.status().as_u16(), 200);
    assert_eq!(ready.json::<serde_json::Value>().await.unwrap()["status"], "ready");
    assert_eq!(get("/v1/models").await.status().as_u16(), 404);
    let client = reqwest::Client::new();
    let body = chat("gpt-4o", "");
    client.post(gateway.url("/v1/chat/completions")).body(body).send().await.unwrap().bytes().await.unwrap();
    for line in [
        "can_requests_total{endpoint=\"chat_completions\",model=\"gpt-4o\",provider=\"openai\",status=\"200\"} 1",
        "can_upstream_attempts_total{outcome=\"200\",provider=\"openai\"} 1",
        "can_request_duration_seconds_count{endpoint=\"chat_completions\",provider=\"openai\"} 1",
        "can_time_to_first_byte_seconds_count{endpoint=\"chat_completions\",provider=\"openai\"} 1",
        "can_requests_in_flight 0",
    ] {
        gateway.metrics_with(line).await;
    }
    gateway.terminate();
    let begun = Instant::now();
    while !gateway.is_idle() {
        assert!(begun.elapsed() < Duration::from_secs(3), "not idle after 3 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn before_it_goes_it_says_so() {
    let fake = Fake::always(Answer::completion()).await;
    let (folder, port, admin) = (tempfile::tempdir().unwrap(), free_port(), free_port());
    let file = config(folder.path(), port, fake.address, "5s");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("lame_duck: 0s", "lame_duck: 1500ms");
    std::fs::write(&file, text.replace("admin: off", &format!("admin: {{address: 127.0.0.1:{admin}}}"))).unwrap();
    let mut process = Process::start(&["serve", "--config", &file]);
    process.until("ready");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut kept = raw::Client::connect(address).await;
    let body = chat("gpt-4o", "");
    kept.post("/v1/chat/completions", "", body.as_bytes()).await;
    let reply = kept.reply().await.unwrap();
    assert_ne!(reply.header("connection"), Some("close"), "{}", reply.head);
    process.signal(Signal::SIGTERM);
    let readyz = || async { reqwest::get(format!("http://127.0.0.1:{admin}/readyz")).await.unwrap().status().as_u16() };
    let begun = Instant::now();
    while readyz().await != 503 {
        assert!(begun.elapsed() < Duration::from_secs(1), "still ready");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A connection that was kept, and a new one: both are served, and both are told.
    for mut client in [kept, raw::Client::connect(address).await] {
        client.post("/v1/chat/completions", "", body.as_bytes()).await;
        let reply = client.reply().await.expect("it is served");
        assert_eq!((reply.status, reply.header("connection")), (200, Some("close")), "{}", reply.head);
        assert!(client.closes_within(Duration::from_secs(1)).await);
    }
    assert!(begun.elapsed() < Duration::from_millis(1500), "the test was too slow to see it");
    assert!(process.ended_within(Duration::from_secs(5)).expect("it ends").success());
    assert!(begun.elapsed() >= Duration::from_millis(1400), "it went after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_keeps_the_connections_that_were_announced_as_kept() {
    let fake = Fake::always(Answer::completion()).await;
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let file = config(folder.path(), port, fake.address, "30s");
    let mut old = Process::start(&["serve", "--config", &file]);
    old.until("ready");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let body = chat("gpt-4o", "");
    let mut idle = raw::Client::connect(address).await;
    idle.post("/v1/chat/completions", "", body.as_bytes()).await;
    assert_eq!(idle.reply().await.unwrap().status, 200);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load = (0..8).map(|_| {
        let (stop, client) = (stop.clone(), reqwest::Client::new());
        tokio::spawn(async move {
            let (mut good, mut bad) = (0, Vec::new());
            let url = format!("http://127.0.0.1:{port}/v1/chat/completions");
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                match client.post(&url).body(chat("gpt-4o", "")).send().await {
                    Ok(reply) if reply.status() == 200 => good += usize::from(reply.bytes().await.is_ok()),
                    other => bad.push(format!("{other:?}")),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            (good, bad)
        })
    });
    let load: Vec<_> = load.collect();
    let new = Process::start(&["serve", "--config", &file, "--upgrade"]);
    old.signal(Signal::SIGQUIT);
    new.until("ready");
    // Pingora closes the old listeners 5 s after it gave them away.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(old.child.try_wait().unwrap().is_none(), "a connection is kept");
    idle.post("/v1/chat/completions", "", body.as_bytes()).await;
    let reply = idle.reply().await.expect("the connection is kept");
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")), "{}", reply.head);
    let status = old.ended_within(Duration::from_secs(25)).expect("the old process ends");
    assert!(status.success());
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut all = 0;
    for client in load {
        let (good, bad) = client.await.unwrap();
        assert!(bad.is_empty(), "{bad:?}");
        all += good;
    }
    println!("{all} requests on kept connections during the upgrade, none failed");
    assert!(all > 500, "{all}");
}
