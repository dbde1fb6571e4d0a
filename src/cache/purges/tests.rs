use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::Connection;

use super::{request::MAX_MODEL, *};
use crate::{
    cache::Form,
    store::sqlite,
    types::{NanoUsd, Usage},
};

fn key(n: u8) -> Key {
    format!("{n:02x}").repeat(32).parse().ok().unwrap()
}

fn entry(tenant: &str, born: u64) -> Entry {
    Entry {
        form: Form::Json,
        body: Bytes::new(),
        born,
        stored: born + 1,
        tenant: tenant.into(),
        route: "fast".into(),
        provider: "groq".into(),
        model: "llama-3-70b".into(),
        dropped: "".into(),
        usage: Usage::default(),
        cost: NanoUsd::ZERO,
    }
}

fn model(name: &str) -> Purge {
    Purge::Model(name.into())
}

fn place() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("can.db");
    (folder, path)
}

#[test]
fn a_purge_covers_what_it_names_and_nothing_else() {
    let ours = TenantId::from("ours");
    let all = [("ours", 1), ("ours", 2), ("theirs", 1), ("theirs", 2)];
    for (purge, tenant, dead) in [
        (Purge::All, None, vec![0, 1, 2, 3]),
        (Purge::All, Some(&ours), vec![0, 1]),
        (Purge::Tenant("ours".into()), None, vec![0, 1]),
        (Purge::Tenant("ours".into()), Some(&ours), vec![0, 1]),
        (Purge::Tenant("theirs".into()), Some(&ours), vec![]),
        (Purge::Key(key(1)), None, vec![0, 2]),
        (Purge::Key(key(1)), Some(&ours), vec![0]),
        (Purge::Key(key(3)), None, vec![]),
        (model("fast"), None, vec![0, 1, 2, 3]),
        (model("llama-3-70b"), Some(&ours), vec![0, 1]),
        (model("groq/llama-3-70b"), Some(&ours), vec![0, 1]),
        (model("groq"), None, vec![]),
        (model("llama"), None, vec![]),
        (model(""), None, vec![]),
    ] {
        let (_folder, path) = place();
        let purges = Purges::follow(sqlite::at(&path));
        let before = unix_now();
        let at = purges.purge(&purge, tenant).unwrap();
        let check = |purges: &Purges, who: &str| {
            for (n, (tenant, k)) in all.into_iter().enumerate() {
                let counts = |born| purges.counts(&key(k), &entry(tenant, born));
                assert_eq!(counts(before), !dead.contains(&n), "{who}: {purge:?} of {tenant:?}: {tenant} {k}");
                assert_eq!(counts(at), counts(before), "{who}: of the same millisecond");
                assert!(counts(at + 1), "{who}: younger");
                let making = purges.stamp_of(&key(k), &tenant.into(), "fast", None);
                let by_route = !matches!(&purge, Purge::Model(name) if name != "fast");
                assert_eq!(making >= before, by_route && dead.contains(&n), "{who}: while it is being made");
            }
        };
        check(&purges, "here");
        check(&Purges::follow(sqlite::at(&path)), "after a restart");
    }
}

#[test]
fn another_process_learns_of_it_soon() {
    let (_folder, path) = place();
    let (here, there) = (Purges::follow(sqlite::at(&path)), Purges::follow(sqlite::at(&path)));
    let old = entry("ours", unix_now());
    assert!(there.counts(&key(1), &old));
    let begun = Instant::now();
    here.purge(&Purge::Key(key(1)), Some(&"ours".into())).unwrap();
    assert!(!here.counts(&key(1), &old), "here at once");
    while there.counts(&key(1), &old) {
        assert!(begun.elapsed() < Duration::from_secs(2));
        std::thread::sleep(Duration::from_millis(5));
    }
    // The command line runs without a gateway.
    let begun = Instant::now();
    let request = PurgeRequest::new(&Purge::All, None).unwrap();
    request.write(&mut *sqlite::at(&path).connect().unwrap().0, unix_now()).unwrap();
    while here.counts(&key(9), &old) {
        assert!(begun.elapsed() < Duration::from_secs(2));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn without_a_database_what_is_known_goes_on_counting() {
    let (folder, path) = place();
    let missing = folder.path().join("no/such/folder/can.db");
    let purges = Purges::follow(sqlite::at(&missing));
    assert!(!purges.is_up());
    let old = entry("ours", unix_now());
    assert!(purges.counts(&key(1), &old));
    assert!(purges.purge(&Purge::All, None).is_err(), "nobody else learns of it");
    assert!(!purges.counts(&key(1), &old), "but here it holds");
    // The database becomes reachable: purges that were not written stay in effect.
    std::fs::create_dir_all(missing.parent().unwrap()).unwrap();
    let other = PurgeRequest::new(&model("x"), None).unwrap();
    other.write(&mut *sqlite::at(&missing).connect().unwrap().0, unix_now()).unwrap();
    purges.follower.refresh();
    assert!(purges.is_up() && !purges.counts(&key(1), &old));
    assert!(!Purges::follow(sqlite::at(&path)).is_up() || path.exists());
}

fn rows(connection: &Connection) -> Vec<(String, String, String, u64)> {
    let mut statement = connection.prepare("SELECT tenant, model, key, at FROM purges").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn stamps_only_grow_and_old_ones_go() {
    let (_folder, path) = place();
    let (mut session, _) = sqlite::at(&path).connect().unwrap();
    let now = unix_now();
    let mut put = |purge: &Purge, tenant: Option<&str>, at: u64| {
        let tenant = tenant.map(TenantId::from);
        PurgeRequest::new(purge, tenant.as_ref()).unwrap().write(&mut *session, at).unwrap()
    };
    assert_eq!(put(&model("a"), Some("t"), now), now);
    assert_eq!(put(&model("a"), Some("t"), now - 500), now, "a clock that was put back");
    put(&model("b"), None, now - 2_000);
    put(&Purge::Key(key(1)), Some("t"), now - 1_000);
    put(&Purge::Tenant("t".into()), None, now - 600);
    put(&Purge::Tenant("u".into()), None, now - 700);
    let name = |text: &str| text.to_owned();
    let all = [
        (name(""), name("b"), name(""), now - 2_000),
        (name("t"), name(""), name(""), now - 600),
        (name("t"), name("a"), name(""), now),
        (name("u"), name(""), name(""), now - 700),
    ];
    assert_eq!(rows(&sqlite::open(&path).unwrap()), all, "the key is covered by its tenant");
    put(&Purge::All, None, now - 650);
    assert_eq!(
        rows(&sqlite::open(&path).unwrap()),
        [(name(""), name(""), name(""), now - 650), all[1].clone(), all[2].clone()]
    );
    put(&model("old"), None, now - millis(KEPT) - 60_000);
    assert_eq!(rows(&sqlite::open(&path).unwrap()).len(), 3);
    let purges = Purges::follow(sqlite::at(&path));
    assert_eq!(purges.stamps.load().len(), 3);
    assert_eq!(purges.stamp_of(&key(7), &"u".into(), "a", None), now - 650);
}

#[test]
fn very_many_keys_become_one_stamp() {
    let (_folder, path) = place();
    let mut connection = sqlite::open(&path).unwrap();
    let now = unix_now();
    let base = now - 1_000_000;
    let transaction = connection.transaction().unwrap();
    for n in 0..MOST as u64 {
        let key = format!("{n:064x}");
        transaction.execute("INSERT INTO purges VALUES ('t', '', ?1, ?2)", rusqlite::params![key, base + n]).unwrap();
    }
    transaction.commit().unwrap();
    let purges = Purges::follow(sqlite::at(&path));
    assert_eq!(purges.stamps.load().len(), MOST);
    purges.purge(&Purge::Key(key(0xaa)), Some(&"t".into())).unwrap();
    let left = rows(&connection);
    assert!((MOST / 2..MOST / 2 + 3).contains(&left.len()), "{}", left.len());
    assert_eq!(purges.stamps.load().len(), left.len(), "memory is bounded as the table is");
    let first: Key = format!("{:064x}", 0).parse().ok().unwrap();
    assert!(!purges.counts(&first, &entry("t", base)), "what was purged stays so");
    assert!(purges.counts(&first, &entry("t", base + MOST as u64)), "younger ones are not touched");
    assert!(purges.counts(&first, &entry("u", base)));
    let last: Key = format!("{:064x}", MOST - 1).parse().ok().unwrap();
    assert!(!purges.counts(&last, &entry("t", base + MOST as u64 - 1)));
}

#[test]
fn a_body_says_what_to_purge() {
    let read = |body: &str| PurgeRequest::parse(body.as_bytes());
    let good = |tenant: Option<&str>, what| Ok(PurgeRequest { tenant: tenant.map(Into::into), what });
    let hex = "ab".repeat(32);
    assert_eq!(read(r#" {"all": true} "#), good(None, Purge::All));
    assert_eq!(read(r#"{"tenant": "t"}"#), good(Some("t"), Purge::All));
    assert_eq!(read(r#"{"model": "gpt-4o", "tenant": "t"}"#), good(Some("t"), model("gpt-4o")));
    assert_eq!(read(&format!(r#"{{"key": "{hex}"}}"#)), good(None, Purge::Key(key(0xab))));
    for body in
        [r#"{"all":true}"#, r#"{"tenant":"t"}"#, r#"{"tenant":"t","model":"m"}"#, &format!(r#"{{"key":"{hex}"}}"#)]
    {
        assert_eq!(serde_json::to_string(&read(body).unwrap()).unwrap(), body);
    }
    let long = format!(r#"{{"model": "{}"}}"#, "x".repeat(MAX_MODEL + 1));
    for (body, hint) in [
        ("", "Say what to purge"),
        (" \n", "Say what to purge"),
        ("{}", "Say what to purge"),
        ("[]", "no JSON object"),
        ("[true, null, null, null]", "no JSON object"),
        ("null", "no JSON object"),
        ("{", "The body: "),
        ("{}{}", "trailing"),
        (r#"{"all": 1}"#, "The body: "),
        (r#"{"all": false}"#, "only `true`"),
        (r#"{"all": true, "tenant": "t"}"#, "excludes"),
        (r#"{"all": true, "model": "m"}"#, "excludes"),
        (r#"{"all": true, "all": true}"#, "duplicate"),
        (r#"{"tenant": null, "model": "m"}"#, "null"),
        (r#"{"tenant": "*"}"#, "no tenant can be called `*`"),
        (r#"{"tenant": ""}"#, "no tenant can be called"),
        (r#"{"model": ""}"#, "a model has a name"),
        (r#"{"model": "a\nb"}"#, "control"),
        (&long, "512 bytes"),
        (r#"{"key": "abc"}"#, "64 hexadecimal"),
        (r#"{"key": ""}"#, "64 hexadecimal"),
        (&format!(r#"{{"key": "{hex}", "model": "m"}}"#), "exclude each other"),
        (r#"{"tenent": "t"}"#, "unknown field `tenent`"),
    ] {
        let error = read(body).unwrap_err();
        assert!(error.contains(hint) && error.ends_with(['.', ')']), "{body}: {error}");
    }
}

#[test]
fn a_client_purges_its_own() {
    let read = |body: &str| PurgeRequest::parse(body.as_bytes()).unwrap();
    let own = TenantId::from("t");
    for body in [r#"{"all": true}"#, r#"{"tenant": "t"}"#] {
        let confined = read(body).confined_to(&own).unwrap();
        assert_eq!((confined.tenant(), confined.what()), (Some(&own), &Purge::All));
    }
    assert_eq!(read(r#"{"tenant": "u"}"#).confined_to(&own), Err("u".into()));
}

#[test]
fn a_file_in_the_place_of_a_lost_one_gets_every_stamp() {
    let (_folder, path) = place();
    let place = sqlite::Place::from(&path);
    let purges = Purges::follow(sqlite::in_place(place.clone()));
    for (purge, tenant) in [(Purge::All, Some("t")), (model("m"), None), (Purge::Key(key(1)), Some("u"))] {
        purges.purge(&purge, tenant.map(TenantId::from).as_ref()).unwrap();
    }
    let before = rows(&sqlite::open(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    assert!(purges.purge(&Purge::All, Some(&"v".into())).is_err(), "the file is lost");
    drop(place.accept(|_| Ok(())).unwrap());
    let after = rows(&sqlite::open(&path).unwrap());
    assert_eq!((before.len(), after.len()), (3, 4), "{after:?}");
    assert!(before.iter().all(|row| after.contains(row)), "{after:?}");
}
