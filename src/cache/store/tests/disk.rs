//! The on-disk tier, on real files.

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::Path,
};

use super::*;

const SIZE: u64 = 24 << 20;
const MAX_ENTRY: usize = 256 << 10;

fn options(folder: &Path) -> StoreOptions {
    let disk = DiskOptions { folder: folder.into(), size: SIZE };
    StoreOptions { memory: 8 * MIB, disk: Some(disk), max_entry: MAX_ENTRY }
}

/// A store whose disk is in use.
fn open(folder: &Path) -> Store {
    let store = Store::open(&options(folder)).unwrap();
    until("the disk is up", || store.usage().disk_up);
    store
}

fn until(what: &str, mut true_: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !true_() {
        assert!(begun.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Reads as Pingora does: from a runtime that is not the store's.
fn load(store: &Store, key: &Key) -> Option<Arc<Entry>> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(store.load(key, ""))
}

/// Writes this many entries, slowly enough that none is dropped.
fn fill(store: &Store, numbers: std::ops::Range<u64>, size: usize) {
    let handed_over = numbers.end;
    for number in numbers {
        store.insert(key(number), entry(number, size), &Shelf::default());
        if number % 32 == 31 || number + 1 == handed_over {
            settle(store, number);
        }
    }
}

/// Waits until a record has left the queue for the files.
fn settle(store: &Store, number: u64) {
    let probe = store.disk.as_ref().unwrap();
    until("a record is written", || !probe.is_waiting(&key(number)));
}

/// How many of the entries are found in another process's view: each exactly as it was, or not at all.
fn right_answers(store: &Store, numbers: std::ops::Range<u64>, size: usize) -> usize {
    numbers
        .filter(|number| {
            let found = load(store, &key(*number));
            if let Some(found) = &found {
                assert_eq!(*found, entry(*number, size));
            }
            found.is_some()
        })
        .count()
}

/// The blocks of a folder.
fn blocks(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder.join("v1")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn entries_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for number in 0..50 {
        store.insert(key(number), entry(number, 3_000), &Shelf::default());
    }
    store.close(Duration::from_secs(10));
    assert!(!store.usage().disk_up);
    assert_eq!(store.peek(&key(1)), Some(entry(1, 3_000)), "memory goes on");
    store.insert(key(90), entry(90, 10), &Shelf::default());
    drop(store);
    let store = open(folder.path());
    assert!(store.peek(&key(1)).is_none() && store.may_hold(&key(1)) && !store.may_hold(&key(90)));
    assert_eq!(right_answers(&store, 0..50, 3_000), 50);
    assert!(store.peek(&key(1)).is_some(), "what comes from the disk goes into memory");
    assert_eq!(fs::metadata(folder.path().join("v1")).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(folder.path().join("lock")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_was_written_survives_a_kill() {
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(folder.path());
    fill(&store, 0..100, 2_000);
    let writing = std::thread::scope(|scope| {
        let writer = scope.spawn(|| fill(&store, 100..600, 2_000));
        // A kill leaves the files as they are at some moment.
        fs::create_dir(copy.path().join("v1")).unwrap();
        for block in blocks(folder.path()) {
            fs::copy(&block, copy.path().join("v1").join(block.file_name().unwrap())).unwrap();
        }
        writer.join()
    });
    writing.unwrap();
    let store = open(copy.path());
    assert_eq!(right_answers(&store, 0..100, 2_000), 100);
    right_answers(&store, 100..600, 2_000);
}

#[test]
fn a_dropped_store_leaves_its_folder_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = open(folder.path());
        store.insert(key(1), entry(1, 10), &Shelf::default());
        settle(&store, 1);
        // Inside of a runtime, where a runtime must not be dropped carelessly.
        drop(store);
    });
    let store = open(folder.path());
    assert_eq!(load(&store, &key(1)), Some(entry(1, 10)));
}

#[test]
fn damaged_files_give_right_answers_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    fill(&store, 0..400, 2_000);
    store.close(Duration::from_secs(10));
    drop(store);
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let files = blocks(folder.path());
    let used: Vec<_> = files.iter().filter(|file| fs::metadata(file).unwrap().blocks() > 0).collect();
    for round in 0..6 {
        for _ in 0..40 {
            let file =
                fs::File::options().read(true).write(true).open(used[random(used.len() as u64) as usize]).unwrap();
            let at = random(file.metadata().unwrap().blocks() * 512);
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ (1 << random(8))], at).unwrap();
        }
        let store = open(folder.path());
        let right = right_answers(&store, 0..400, 2_000);
        assert!(round > 0 || right > 0);
        // The store goes on working.
        store.insert(key(1_000 + round), entry(1_000 + round, 2_000), &Shelf::default());
        store.close(Duration::from_secs(10));
    }
    // Files cut, emptied, lost, replaced by noise.
    for (number, file) in files.iter().enumerate() {
        let open = || fs::File::options().write(true).open(file).unwrap();
        match number % 5 {
            0 => open().set_len(10_000).unwrap(),
            1 => open().set_len(0).unwrap(),
            2 => fs::remove_file(file).unwrap(),
            3 => fs::write(file, vec![0xA5; fs::metadata(file).unwrap().len() as usize]).unwrap(),
            _ => {}
        }
    }
    fs::write(folder.path().join("v1/something else"), "x").unwrap();
    let store = open(folder.path());
    right_answers(&store, 0..400, 2_000);
    assert_eq!(blocks(folder.path()).len(), files.len());
    fill(&store, 2_000..2_100, 2_000);
    store.close(Duration::from_secs(10));
    drop(store);
    assert_eq!(right_answers(&open(folder.path()), 2_000..2_100, 2_000), 100);
}

#[test]
fn damage_while_it_runs_gives_right_answers_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    fill(&store, 0..3_000, 2_000);
    let gone = (0..3_000).filter(|number| store.peek(&key(*number)).is_none()).count();
    assert!(gone > 0, "memory is smaller than this");
    for (number, file) in blocks(folder.path()).iter().enumerate() {
        let file = fs::File::options().write(true).open(file).unwrap();
        let length = file.metadata().unwrap().len();
        if number % 2 == 0 {
            file.set_len(length / 2).unwrap();
        } else {
            (0..length).step_by(1_500).for_each(|at| file.write_all_at(b"damage", at).unwrap());
        }
    }
    right_answers(&store, 0..3_000, 2_000);
    assert!(store.usage().disk_errors > 0);
}

#[test]
fn without_a_usable_folder_memory_goes_on_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let small = DiskOptions { folder: folder.path().into(), size: 1 << 20 };
    for options in [options(&file.join("cache")), StoreOptions { disk: Some(small), ..options(folder.path()) }] {
        let store = Store::open(&options).unwrap();
        until("it is counted", || store.usage().disk_errors == 1);
        assert!(!store.usage().disk_up);
        store.insert(key(1), entry(1, 10), &Shelf::default());
        assert_eq!(store.peek(&key(1)), Some(entry(1, 10)));
        assert!(load(&store, &key(2)).is_none());
        store.remove(&key(1));
        store.close(Duration::from_secs(1));
    }
}

#[test]
fn a_folder_belongs_to_one_store_and_then_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path());
    first.insert(key(1), entry(1, 10), &Shelf::default());
    let second = Store::open(&options(folder.path())).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(!second.usage().disk_up && first.usage().disk_up);
    second.insert(key(2), entry(2, 10), &Shelf::default());
    assert!(second.peek(&key(2)).is_some());
    first.close(Duration::from_secs(10));
    until("the second has it", || second.usage().disk_up);
    assert_eq!(load(&second, &key(1)), Some(entry(1, 10)));
}

#[test]
fn the_disk_stays_within_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let largest = MAX_ENTRY;
    for number in 0..240 {
        store.insert(key(number), entry(number, largest), &Shelf::default());
        settle(&store, number);
        assert!(store.usage().disk_bytes <= SIZE);
    }
    assert!(store.usage().disk_bytes > SIZE / 2);
    let lengths: u64 = blocks(folder.path()).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(lengths <= SIZE);
    store.close(Duration::from_secs(10));
    drop(store);
    // The newest are there, the oldest made room.
    let store = open(folder.path());
    assert!(right_answers(&store, 200..240, largest) > 30);
    assert!(right_answers(&store, 0..100, largest) < 10);
}

#[test]
fn a_change_of_size_leaves_no_files_behind() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let disk = DiskOptions { folder: folder.path().into(), size: 6 << 20 };
    let store = Store::open(&StoreOptions { disk: Some(disk), ..options(folder.path()) }).unwrap();
    until("the disk is up", || store.usage().disk_up);
    assert_eq!(blocks(folder.path()).len(), 6);
}

#[test]
fn what_was_removed_does_not_come_back_from_the_queue() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for number in 0..200 {
        store.insert(key(number), entry(number, 1_000), &Shelf::default());
        if number % 2 == 0 {
            settle(&store, number);
        }
        store.remove(&key(number));
        assert!(load(&store, &key(number)).is_none());
    }
    store.insert(key(1), entry(1, 20), &Shelf::default());
    assert!(load(&store, &key(1)).is_some());
}

#[test]
fn a_disk_without_a_clean_block_heals() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    fill(&store, 0..10, 2_000);
    store.close(Duration::from_secs(10));
    drop(store);
    // Every block has records, as after a kill at a bad moment: foyer's writer would wait for ever.
    let files = blocks(folder.path());
    let full = files.iter().find(|file| fs::metadata(file).unwrap().blocks() > 0).unwrap();
    for file in files.iter().filter(|file| *file != full) {
        fs::copy(full, file).unwrap();
    }
    let store = open(folder.path());
    store.insert(key(100), entry(100, 10), &Shelf::default());
    until("the trouble is noticed", || !store.usage().disk_up);
    until("it is over", || store.usage().disk_up);
    store.insert(key(101), entry(101, 10), &Shelf::default());
    settle(&store, 101);
    assert!(store.usage().disk_errors > 0);
    store.close(Duration::from_secs(10));
    drop(store);
    assert_eq!(load(&open(folder.path()), &key(101)), Some(entry(101, 10)));
}

#[test]
fn threads_may_use_both_tiers_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    std::thread::scope(|scope| {
        for thread in 0..6_u64 {
            let store = &store;
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                for round in 0..600_u64 {
                    let number = (round * 7 + thread * 13) % 4_000;
                    match round % 5 {
                        0..=2 => store.insert(key(number), entry(number, 5_000), &Shelf::default()),
                        3 => {
                            if let Some(found) = runtime.block_on(store.load(&key(number), "")) {
                                assert_eq!(found, entry(number, 5_000));
                            }
                        }
                        _ => store.remove(&key(number)),
                    }
                }
            });
        }
    });
    assert!(store.usage().memory_bytes <= store.usage().memory_limit);
    store.close(Duration::from_secs(10));
}
