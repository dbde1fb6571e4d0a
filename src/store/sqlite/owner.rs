//! The ownership of a database: one gateway has it, because two would each grant the whole of every budget.
//!
//! The owner holds a lock (`flock`) on a file beside the database, whose text describes the owner. The system releases the lock
//! when the process ends, however it ends. The lock lies on a file of its own, because closing any descriptor of the database
//! file would release SQLite's own locks. Command-line tools work beside a gateway and take no lock.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use crate::store::{Ownership, StoreError};

/// How many symbolic links are followed: as many as the system follows.
const MAX_LINKS: usize = 40;

/// The ownership of one database, held or not.
#[derive(Debug)]
pub struct OwnerLock {
    database: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lock: Option<Lock>,
    /// The ownership was handed over: a successor has it, and this process still writes the entries of its requests under way.
    handed_over: bool,
    addresses: Vec<String>,
}

/// A locked file; the lock is released when this value is dropped.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    file: File,
}

/// The text of the lock file, as JSON: the process that holds the lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// The process id, in the pid namespace of the process's container.
    pub pid: u32,
    /// The name of the process's host or container.
    pub host: String,
    /// When the process took the lock, as an RFC 3339 time.
    pub since: String,
    /// The addresses where the process listens, the client API first.
    pub addresses: Vec<String>,
}

impl OwnerLock {
    /// The ownership of this database, which is not claimed yet.
    pub fn of(database: &Path) -> Self {
        Self { database: database.to_owned(), state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Ownership for OwnerLock {
    fn claim(&self) -> Result<(), StoreError> {
        let mut state = self.lock();
        if state.handed_over {
            return Ok(());
        }
        // A lock on a file that was deleted or replaced keeps nobody out.
        if let Some(lock) = &state.lock
            && lock.is_in_place(&self.database)?
        {
            return Ok(());
        }
        state.lock = None;
        let lock = Lock::take(&self.database)?;
        lock.say(&state.addresses);
        state.lock = Some(lock);
        Ok(())
    }

    fn is_held(&self) -> bool {
        self.lock().holds(&self.database)
    }

    fn may_write(&self) -> bool {
        let state = self.lock();
        state.handed_over || state.holds(&self.database)
    }

    fn hand_over(&self) {
        let mut state = self.lock();
        state.handed_over = true;
        state.lock = None;
    }

    fn take_back(&self, patience: Duration) -> Result<(), StoreError> {
        self.lock().handed_over = false;
        self.claim_within(patience)
    }

    fn release(&self) {
        self.lock().lock = None;
    }

    fn announce(&self, addresses: Vec<String>) {
        let mut state = self.lock();
        state.addresses = addresses;
        if let Some(lock) = &state.lock {
            lock.say(&state.addresses);
        }
    }
}

impl State {
    fn holds(&self, database: &Path) -> bool {
        self.lock.as_ref().is_some_and(|lock| lock.is_in_place(database).unwrap_or(false))
    }
}

impl Lock {
    fn take(database: &Path) -> Result<Self, StoreError> {
        let database = canonical(database)?;
        one_name(&database)?;
        let path = beside(&database);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Owned(refusal(&database, &file))),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }

    /// Writes the owner to the lock file. If that fails, only the message to a refused gateway lacks the owner.
    fn say(&self, addresses: &[String]) {
        let text = serde_json::to_string(&Owner::this(addresses)).unwrap_or_default() + "\n";
        let _ = self.file.write_all_at(text.as_bytes(), 0).and_then(|()| self.file.set_len(text.len() as u64));
    }

    /// Whether the lock file of the database is still the file that is locked here.
    fn is_in_place(&self, database: &Path) -> io::Result<bool> {
        let held = self.file.metadata()?;
        let place = canonical(database).map(|database| beside(&database) == self.path);
        let there = fs::metadata(&self.path).map(|there| (there.dev(), there.ino()) == (held.dev(), held.ino()));
        match place.and_then(|place| Ok(place && there?)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            outcome => outcome,
        }
    }
}

impl Owner {
    fn this(addresses: &[String]) -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let now = jiff::Timestamp::now();
        let since = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
        Self { pid: std::process::id(), host: host.trim().to_owned(), since, addresses: addresses.to_vec() }
    }

    /// Reads the owner from a lock file; `None` while the text is being written.
    fn read(file: &File) -> Option<Self> {
        let mut text = vec![0; 4096];
        let length = file.read_at(&mut text, 0).ok()?;
        serde_json::from_slice(&text[..length]).ok()
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on host `{}`, since {}", self.pid, self.host, self.since)?;
        match &*self.addresses {
            [] => Ok(()),
            addresses => write!(f, ", listening on {}", addresses.join(", ")),
        }
    }
}

fn refusal(database: &Path, file: &File) -> String {
    let owner = Owner::read(file).map_or_else(String::new, |owner| format!(" ({owner})"));
    format!(
        "the database {} belongs to another running gateway{owner}: two would each grant the whole of every budget. Give \
         this one a `database.path` of its own, or take over from the other with `can serve --upgrade`",
        database.display()
    )
}

/// The path of a database's lock file.
fn beside(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push("-owner");
    path.into()
}

/// The one path that all names of a file lead to, whether the file exists yet or not.
///
/// # Errors
/// A folder that does not exist, or links that lead in a circle.
pub fn canonical(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::canonicalize(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => return outcome,
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        match fs::read_link(&path) {
            // The link leads to a file that does not exist: SQLite creates it where the link points.
            Ok(target) => path = folder.join(target),
            Err(_) => {
                let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
                return Ok(fs::canonicalize(folder)?.join(name));
            }
        }
    }
    Err(io::ErrorKind::InvalidInput.into())
}

/// Refuses a file with two names: SQLite would keep a write-ahead log for each, and damage the file.
fn one_name(database: &Path) -> Result<(), StoreError> {
    match fs::metadata(database) {
        Ok(facts) if facts.is_file() && facts.nlink() > 1 => Err(StoreError::Owned(format!(
            "{} has {} names (hard links): a database must have one, or its lock and its write-ahead log would not be found \
             under the others. Remove the others, or copy the file",
            database.display(),
            facts.nlink()
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(database: &Path) -> String {
        match OwnerLock::of(database).claim() {
            Err(StoreError::Owned(message)) => message,
            outcome => panic!("{}: {outcome:?}", database.display()),
        }
    }

    #[test]
    fn a_database_has_one_owner_under_any_name() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("data")).unwrap();
        symlink(path("data"), path("link")).unwrap();
        // A link to a file that does not exist yet.
        symlink("data/can.db", path("other.db")).unwrap();
        symlink("other.db", path("another.db")).unwrap();
        let names = [
            path("data/can.db"),
            path("link/can.db"),
            path("data/../data/can.db"),
            path("other.db"),
            path("another.db"),
        ];
        for made in [false, true] {
            if made {
                fs::write(&names[0], "").unwrap();
            }
            for first in &names {
                let ownership = OwnerLock::of(first);
                ownership.claim().unwrap();
                ownership.claim().unwrap();
                for second in &names {
                    owned(second);
                }
            }
        }
        let mode = fs::metadata(path("data/can.db-owner")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!path("other.db-owner").exists() && !path("another.db-owner").exists());
        fs::hard_link(&names[0], path("hard.db")).unwrap();
        for name in [&names[0], &path("hard.db")] {
            let error = OwnerLock::of(name).claim().unwrap_err().to_string();
            assert!(error.contains("has 2 names"), "{error}");
        }
        symlink("round.db", path("round.db")).unwrap();
        assert!(matches!(OwnerLock::of(&path("round.db")).claim(), Err(StoreError::Io(_))));
        assert!(matches!(OwnerLock::of(&path("no/can.db")).claim(), Err(StoreError::Io(_))));
    }

    #[test]
    fn the_refused_one_learns_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("can.db");
        let first = OwnerLock::of(&database);
        first.claim().unwrap();
        first.announce(vec!["127.0.0.1:8080".into(), "[::1]:8081".into()]);
        let message = owned(&database);
        let pid = format!("(process {} on host `", std::process::id());
        for part in [&pid, ", listening on 127.0.0.1:8080, [::1]:8081)", "`database.path`", "--upgrade"] {
            assert!(message.contains(part), "{message}");
        }
        // A half-written text in the lock file is no reason to fail.
        fs::write(beside(&database), "{\"pid\":").unwrap();
        assert!(owned(&database).contains("another running gateway: "));
        let second = OwnerLock::of(&database);
        assert!(second.claim_within(Duration::from_millis(30)).is_err() && !second.is_held());
        first.hand_over();
        second.claim().unwrap();
        first.claim().unwrap();
        assert!(second.is_held() && second.may_write(), "it is the owner");
        assert!(!first.is_held() && first.may_write(), "the one before");
        assert!(first.take_back(Duration::from_millis(30)).is_err() && !first.may_write());
        drop(second);
        first.take_back(Duration::ZERO).unwrap();
        assert!(first.is_held() && first.may_write());
    }

    #[test]
    fn a_lock_file_that_is_replaced_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("can.db");
        let first = OwnerLock::of(&database);
        first.claim().unwrap();
        fs::remove_file(beside(&database)).unwrap();
        assert!(!first.is_held());
        let second = OwnerLock::of(&database);
        second.claim().unwrap();
        assert!(matches!(first.claim(), Err(StoreError::Owned(_))));
        drop(second);
        first.claim().unwrap();
        assert!(first.is_held());
    }
}
