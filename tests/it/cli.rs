//! The commands that work on the database file, as a user runs them: in a folder of its own, with nothing else in the
//! environment.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use rusqlite::{Connection, params};
use serde_json::Value;

const DAY_MS: u64 = 86_400_000;

struct Desk {
    folder: tempfile::TempDir,
}

struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Desk {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("can.db")
    }

    fn configure(&self, yaml: &str) {
        std::fs::write(self.folder.path().join("can.yaml"), yaml).unwrap();
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_can"));
        command.env_clear().env("CAN_DATABASE", self.database()).current_dir(self.folder.path());
        command.args(line.split_whitespace());
        command
    }

    fn run(&self, line: &str) -> Said {
        let Output { status, stdout, stderr } = self.command(line).output().unwrap();
        Said {
            code: status.code(),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// Standard output of a command that must succeed.
    fn ok(&self, line: &str) -> String {
        let said = self.run(line);
        assert_eq!(said.code, Some(0), "{line}: {}", said.stderr);
        said.stdout
    }

    fn json(&self, line: &str) -> Value {
        let text = self.ok(line);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error} in {text}"))
    }

    /// Standard error of a command that must fail, and must say nothing else.
    fn refused(&self, line: &str) -> String {
        let said = self.run(line);
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{line}: {}", said.stderr);
        said.stderr
    }
}

fn is_secret(text: &str) -> bool {
    text.strip_prefix("chitty_").is_some_and(|rest| rest.len() == 43 && rest.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Whether a file of the database holds the text.
fn is_stored(folder: &Path, text: &str) -> bool {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    files.into_iter().any(|bytes| memchr::memmem::find(&bytes, text.as_bytes()).is_some())
}

#[test]
fn a_token_lives_from_create_to_revoke() {
    let desk = Desk::new();
    let made = desk.run("auth token create --scopes ai:read,ai:write --models gpt-4o,claude-* --expires 30d --rpm 60 --usd-per-minute 1.50");
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let secret = made.stdout.strip_suffix('\n').unwrap();
    assert!(is_secret(secret), "standard output is the secret and nothing else: {}", made.stdout);
    assert!(made.stderr.contains("of tenant default") && !made.stderr.contains(secret), "{}", made.stderr);
    assert!(made.stderr.contains("(auth.anonymous"), "the first token closes an open gateway: {}", made.stderr);

    let list = desk.json("auth token list --json");
    let first = &list[0];
    let id = first["id"].as_str().unwrap();
    assert_eq!(
        (&first["tenant"], &first["state"], &first["name"]),
        (&"default".into(), &"active".into(), &Value::Null)
    );
    assert_eq!(first["models"], serde_json::json!(["gpt-4o", "claude-*"]));
    assert_eq!(first["limits"], serde_json::json!({"requests_per_minute": 60, "usd_per_minute": "1.5"}));
    assert!(first["expires_at"].as_str().unwrap().ends_with('Z'), "{first}");

    let table = desk.ok("auth token list");
    assert!(table.starts_with("ID ") && table.lines().count() == 2 && table.contains(id), "{table}");
    assert!(table.contains(" UTC") && table.contains("ai:read,ai:write") && !table.contains("chitty_"), "{table}");

    let rotated = desk.json(&format!("auth token rotate {id} --overlap 1h --json"));
    let (next, next_secret) = (rotated["id"].as_str().unwrap(), rotated["secret"].as_str().unwrap());
    assert!(is_secret(next_secret) && next_secret != secret && next != id);
    assert_eq!((&rotated["replaces"], &rotated["models"]), (&first["id"], &first["models"]));
    let old = desk.json(&format!("auth token show {id} --json"));
    assert_eq!((&old["state"], &old["replaced_by"]), (&"active".into(), &rotated["id"]));

    assert!(desk.ok(&format!("auth token revoke {next}")).contains("is revoked"));
    assert!(desk.ok(&format!("auth token revoke {next}")).contains("was revoked already"));
    let shown = desk.ok(&format!("auth token show {next}"));
    assert!(shown.contains("state:       revoked\n") && shown.contains("revoked:     20"), "{shown}");
    assert!(desk.refused(&format!("auth token rotate {next}")).contains("is revoked; create a new one"));
    assert_eq!(desk.json("auth token list --tenant other --json"), serde_json::json!([]));

    let (list, table) = (desk.ok("auth token list --json"), desk.ok("auth token list"));
    for secret in [secret, next_secret] {
        assert!(!list.contains(secret) && !table.contains(secret));
        assert!(!is_stored(desk.folder.path(), secret), "the secret is in a file");
    }
}

#[test]
fn a_rotation_in_words_gives_the_secret_alone() {
    let desk = Desk::new();
    desk.ok("auth token create --name ci");
    let id = desk.json("auth token list --json")[0]["id"].as_str().unwrap().to_owned();
    let said = desk.run(&format!("auth token rotate {id} --overlap 0s"));
    assert!(is_secret(said.stdout.trim_end()) && said.stdout.lines().count() == 1, "{}", said.stdout);
    assert!(said.stderr.contains(&format!("takes the place of {id}, which has ended")), "{}", said.stderr);
    assert_eq!(desk.json(&format!("auth token show {id} --json"))["state"], "expired");
}

#[test]
fn what_cannot_be_is_refused_in_a_line() {
    let desk = Desk::new();
    assert!(desk.refused("auth token list").contains("CAN_DATABASE"));
    assert!(desk.refused("auth token revoke tok_1").contains("there is no database at"));
    assert!(!desk.database().exists(), "only making a token makes the file");
    desk.configure("tenants: {research: {}}\n");
    let unknown = desk.refused("auth token create --tenant reserch --config can.yaml");
    let expected = "no tenant is called `reserch`; did you mean `research`? To have it, add `reserch: {}` to `tenants` of can.yaml\n";
    assert_eq!(unknown, expected);
    assert!(!desk.database().exists());
    assert!(is_secret(desk.ok("auth token create --config can.yaml --tenant research").trim_end()));
    let second = desk.run("auth token create --config can.yaml");
    assert!(!second.stderr.contains("auth.anonymous"), "{}", second.stderr);
    assert!(desk.refused("auth token show tok_1").contains("no token has the id `tok_1`"));
    assert!(desk.refused("auth token create --expires 2020-01-01").contains("ended already"));
    desk.configure("htp: 1\n");
    assert_eq!(
        desk.refused("auth token list --config can.yaml"),
        "can.yaml:1: htp: unknown key; did you mean `http`?\n"
    );
    for usage in
        ["--scopes ai:everything", "--rpm 0", "--models a*b", "--expires soon", "--tenant a/b", "--usd-per-minute 0"]
    {
        let said = desk.run(&format!("auth token create {usage}"));
        assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{usage}: {}", said.stderr);
    }
    std::fs::write(desk.database(), "something else that is no database at all").unwrap();
    assert!(desk.refused("auth token list").contains("cannot be opened"));
}

#[test]
fn an_any_tenant_entry_allows_every_tenant() {
    let desk = Desk::new();
    desk.configure("tenants: {\"*\": {}}\nauth: {default_tenant: house}\n");
    desk.ok("auth token create --tenant anyone --config can.yaml");
    desk.ok("auth token create --config can.yaml");
    let list = desk.json("auth token list --json");
    let tenants: Vec<_> = list.as_array().unwrap().iter().map(|token| token["tenant"].as_str().unwrap()).collect();
    assert_eq!(tenants, ["anyone", "house"]);
}

/// An entry of a tenant that took `ms` and cost, or saved, so many hundredths of a dollar.
fn insert(connection: &Connection, n: u64, at: u64, tenant: &str, cache: &str, cents: u64, ms: u64) {
    let mut id = [0; 16];
    id[..6].copy_from_slice(&at.to_be_bytes()[2..]);
    id[8..].copy_from_slice(&n.to_be_bytes());
    let nano = cents * 10_000_000;
    let (cost, saved) = if matches!(cache, "HIT" | "STALE") { (0, nano) } else { (nano, 0) };
    connection
        .execute(
            "INSERT INTO entries VALUES (?1, ?2, 1, ?3, NULL, 'chat_completions', 'gpt-4o', 'openai', 'gpt-4o', 100, 0, 0, \
             10, 0, 0, 0, 0, ?4, ?5, 'provider', ?6, 200, 1, NULL, ?7)",
            params![id, at, tenant, cost, saved, cache, ms * 1_000],
        )
        .unwrap();
}

fn now() -> u64 {
    chittycan::types::unix_now()
}

#[test]
fn metrics_are_shown_of_an_empty_and_of_a_filled_database() {
    let desk = Desk::new();
    assert!(desk.refused("registry metrics show").contains("start the gateway once"));
    let connection = chittycan::store::sqlite::open(&desk.database()).unwrap();
    let empty = desk.ok("registry metrics show");
    assert!(
        empty.starts_with("┌─") && empty.contains("│ ChittyCan Proxy Metrics (Last 24h)                  │"),
        "{empty}"
    );
    assert!(empty.contains("│   P50:  -   ") && empty.contains("│ Total Requests:        0   "), "{empty}");
    assert_eq!(desk.json("registry metrics show --json")["latency_ms"], Value::Null);

    let now = now();
    for n in 0..100 {
        insert(&connection, n, now - 60_000 - n, "default", "MISS", 2, n + 1);
    }
    insert(&connection, 100, now - 60_000, "research", "HIT", 50, 1);
    // The gateway's connection stays open beside the commands.
    let text = desk.ok("registry metrics show --since 12h");
    for line in [
        "│ ChittyCan Proxy Metrics (Last 12h)                  │",
        "│ Total Requests:        101                          │",
        "│ Cache Hit Rate:        1.0%                         │",
        "│ Total Cost:            $2.00                        │",
        "│ Cost per Request:      $0.020 avg                   │",
        "│                        $0.000 cached                │",
        "│   P50:  50ms                                        │",
        "│   gpt-4o:              100% (101 requests)          │",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    assert!(text.contains("\nCost Savings: $0."), "{text}");
    let value = desk.json("registry metrics show --json --tenant default");
    assert_eq!((&value["requests"], &value["cost_usd"]), (&100.into(), &"2".into()));
    assert_eq!(value["latency_ms"], serde_json::json!({"p50": 50.0, "p95": 95.0, "p99": 99.0}));
    assert!(desk.run("registry metrics show --tenant nobody").stderr.contains("no tenant `nobody`"));
}

#[test]
fn costs_are_for_people_and_for_programs() {
    let desk = Desk::new();
    desk.configure(
        "tenants:\n  default: {budgets: [{usd: 100}]}\n  research: {parent: default, budgets: [{usd: 10, hard: false}]}\n  guest: {}\n",
    );
    let connection = chittycan::store::sqlite::open(&desk.database()).unwrap();
    let today = now() / DAY_MS * DAY_MS;
    insert(&connection, 1, today, "default", "MISS", 300, 5);
    insert(&connection, 2, today, "research", "MISS", 200, 5);
    insert(&connection, 3, today, "guest", "MISS", 700, 5);
    insert(&connection, 4, today, "research", "HIT", 40, 5);
    let rolled = "INSERT INTO days VALUES (?1, 'research', 'openai', 'gpt-4o', 5, 1, 50, 5, 1000000000, 0)";
    connection.execute(rolled, [today - 200 * DAY_MS]).unwrap();

    let text = desk.ok("registry analytics costs --since 2d --config can.yaml");
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("DAY  ") && lines.len() == 5, "{text}");
    assert!(
        lines[2].contains(" $12.00 ") && lines[2].ends_with("5.0%"),
        "the guest's spend is not in the budget: {text}"
    );
    assert!(lines[4].starts_with("This month: $5.00 of $100.00 (5.0%), projected $"), "{text}");
    assert!(lines[4].ends_with("(tenant default)"), "{text}");
    let research = desk.ok("registry analytics costs --since 2d --tenant research --config can.yaml");
    assert!(
        research.lines().last().unwrap().starts_with("This month: $2.00 of $10.00 (20.0%), projected $"),
        "{research}"
    );
    let guest = desk.ok("registry analytics costs --tenant guest --config can.yaml");
    assert!(guest.lines().last().unwrap().starts_with("This month: $7.00, projected $"), "{guest}");

    let value = desk.json("registry analytics costs --since 201d --tenant research --config can.yaml --json");
    let days = value["days"].as_array().unwrap();
    assert_eq!(days.len(), 201, "without gaps");
    assert_eq!((&days[0]["calls"], &days[0]["cost_usd"]), (&5.into(), &"1".into()));
    assert_eq!((&days[200]["cache_hits"], &days[200]["saved_usd"]), (&1.into(), &"0.4".into()));
    assert_eq!(value["this_month"]["spent_usd"], "2");
    assert_eq!(value["this_month"]["budget"]["spent_percent"], 20.0);

    let csv = desk.ok("registry analytics costs --csv");
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((rows.len(), rows[0][0], rows[0][5]), (31, "date", "cost_usd"));
    assert!(rows.iter().all(|row| row.len() == 9), "{csv}");
    assert_eq!((rows[30][1], rows[30][5], rows[30][8]), ("4", "12", ""));
    assert_eq!(desk.run("registry analytics costs --csv --json").code, Some(2));
}

#[test]
fn the_cache_is_told_and_purged() {
    let desk = Desk::new();
    assert!(desk.refused("cache stats").contains("start the gateway once"));
    assert!(desk.refused("cache purge --all").contains("there is no database at"));
    assert!(!desk.database().exists(), "a purge makes no database");
    let connection = chittycan::store::sqlite::open(&desk.database()).unwrap();
    assert_eq!(desk.ok("cache stats"), "Last 30 days: 0 hits, 0 misses, hit rate -, saved $0.00\n");
    let at = now() - 60_000;
    insert(&connection, 1, at, "default", "MISS", 2, 5);
    for n in 2..5 {
        insert(&connection, n, at, "research", ["HIT", "HIT", "STALE"][n as usize - 2], 50, 1);
    }
    insert(&connection, 5, at, "research", "BYPASS", 2, 5);
    insert(&connection, 6, at - 2 * DAY_MS, "research", "HIT", 50, 5);
    let text = desk.ok("cache stats --days 1");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "Last day: 3 hits, 1 misses, hit rate 75.0%, saved $1.50");
    assert_eq!((lines[1], lines.len()), ("", 5), "{text}");
    assert!(lines[2].starts_with("TENANT ") && lines[3].starts_with("research  gpt-4o "), "{text}");
    let value = desk.json("cache stats --tenant research --json");
    assert_eq!(value["total"]["hit_rate"], 1.0);
    assert_eq!((&value["total"]["hits"], &value["total"]["saved_usd"]), (&4.into(), &"2".into()));
    assert_eq!((&value["by_model"][0]["stale"], &value["held"]), (&1.into(), &Value::Null));
    // One definition of a hit in every report.
    let metrics = desk.ok("registry metrics show");
    assert!(metrics.contains("│ Cache Hit Rate:        75.0% "), "{metrics}");

    // A token, and nobody who listens.
    let mut command = desk.command("cache stats");
    let said = command.env("CAN_ADMIN_TOKEN", "chitty_x").env("CAN_ADMIN_LISTEN", "127.0.0.1:9").output().unwrap();
    assert!(said.status.success() && !said.stdout.is_empty());
    assert!(String::from_utf8(said.stderr).unwrap().contains("what the cache holds is not shown: 127.0.0.1:9"));

    let key = "0a".repeat(32);
    for (line, told) in [
        ("--all", "Nothing that was answered until now counts any more."),
        ("--tenant default", "What tenant default has paid for no longer counts."),
        ("--model gpt-4o -t default", "What gpt-4o has answered for tenant default no longer counts."),
        (&*format!("--key {key}"), "The answer no longer counts."),
        (
            &*format!("--key {key} --key {} --tenant default", "0b".repeat(32)),
            "2 answers for tenant default no longer count.",
        ),
    ] {
        let expected = format!("{told} A running gateway sees it within 200 ms.\n");
        assert_eq!(desk.ok(&format!("cache purge {line}")), expected, "{line}");
    }
    assert!(desk.run("cache purge --tenant nobody").stderr.contains("no tenant `nobody`"));
    let rows: i64 = connection.query_row("SELECT count(*) FROM purges", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 7);
    for usage in [
        "",
        "--all --tenant t",
        "--all --key x",
        "--key abc",
        "--model",
        "--tenant a/b",
        &format!("--model m --key {key}"),
    ] {
        let said = desk.run(&format!("cache purge {usage}"));
        assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{usage}: {}", said.stderr);
    }
    for usage in ["--days 0", "--days 400", "--days x"] {
        assert_eq!(desk.run(&format!("cache stats {usage}")).code, Some(2), "{usage}");
    }
}

#[test]
fn a_database_of_an_older_version_is_read_and_brought_up_to_date() {
    let desk = Desk::new();
    let old = Connection::open(desk.database()).unwrap();
    let tables = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/sqlite/schema.sql");
    old.execute_batch(&std::fs::read_to_string(tables).unwrap()).unwrap();
    old.pragma_update(None, "application_id", 0x4341_4e31).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    insert(&old, 1, now() - 60_000, "default", "HIT", 50, 1);
    drop(old);
    assert!(desk.ok("cache stats").contains("1 hits"));
    assert!(desk.ok("registry metrics show").contains("100.0%"));
    desk.ok("cache purge --all");
    let connection = Connection::open(desk.database()).unwrap();
    let rows: i64 = connection.query_row("SELECT count(*) FROM purges", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
    assert!(desk.ok("cache stats").contains("1 hits"));
}
