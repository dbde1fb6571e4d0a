//! Who may spend the money of a database, and by which configuration: one gateway owns a database, and a configuration file
//! that was cut off is refused.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chittycan::{
    config::{Config, Source},
    server::Server,
};
use nix::sys::signal::Signal;

use crate::support::{Answer, Fake, Gateway, Process, chat, free_port, gateway::providers};

/// A gateway over this provider whose database has this name in the folder; returns its file.
fn configure(folder: &Path, name: &str, port: u16, admin: u16, upstream: SocketAddr, more: &str) -> String {
    let text = format!(
        "listen: [{{address: 127.0.0.1:{port}}}]\nadmin: {{address: 127.0.0.1:{admin}}}\n\
         server: {{threads: 1, shutdown_grace: 30s}}\ndatabase: {{path: {name}}}\n{}{more}",
        providers(&[("openai", upstream)])
    );
    let file = folder.join(format!("can-{port}.yaml"));
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

/// Runs a command that ends; whether it succeeded, and what it said.
fn run(args: &[&str]) -> (bool, String) {
    let output = Command::new("timeout").arg("20").arg(env!("CARGO_BIN_EXE_can")).args(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// The part of `can_ledger_up` once it is what is expected.
async fn ledger_up(admin: u16, up: u8) -> String {
    let begun = Instant::now();
    loop {
        let text = reqwest::get(format!("http://127.0.0.1:{admin}/metrics")).await.unwrap().text().await.unwrap();
        if text.contains(&format!("can_ledger_up{{part=\"database\"}} {up}")) {
            return text;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_gateway_on_a_database_is_refused_and_told_who_has_it() {
    let fake = Fake::always(Answer::completion()).await;
    let folder = tempfile::tempdir().unwrap();
    let (port, admin, other) = (free_port(), free_port(), free_port());
    let file = configure(folder.path(), "can.db", port, admin, fake.address, "");
    let mut first = Process::start(&["serve", "--config", &file]);
    first.until("ready");

    symlink(folder.path().join("can.db"), folder.path().join("link.db")).unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    for name in ["can.db", "link.db", "sub/../can.db"] {
        for database in [name.to_owned(), format!("{name}, on_failure: refuse")] {
            let second = configure(folder.path(), &database, other, free_port(), fake.address, "");
            let (ok, said) = run(&["serve", "--config", &second]);
            let holder = format!("belongs to another running gateway (process {} on host `", first.child.id());
            assert!(!ok && said.contains(&holder), "{name}: {said}");
            assert!(said.contains(&format!("listening on 127.0.0.1:{port}, 127.0.0.1:{admin})")), "{said}");
            assert!(said.contains("`database.path`") && said.contains("--upgrade"), "{said}");
        }
    }
    std::fs::hard_link(folder.path().join("can.db"), folder.path().join("hard.db")).unwrap();
    let second = configure(folder.path(), "hard.db", other, free_port(), fake.address, "");
    let (ok, said) = run(&["serve", "--config", &second]);
    assert!(!ok && said.contains("has 2 names (hard links)"), "{said}");
    std::fs::remove_file(folder.path().join("hard.db")).unwrap();

    // Commands work beside it.
    let (ok, said) = run(&["auth", "token", "create", "--tenant", "default", "--config", &file]);
    assert!(ok, "{said}");
    let (ok, said) = run(&["cache", "stats", "--config", &file]);
    assert!(ok, "{said}");

    // A process that is killed owns nothing.
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let begun = Instant::now();
    let second = configure(folder.path(), "link.db", other, free_port(), fake.address, "");
    let second = Process::start(&["serve", "--config", &second]);
    second.until("ready");
    println!("ready {:?} after the owner was killed", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_in_one_process_exclude_each_other_too() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::over(fake.address);
    let source = Source { file: Some(gateway.file.clone()), env: Arc::new(|_| None), simulate: false };
    let config = Config::load(&source).unwrap().config;
    let error = Server::compose(config, false).err().expect("refused").to_string();
    assert!(error.contains(&format!("(process {} on host", std::process::id())), "{error}");
    assert!(error.contains(&gateway.addresses[0].to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_database_comes_late_writes_only_once_it_owns_it() {
    let fake = Fake::always(Answer::completion()).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    let late = (free_port(), free_port());
    let file = configure(folder.path(), "mount/can.db", late.0, late.1, fake.address, "");
    let late_one = Process::start(&["serve", "--config", &file]);
    late_one.until("ready");
    ledger_up(late.1, 0).await;
    let owner = (free_port(), free_port());
    let file = configure(folder.path(), "data/can.db", owner.0, owner.1, fake.address, "");
    let mut owning = Process::start(&["serve", "--config", &file]);
    owning.until("ready");

    // What is mounted then is another gateway's database.
    symlink("data", folder.path().join("mount")).unwrap();
    let line = late_one.until("its file has another owner");
    assert!(line.contains(&format!("process {} on host", owning.child.id())), "{line}");
    let ask = async |port: u16| {
        let url = format!("http://127.0.0.1:{port}/v1/chat/completions");
        reqwest::Client::new().post(url).body(chat("gpt-4o", "")).send().await.unwrap().status().as_u16()
    };
    // Both would grant the same money, so `on_failure: serve` does not count here.
    assert_eq!((ask(late.0).await, ask(owner.0).await), (503, 200));
    let rows = || -> i64 {
        let connection = chittycan::store::sqlite::open_to_read(&folder.path().join("data/can.db")).unwrap();
        connection.query_row(crate::support::gateway::RECORDED, [], |row| row.get(0)).unwrap()
    };
    let begun = Instant::now();
    while rows() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the owner writes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    late_one.until("chittycan::access");
    let text = ledger_up(late.1, 0).await;
    assert!(
        text.contains("can_ledger_waiting_entries 1") && text.contains("can_ledger_up{part=\"journal\"} 0"),
        "{text}"
    );
    assert_eq!(rows(), 1);
    let segments = || std::fs::read_dir(folder.path().join("data/can.db-intents")).unwrap().count();
    assert_eq!(segments(), 1, "those of the owner");

    owning.child.kill().unwrap();
    owning.child.wait().unwrap();
    ledger_up(late.1, 1).await;
    assert_eq!(rows(), 2, "nothing was lost");
}

#[test]
fn what_lies_beside_the_database_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let intents = folder.path().join("can.db-intents");
    std::fs::create_dir(&intents).unwrap();
    std::fs::set_permissions(&intents, std::fs::Permissions::from_mode(0o777)).unwrap();
    let upstream = ([127, 0, 0, 1], 9).into();
    let file = configure(folder.path(), "can.db", free_port(), free_port(), upstream, "");
    // The widest mask that a shell may have.
    let binary = env!("CARGO_BIN_EXE_can");
    let script = format!("umask 0; exec {binary} serve --config {file}");
    let process = Process::run(Command::new("sh").args(["-c", &script]).env_clear());
    process.until("ready");
    let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&intents), 0o700);
    let mut files = 0;
    for name in ["can.db", "can.db-wal", "can.db-shm", "can.db-owner"] {
        assert_eq!(mode(&folder.path().join(name)), 0o600, "{name}");
    }
    for segment in std::fs::read_dir(&intents).unwrap() {
        assert_eq!(mode(&segment.unwrap().path()), 0o600);
        files += 1;
    }
    assert_eq!(files, 1);
}

/// What every reply of the provider costs: 9 prompt and 50 completion tokens of gpt-4o.
const REPLY: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o-2024-08-06","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":50,"total_tokens":59}}"#;

async fn status(port: u16, extra: &str) -> Result<u16, reqwest::Error> {
    let url = format!("http://127.0.0.1:{port}/v1/chat/completions");
    let reply = reqwest::Client::new().post(url).body(chat("gpt-4o", extra)).send().await?;
    let status = reply.status().as_u16();
    reply.bytes().await?;
    Ok(status)
}

/// One part of the budget of the tenant `default`, in US dollars.
async fn part(admin: u16, part: &str) -> f64 {
    let text = reqwest::get(format!("http://127.0.0.1:{admin}/metrics")).await.unwrap().text().await.unwrap();
    let line =
        text.lines().find(|line| line.starts_with("can_budget_usd{") && line.contains(&format!("part=\"{part}\"")));
    line.unwrap_or_else(|| panic!("{text}")).rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_under_load_spends_no_cent_past_a_hard_budget_and_loses_none() {
    // "slow" requests are answered while the old gateway drains.
    let fake = Fake::start(|seen, _| {
        let slow = seen.json()["user"] == "slow";
        let wait = Duration::from_millis(if slow { 9_000 } else { 20 });
        Answer { before: wait, ..Answer::json(200, REPLY) }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (port, old_admin, new_admin) = (free_port(), free_port(), free_port());
    let limit = 0.2;
    let budget = format!("tenants: {{default: {{budgets: [{{usd: {limit}}}]}}}}\n");
    let old_file = configure(folder.path(), "can.db", port, old_admin, fake.address, &budget);
    let mut old = Process::start(&["serve", "--config", &old_file]);
    old.until("ready");
    let slow: Vec<_> = (0..8).map(|_| tokio::spawn(status(port, r#","max_tokens":100,"user":"slow""#))).collect();
    while fake.count() < 8 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let reserved = part(old_admin, "reserved").await;
    assert!(reserved > 0.008, "{reserved}");

    let new_file = configure(folder.path(), "can.db", port, new_admin, fake.address, &budget);
    let new = Process::start(&["serve", "--config", &new_file, "--upgrade"]);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut seen = BTreeMap::<u16, usize>::new();
                while !stop.load(Ordering::Relaxed) {
                    *seen.entry(status(port, r#","max_tokens":100"#).await.unwrap()).or_default() += 1;
                }
                seen
            })
        })
        .collect();
    old.signal(Signal::SIGQUIT);
    old.until("handed over");
    new.until("ready");
    let (mut inherited, begun) = (0.0_f64, Instant::now());
    let ended = loop {
        let (spent, reserved) = (part(new_admin, "spent").await, part(new_admin, "reserved").await);
        inherited = inherited.max(reserved);
        // Two looks: what is settled between them counts in both.
        assert!(spent + reserved <= limit + 0.02, "{spent} spent, {reserved} reserved");
        if let Some(status) = old.ended_within(Duration::from_millis(50)) {
            break status;
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "the old gateway ends");
    };
    assert!(ended.success(), "{ended}");
    assert!(inherited >= 0.008, "the new one holds what is open in the old one: {inherited}");
    for slow in slow {
        assert_eq!(slow.await.unwrap().unwrap(), 200, "a request of the old gateway was cut");
    }
    // Until the money is gone.
    let begun = Instant::now();
    while status(port, r#","max_tokens":100"#).await.unwrap() != 402 {
        assert!(begun.elapsed() < Duration::from_secs(60), "it ends some time");
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let seen = client.await.unwrap();
        println!("{seen:?}");
        assert!(seen.keys().all(|status| [200, 402, 429].contains(status)), "{seen:?}");
    }
    let cost = 9.0 * 2.5e-6 + 50.0 * 1e-5;
    let begun = Instant::now();
    loop {
        let connection = chittycan::store::sqlite::open_to_read(&folder.path().join("can.db")).unwrap();
        let (sum, paid): (i64, usize) = connection
            .query_row("SELECT sum(cost), count(*) FROM entries WHERE cost > 0", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        let (bill, ledger) = (fake.count() as f64 * cost, sum as f64 / 1e9);
        assert!(bill <= limit && ledger <= limit, "{bill} billed, {ledger} in the ledger");
        if paid == fake.count() && (bill - ledger).abs() < 1e-9 && part(new_admin, "reserved").await == 0.0 {
            println!("{} requests, ${bill} of ${limit}", fake.count());
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{paid} of {} are paid, {ledger} of {bill}", fake.count());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_fails_changes_nothing() {
    let fake = Fake::always(Answer::json(200, REPLY)).await;
    let folder = tempfile::tempdir().unwrap();
    let (port, admin) = (free_port(), free_port());
    let budget = "tenants: {default: {budgets: [{usd: 0.04}]}}\n";
    let file = configure(folder.path(), "can.db", port, admin, fake.address, budget);
    let old = Process::start(&["serve", "--config", &file]);
    old.until("ready");

    // None comes.
    old.signal(Signal::SIGQUIT);
    let line = old.until("no upgrade: this gateway goes on serving");
    assert!(line.contains("no successor within 5 s"), "{line}");
    assert_eq!(status(port, r#","max_tokens":100"#).await.unwrap(), 200);

    // One that cannot start after it has got the reservations, and one on another database.
    std::fs::write(folder.path().join("prices.yaml"), "models: 5\n").unwrap();
    for (name, more, why) in [
        ("can.db", "prices: {file: prices.yaml}\n", "prices.yaml"),
        ("other.db, on_failure: refuse", "", "an upgrade keeps the database"),
    ] {
        let socket = folder.path().join("can.db-upgrade/socket");
        let text =
            std::fs::read_to_string(configure(folder.path(), name, free_port(), admin, fake.address, more)).unwrap();
        let text =
            text.replace("shutdown_grace: 30s", &format!("shutdown_grace: 30s, upgrade_socket: {}", socket.display()));
        let file = folder.path().join("new.yaml");
        std::fs::write(&file, text).unwrap();
        let mut new = Process::start(&["serve", "--config", &file.display().to_string(), "--upgrade"]);
        old.signal(Signal::SIGQUIT);
        new.until(why);
        assert_eq!(new.ended_within(Duration::from_secs(10)).expect("it gives up").code(), Some(1));
        old.until("no upgrade: this gateway goes on serving");
        let (ok, said) = run(&[
            "serve",
            "--config",
            &configure(folder.path(), "can.db", free_port(), free_port(), fake.address, ""),
        ]);
        assert!(!ok && said.contains(&format!("(process {} on host", old.child.id())), "{said}");
        // Its budget is whole again: a reservation of more than half of it fits (three attempts of 700 tokens, $0.021).
        assert_eq!(status(port, r#","max_tokens":700"#).await.unwrap(), 200);
    }

    // And one that is as it should be.
    let mut old = old;
    let new = Process::start(&["serve", "--config", &file, "--upgrade"]);
    old.signal(Signal::SIGQUIT);
    new.until("ready");
    assert!(old.ended_within(Duration::from_secs(20)).expect("it ends").success());
    assert_eq!(status(port, r#","max_tokens":100"#).await.unwrap(), 200);
    ledger_up(admin, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_takes_no_socket_and_no_open_folder_is_used() {
    use std::os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    };
    let fake = Fake::always(Answer::json(200, REPLY)).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (port, admin) = (free_port(), free_port());
    let file = configure(folder.path(), "can.db", port, admin, fake.address, "");
    let old = Process::start(&["serve", "--config", &file]);
    old.until("ready");
    let private = folder.path().join("can.db-upgrade");
    let refused = |why: &str| {
        let (ok, said) = run(&["serve", "--config", &file, "--upgrade"]);
        assert!(!ok && said.contains("server.upgrade_socket: the folder ") && said.contains(why), "{said}");
    };
    std::fs::create_dir(&private).unwrap();
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o750)).unwrap();
    refused("is open to other users (mode 0750): it must be 0700");
    old.signal(Signal::SIGQUIT);
    let line = old.until("no upgrade");
    assert!(line.contains("is open to other users"), "{line}");
    std::fs::remove_dir(&private).unwrap();
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::set_permissions(&elsewhere, std::fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&elsewhere, &private).unwrap();
    refused("is no folder of its own, but a link or a file");
    std::fs::remove_file(&private).unwrap();

    const NOBODY: u32 = 65534;
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("not root: nobody else can be played");
        return;
    }
    let as_nobody = |file: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_can"));
        Process::run(command.args(["serve", "--config", file, "--upgrade"]).env_clear().uid(NOBODY).gid(NOBODY))
    };
    // Another user's process cannot wait in the folder.
    std::fs::create_dir(&private).unwrap();
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut intruder = as_nobody(&file);
    intruder.until("belongs to user 0, not to this process's user 65534");
    assert!(!intruder.ended_within(Duration::from_secs(5)).expect("it gives up").success());

    // Its socket, slipped into the folder, is not spoken to.
    let theirs = folder.path().join("theirs");
    std::fs::create_dir(&theirs).unwrap();
    let file = configure(&theirs, "can.db", free_port(), free_port(), fake.address, "");
    chown(&theirs, Some(NOBODY), Some(NOBODY)).unwrap();
    let _intruder = as_nobody(&file);
    let (from, to) = (theirs.join("can.db-upgrade/socket"), private.join("socket"));
    let begun = Instant::now();
    while !std::fs::metadata(&from).is_ok_and(|facts| facts.mode() & 0o777 == 0o600) {
        assert!(begun.elapsed() < Duration::from_secs(10), "it waits there, at a socket of its user only");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::fs::rename(from, to).unwrap();
    old.signal(Signal::SIGQUIT);
    let line = old.until("no upgrade");
    assert!(line.contains("its process belongs to user 65534, not to this process's user 0"), "{line}");
    assert_eq!(status(port, "").await.unwrap(), 200, "the old one goes on");
}

const BUDGET: &str = "tenants: {default: {budgets: [{usd: 0.000001}]}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_file_turns_no_budget_off() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&(providers(&[("openai", fake.address)]) + BUDGET));
    let client = reqwest::Client::new();
    let ask = async || {
        let body = chat("gpt-4o", r#","max_tokens":1000"#);
        client.post(gateway.url("/v1/chat/completions")).body(body).send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask().await, 402);
    let whole = std::fs::read_to_string(&gateway.file).unwrap();
    let mut refused = 0;
    for text in ["", "\n", "# nothing\n", "null\n", "{}\n"] {
        std::fs::write(&gateway.file, text).unwrap();
        for outcome in [gateway.reloader.reload(), gateway.reloader.reload_changed()] {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains("is empty; "), "{text:?}: {error}");
            refused += 1;
        }
        assert_eq!(ask().await, 402, "{text:?}");
    }
    // Every prefix that is a configuration of its own is refused, unless somebody asks for it.
    let cut = whole.find("tenants:").unwrap();
    std::fs::write(&gateway.file, &whole[..cut]).unwrap();
    let error = gateway.reloader.reload_changed().unwrap_err().to_string();
    assert!(error.contains("is truncated: it has only the first"), "{error}");
    std::fs::write(&gateway.file, whole.trim_end()).unwrap();
    let error = gateway.reloader.reload_changed().unwrap_err().to_string();
    assert!(error.contains("is truncated: "), "{error}");
    std::fs::remove_file(&gateway.file).unwrap();
    assert!(gateway.reloader.reload_changed().unwrap_err().to_string().contains("cannot be read"));
    refused += 3;
    assert_eq!(ask().await, 402);
    gateway.metrics_with(&format!("can_config_reloads_total{{outcome=\"refused\"}} {refused}")).await;

    std::fs::write(&gateway.file, &whole[..cut]).unwrap();
    gateway.reloader.reload().unwrap();
    assert_eq!(ask().await, 200, "whoever asks for a shorter file gets it");
    std::fs::write(&gateway.file, &whole).unwrap();
    gateway.reloader.reload_changed().unwrap();
    assert_eq!(fake.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_cut_off_on_disk_waits_for_a_signal_and_an_empty_one_starts_nothing() {
    let fake = Fake::always(Answer::completion()).await;
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let file = folder.path().join("can.yaml");
    let whole = format!(
        "listen: [{{address: 127.0.0.1:{port}}}]\nadmin: off\n{}{BUDGET}",
        providers(&[("openai", fake.address)])
    );
    std::fs::write(&file, &whole).unwrap();
    let name = file.display().to_string();
    let process = Process::start(&["serve", "--config", &name]);
    process.until("ready");

    std::fs::write(&file, &whole[..whole.find("tenants:").unwrap()]).unwrap();
    let line = process.until("configuration refused");
    assert!(line.contains("is truncated"), "{line}");
    process.signal(Signal::SIGHUP);
    process.until("configuration reloaded");
    std::fs::write(&file, "").unwrap();
    let line = process.until("configuration refused");
    assert!(line.contains("is empty"), "{line}");
    process.signal(Signal::SIGHUP);
    process.until("configuration refused");
    std::fs::write(&file, &whole).unwrap();
    process.until("configuration reloaded");

    std::fs::write(&file, "# \n").unwrap();
    let mut start = Process::start(&["serve", "--config", &name]);
    start.until("is empty; ");
    assert_eq!(start.ended_within(Duration::from_secs(5)).expect("it gives up").code(), Some(1));
    let check = Command::new(env!("CARGO_BIN_EXE_can")).args(["check", &name]).output().unwrap();
    assert!(!check.status.success());
    assert!(String::from_utf8_lossy(&check.stdout).contains("is empty; "), "{check:?}");
}
