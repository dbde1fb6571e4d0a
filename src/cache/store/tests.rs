use std::{
    process::Command,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::*;
use crate::{
    cache::Form,
    types::{NanoUsd, Usage},
};

mod disk;
mod tiers;

const MIB: usize = 1 << 20;

fn in_memory(memory: usize) -> Store {
    Store::open(&StoreOptions { memory, disk: None, max_entry: MIB }).unwrap()
}

/// The key of a number: its first half spread like a hash, its second the number.
fn key(number: u64) -> Key {
    let mixed = (number ^ (number >> 30)).wrapping_add(1).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let halves = [u128::from(mixed ^ (mixed >> 31)).to_le_bytes(), u128::from(number).to_le_bytes()];
    let mut key = [0; 32];
    key.copy_from_slice(halves.as_flattened());
    Key(key)
}

/// An entry whose every part shows the number.
fn entry(number: u64, size: usize) -> Arc<Entry> {
    let body: Vec<u8> = number.to_le_bytes().into_iter().cycle().take(size).collect();
    Arc::new(Entry {
        form: if number.is_multiple_of(2) { Form::Json } else { Form::Events },
        body: body.into(),
        born: number,
        stored: number + 1,
        tenant: format!("team-{number}").into(),
        route: "gpt-4o-mini".into(),
        provider: "openai".into(),
        model: "gpt-4o-mini-2024-07-18".into(),
        dropped: "".into(),
        usage: Usage { prompt_tokens: number, ..Usage::default() },
        cost: NanoUsd(number),
    })
}

#[test]
fn what_was_inserted_is_found_until_it_is_removed() {
    let store = in_memory(16 * MIB);
    assert!(store.peek(&key(1)).is_none() && !store.may_hold(&key(1)));
    store.insert(key(1), entry(1, 100), &Shelf::default());
    assert_eq!(store.peek(&key(1)), Some(entry(1, 100)));
    assert!(store.may_hold(&key(1)) && !store.may_hold(&key(2)));
    store.insert(key(1), entry(2, 100), &Shelf::default());
    assert_eq!(store.peek(&key(1)), Some(entry(2, 100)));
    assert_eq!(store.usage().memory_entries, 1);
    store.remove(&key(1));
    assert!(store.peek(&key(1)).is_none());
    assert_eq!((store.usage().memory_entries, store.usage().memory_bytes), (0, 0));
}

#[test]
fn what_is_too_large_is_not_kept() {
    let store = in_memory(16 * MIB);
    store.insert(key(1), entry(1, MIB), &Shelf::default());
    store.insert(key(2), entry(2, MIB + 1), &Shelf::default());
    assert!(store.peek(&key(1)).is_some() && store.peek(&key(2)).is_none());
    // Nor are entries that memory as a whole cannot hold, even if they are allowed.
    let store = in_memory(MIB / 2);
    store.insert(key(1), entry(1, MIB), &Shelf::default());
    assert!(store.peek(&key(1)).is_none());
    assert_eq!(store.usage().memory_bytes, 0);
    let store = in_memory(0);
    store.insert(key(1), entry(1, 1), &Shelf::default());
    assert!(store.peek(&key(1)).is_none());
}

#[test]
fn every_shard_holds_the_largest_entry() {
    for (memory, max_entry, expected) in
        [(64 * MIB, MIB, 15), (64 * MIB, 16 * MIB, 3), (8 * MIB, 2 * MIB, 3), (MIB, 4 * MIB, 1), (0, 0, 1)]
    {
        assert_eq!(shards(memory, max_entry), expected);
    }
    let store = Store::open(&StoreOptions { memory: 8 * MIB, disk: None, max_entry: 2 * MIB }).unwrap();
    for number in 0..50 {
        store.insert(key(number), entry(number, 2 * MIB), &Shelf::default());
        assert!(store.peek(&key(number)).is_some());
    }
    assert!(store.usage().memory_bytes <= 8 * MIB as u64);
}

#[test]
fn what_is_asked_again_survives_a_scan() {
    let store = in_memory(4 * MIB);
    for hot in 0..100 {
        store.insert(key(hot), entry(hot, 1_000), &Shelf::default());
        assert!(store.peek(&key(hot)).is_some());
    }
    for cold in 1_000..21_000 {
        store.insert(key(cold), entry(cold, 1_000), &Shelf::default());
        if cold.is_multiple_of(500) {
            (0..100).for_each(|hot| drop(store.peek(&key(hot))));
        }
    }
    let kept = (0..100).filter(|hot| store.peek(&key(*hot)).is_some()).count();
    assert_eq!(kept, 100);
}

#[test]
fn threads_may_use_it_at_once() {
    let store = in_memory(2 * MIB);
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..4_000_u64 {
                    let number = (round * 7 + thread * 13) % 3_000;
                    match round % 4 {
                        0 | 1 => store.insert(key(number), entry(number, 700), &Shelf::default()),
                        2 => {
                            if let Some(found) = store.peek(&key(number)) {
                                assert_eq!(found, entry(number, 700));
                            }
                        }
                        _ => store.remove(&key(number)),
                    }
                    let usage = store.usage();
                    assert!(usage.memory_bytes <= usage.memory_limit);
                }
            });
        }
    });
}

/// Pages that the process has in memory, in bytes, without those of the executable, which are read as they are needed.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: Vec<usize> = statm.split(' ').map(|field| field.trim().parse().unwrap()).collect();
    (pages[1] - pages[2]) * 4_096
}

/// Runs in a process of its own, because its memory is measured.
#[test]
#[cfg(target_os = "linux")]
fn memory_stays_within_its_bound() {
    const ALONE: &str = "CAN_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "cache::store::tests::memory_stays_within_its_bound";
        let alone = Command::new(std::env::current_exe().unwrap()).args(["--exact", name]).env(ALONE, "1").output();
        let alone = alone.unwrap();
        assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stdout));
        return;
    }
    let limit = 16 * MIB;
    // The cost of the harness and of the first use of everything.
    drop(in_memory(MIB));
    let before = resident();
    let store = in_memory(limit);
    let begun = Instant::now();
    let mut most = 0;
    for number in 0..1_000_000 {
        let mut entry = Entry::clone(&entry(number, 0));
        entry.body = Bytes::from(vec![b'x'; usize::try_from(number % 4).unwrap() * 100]);
        store.insert(key(number), Arc::new(entry), &Shelf::default());
        if number.is_multiple_of(10_000) {
            assert!(store.usage().memory_bytes <= limit as u64);
            most = most.max(resident());
        }
    }
    let usage = store.usage();
    assert!(usage.memory_bytes <= limit as u64);
    assert!(usage.memory_bytes >= limit as u64 * 9 / 10, "{usage:?}");
    let kept = (0..1_000_000).filter(|number| store.peek(&key(*number)).is_some()).count();
    assert_eq!(kept as u64, usage.memory_entries);
    let (grown, slack) = (most.saturating_sub(before), limit / 8 + MIB);
    println!("{kept} entries, {grown} of {limit} bytes, {:?}", begun.elapsed());
    assert!(grown <= limit + slack, "{grown} bytes for {usage:?}");
}
