//! Other tiers below memory: pingora-cache's own, and ones that misbehave.

use std::{any::Any, sync::Mutex};

use async_trait::async_trait;
use pingora_cache::{
    CacheKey, CacheMeta, MemCache,
    storage::{HandleHit, HandleMiss, HitHandler, MissFinishType, MissHandler, PurgeOutcome, Storage},
    trace::SpanHandle,
};
use pingora_error::{Error, ErrorType, Result};

use super::*;

fn leaked<T>(tier: T) -> &'static T {
    Box::leak(Box::new(tier))
}

fn shelf(owner: &str) -> Shelf {
    Shelf { ttl: Duration::from_secs(60), stale_if_error: Duration::from_secs(600), owner: owner.into() }
}

#[tokio::test]
async fn what_memory_has_let_go_comes_back_from_a_tier_that_is_not_ours() {
    let tier = leaked(MemCache::new());
    let first = in_memory(16 * MIB).with_tier(tier);
    first.insert(key(1), entry(1, 5_000), &shelf("team"));
    first.insert(key(2), entry(2, 0), &shelf(""));
    // Another process, or this one after a restart.
    let second = in_memory(16 * MIB).with_tier(tier);
    assert!(second.peek(&key(1)).is_none() && second.may_hold(&key(1)));
    assert_eq!(second.load(&key(1), "team").await, Some(entry(1, 5_000)));
    assert_eq!(second.load(&key(2), "").await, Some(entry(2, 0)));
    assert_eq!(second.peek(&key(1)), Some(entry(1, 5_000)), "memory has it again");
    assert_eq!(second.load(&key(3), "").await, None);
    second.remove(&key(1));
    assert_eq!(second.load(&key(1), "team").await, None);
    assert_eq!(in_memory(16 * MIB).with_tier(tier).load(&key(1), "team").await, None, "the tier has removed it too");
}

/// Records what it is given, and answers as it was told.
struct Scripted {
    answer: Answer,
    taken: Mutex<Vec<(CacheKey, CacheMeta)>>,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Nothing,
    Error,
    Hangs,
    OtherKey,
    Cut,
    TooLong,
    Pieces,
}

impl Scripted {
    fn new(answer: Answer) -> &'static Self {
        leaked(Self { answer, taken: Mutex::default() })
    }
}

#[async_trait]
impl Storage for Scripted {
    async fn lookup(&'static self, _key: &CacheKey, _trace: &SpanHandle) -> Result<Option<(CacheMeta, HitHandler)>> {
        let whole = entry(1, 4_000);
        let other = if matches!(self.answer, Answer::OtherKey) { key(2) } else { key(1) };
        let pieces = match self.answer {
            Answer::Nothing => return Ok(None),
            Answer::Error => return Error::e_explain(ErrorType::ReadError, "broken"),
            Answer::Hangs => std::future::pending().await,
            Answer::Cut => vec![whole.body.slice(..3_999)],
            Answer::TooLong => vec![whole.body.clone(), Bytes::from_static(b"!")],
            Answer::OtherKey => vec![whole.body.clone()],
            Answer::Pieces => vec![whole.body.slice(..7), whole.body.slice(7..2_000), whole.body.slice(2_000..)],
        };
        Ok(Some((tier::meta(&other, &whole, &shelf(""))?, Box::new(Given(pieces.into_iter())))))
    }

    async fn get_miss_handler(
        &'static self,
        key: &CacheKey,
        meta: &CacheMeta,
        _trace: &SpanHandle,
    ) -> Result<MissHandler> {
        let (internal, header) = meta.serialize()?;
        self.taken.lock().unwrap().push((key.clone(), CacheMeta::deserialize(&internal, &header)?));
        match self.answer {
            Answer::Error => Error::e_explain(ErrorType::WriteError, "full"),
            Answer::Hangs => std::future::pending().await,
            _ => Ok(Box::new(Taken)),
        }
    }

    async fn purge(
        &'static self,
        _target: PurgeTarget<'_>,
        _kind: PurgeType,
        _trace: &SpanHandle,
    ) -> Result<PurgeOutcome> {
        match self.answer {
            Answer::Error => Error::e_explain(ErrorType::WriteError, "broken"),
            Answer::Hangs => std::future::pending().await,
            _ => Ok(PurgeOutcome::NotFound),
        }
    }

    async fn update_meta(&'static self, _key: &CacheKey, _meta: &CacheMeta, _trace: &SpanHandle) -> Result<bool> {
        Ok(false)
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync + 'static) {
        self
    }
}

struct Given(std::vec::IntoIter<Bytes>);

#[async_trait]
impl HandleHit for Given {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        Ok(self.0.next())
    }

    async fn finish(
        self: Box<Self>,
        _storage: &'static (dyn Storage + Sync),
        _key: &CacheKey,
        _trace: &SpanHandle,
    ) -> Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}

struct Taken;

#[async_trait]
impl HandleMiss for Taken {
    async fn write_body(&mut self, _data: Bytes, _eof: bool) -> Result<()> {
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<MissFinishType> {
        Ok(MissFinishType::Created(0))
    }
}

#[tokio::test(start_paused = true)]
async fn a_tier_that_fails_hangs_or_lies_is_a_miss_and_the_next_one_is_asked() {
    for answer in [Answer::Nothing, Answer::Error, Answer::Hangs, Answer::OtherKey, Answer::Cut, Answer::TooLong] {
        let alone = in_memory(16 * MIB).with_tier(Scripted::new(answer));
        assert_eq!(alone.load(&key(1), "").await, None, "{answer:?}");
        let two = in_memory(16 * MIB).with_tier(Scripted::new(answer)).with_tier(Scripted::new(Answer::Pieces));
        assert_eq!(two.load(&key(1), "").await, Some(entry(1, 4_000)), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tier_is_told_who_an_entry_is_for_and_how_long_it_lasts() {
    let tier = Scripted::new(Answer::Nothing);
    in_memory(16 * MIB).with_tier(tier).insert(key(1), entry(1, 10), &shelf("team"));
    let taken = tier.taken.lock().unwrap();
    let [(named, meta)] = &taken[..] else { panic!("{} were written", taken.len()) };
    assert_eq!((named.primary_key(), &*named.user_tag), (&key(1).0[..], "team"));
    let created = std::time::UNIX_EPOCH + Duration::from_millis(2);
    assert_eq!((meta.created(), meta.fresh_until()), (created, created + Duration::from_secs(60)));
    let after = |seconds| created + Duration::from_secs(seconds);
    assert!(meta.is_fresh(after(59)) && !meta.is_fresh(after(61)));
    assert!(meta.serve_stale_if_error(after(659)) && !meta.serve_stale_if_error(after(661)));
}

#[tokio::test(start_paused = true)]
async fn a_tier_that_takes_nothing_holds_up_nobody_and_a_bounded_number_of_entries() {
    let tier = Scripted::new(Answer::Hangs);
    let store = in_memory(64 * MIB).with_tier(tier);
    for number in 0..3 * WRITES as u64 {
        store.insert(key(number), entry(number, 100), &Shelf::default());
        store.remove(&key(number + 1_000_000));
    }
    assert_eq!(tier.taken.lock().unwrap().len(), WRITES);
    assert_eq!(store.peek(&key(1)), Some(entry(1, 100)));
    tokio::time::sleep(2 * WRITE_PATIENCE).await;
    store.insert(key(1), entry(1, 100), &Shelf::default());
    assert_eq!(tier.taken.lock().unwrap().len(), WRITES + 1, "their time is over");
}

#[tokio::test]
async fn a_name_that_no_header_can_carry_is_escaped() {
    let tier = leaked(MemCache::new());
    let odd = Entry { route: "a\nb\u{e9}\"".into(), ..(*entry(1, 10)).clone() };
    in_memory(16 * MIB).with_tier(tier).insert(key(1), Arc::new(odd.clone()), &Shelf::default());
    assert_eq!(in_memory(16 * MIB).with_tier(tier).load(&key(1), "").await.as_deref(), Some(&odd));
}
