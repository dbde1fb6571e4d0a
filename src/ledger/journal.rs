//! Intents on disk: what a request may cost is written down before a provider is called, so that a process that is killed
//! leaves a record of the requests that it had under way.
//!
//! An intent is one line in an append-only file, written by one system call into the page cache, as a web server writes
//! its access log. The line survives the end of the process, and costs a request a microsecond or two. A file (a *segment*)
//! is deleted once it is closed and every request in it has its entry in the ledger: each request holds a [`Pin`] until then.
//! The process holds a lock on its segments; a segment without a lock belonged to a process that has ended, and is recovered.
//! An intent whose request has an entry already changes nothing: ids are unique.
//!
//! A second, short line records what a request has cost. It is written before the rest of the reservation is given back: the
//! entry itself is in the file some milliseconds later, and the process may be killed in between.

use std::{
    borrow::Cow,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use serde::Deserialize;

use super::Subject;
use crate::types::{NanoUsd, RequestId};

/// A segment of this size, in bytes, is closed, and another one begun.
const SEGMENT: u64 = 4 << 20;

/// Room for a usual line, in bytes.
const LINE: usize = 384;

/// A segment of this age is closed, too: a segment must not outlive the entries of its requests in the table.
const LIFE: Duration = Duration::from_secs(3_600);

/// The intents of this process.
pub struct Journal {
    folder: PathBuf,
    process: i64,
    /// `None` while no segment can be written.
    current: ArcSwapOption<Segment>,
    next: AtomicU64,
}

/// Keeps a segment on disk as long as the pin exists.
pub type Pin = Arc<Segment>;

/// One file of intents.
#[derive(Debug)]
pub struct Segment {
    path: PathBuf,
    file: File,
    written: AtomicU64,
    begun: Instant,
    /// No more intents are written here: the file is deleted with the last pin.
    closed: AtomicBool,
}

/// The line of an intent, as it is read back; [`push_intent`] writes it.
#[derive(Deserialize)]
struct Line<'a> {
    id: Cow<'a, str>,
    at: u64,
    tenant: Cow<'a, str>,
    token: Option<Cow<'a, str>>,
    endpoint: Cow<'a, str>,
    route: Cow<'a, str>,
    estimate: u64,
}

/// The line that says what the request of an earlier line has cost; [`push_end`] writes it.
#[derive(Deserialize)]
struct End<'a> {
    id: Cow<'a, str>,
    cost: u64,
}

/// An intent that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The id of the request.
    pub id: RequestId,
    /// When it was admitted, in milliseconds since 1970.
    pub at: u64,
    /// The tenant that pays.
    pub tenant: String,
    /// The id of the token that the request was sent with.
    pub token: Option<String>,
    /// The endpoint that was asked.
    pub endpoint: String,
    /// The configured route.
    pub route: String,
    /// The amount that was reserved.
    pub estimate: NanoUsd,
}

/// A line that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noted {
    /// A request was admitted, or its reservation has grown.
    Intent(Intent),
    /// A request was settled at this cost.
    Settled(RequestId, NanoUsd),
}

impl Journal {
    /// A journal in `folder`, which is created with the first segment.
    pub fn new(folder: PathBuf, process: i64) -> Self {
        Self { folder, process, current: ArcSwapOption::empty(), next: AtomicU64::new(0) }
    }

    /// Begins a segment unless the current one can take more intents.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn renew(&self) -> io::Result<()> {
        if let Some(current) = &*self.current.load()
            && !current.closed.load(Ordering::Acquire)
            && current.written.load(Ordering::Relaxed) < SEGMENT
            && current.begun.elapsed() < LIFE
            && current.is_in_place()
        {
            return Ok(());
        }
        let (fresh, outcome) = match self.begin() {
            Ok(segment) => (Some(Arc::new(segment)), Ok(())),
            Err(error) => (None, Err(error)),
        };
        if let Some(old) = self.current.swap(fresh) {
            old.closed.store(true, Ordering::Release);
        }
        outcome
    }

    fn begin(&self) -> io::Result<Segment> {
        private(&self.folder)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{:016x}-{number}.log", self.process));
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
        // Another process would recover a segment without a lock as an abandoned one.
        file.try_lock()?;
        Ok(Segment { path, file, written: AtomicU64::new(0), begun: Instant::now(), closed: AtomicBool::new(false) })
    }

    /// Closes the current segment. Its file is deleted once every request in it has its entry, which is usually at once.
    pub fn retire(&self) {
        if let Some(current) = self.current.swap(None) {
            current.closed.store(true, Ordering::Release);
        }
    }

    /// True while intents can be written.
    pub fn is_up(&self) -> bool {
        self.current.load().as_ref().is_some_and(|segment| !segment.closed.load(Ordering::Relaxed))
    }

    /// Writes an intent.
    ///
    /// # Errors
    /// There is no segment, or the segment cannot be written (a full disk); no more intents are written to that segment then.
    pub fn note(&self, subject: &Subject, estimate: NanoUsd) -> io::Result<Pin> {
        let Some(segment) = self.current.load_full() else {
            return Err(io::Error::other("no segment can be written"));
        };
        if segment.closed.load(Ordering::Acquire) {
            return Err(io::Error::other("the segment is closed"));
        }
        segment.append(|line| push_intent(subject, estimate, line))?;
        Ok(segment)
    }

    /// The segments that other processes have created.
    ///
    /// # Errors
    /// The folder cannot be read. A folder that does not exist has no segments.
    pub fn others(&self) -> io::Result<Vec<PathBuf>> {
        let own = format!("{:016x}-", self.process);
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.ends_with(".log") && !name.starts_with(&own) {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Creates the folder, readable by its owner only: intents name tenants and what they spend. Wider permissions of an existing
/// folder are removed.
fn private(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    if fs::metadata(folder)?.permissions().mode() & 0o077 != 0
        && let Err(error) = fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
    {
        // The files in the folder have mode 0600 in any case.
        tracing::warn!(%error, folder = %folder.display(), "the folder of intents can be listed by others, and cannot be narrowed");
    }
    Ok(())
}

impl Segment {
    /// Writes what a request whose intent is in this segment has cost, also after the segment is closed for intents.
    ///
    /// # Errors
    /// The segment cannot be written.
    pub fn note_end(&self, id: RequestId, cost: NanoUsd) -> io::Result<()> {
        self.append(|line| {
            push_end(id, cost, line);
            Ok(())
        })
    }

    /// Writes a line in one system call, with a line break before and after it: a line that was cut off then spoils no other.
    fn append(&self, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        let mut text = Vec::with_capacity(LINE);
        text.push(b'\n');
        write(&mut text)?;
        text.push(b'\n');
        (&self.file).write_all(&text).inspect_err(|_| self.closed.store(true, Ordering::Release))?;
        self.written.fetch_add(text.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// True while the file lies at its path: a file that was deleted under the process would not keep an intent.
    fn is_in_place(&self) -> bool {
        let numbers = |facts: fs::Metadata| (facts.dev(), facts.ino());
        match (fs::metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(open)) => numbers(there) == numbers(open),
            _ => false,
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if self.closed.load(Ordering::Acquire) {
            // A file that cannot be deleted is recovered once more later, which changes nothing.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes a [`Line`]. By hand, as each request waits for it: that takes two fifths of what `Serialize` takes.
///
/// # Errors
/// None: every text has a form in JSON.
fn push_intent(subject: &Subject, estimate: NanoUsd, out: &mut Vec<u8>) -> io::Result<()> {
    out.extend_from_slice(b"{\"id\":\"");
    subject.id.push_to(out);
    out.extend_from_slice(b"\",\"at\":");
    push_number(subject.at, out);
    out.extend_from_slice(b",\"tenant\":");
    serde_json::to_writer(&mut *out, subject.tenant.as_str())?;
    out.extend_from_slice(b",\"token\":");
    match &subject.token {
        Some(token) => serde_json::to_writer(&mut *out, token.as_str())?,
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"endpoint\":");
    serde_json::to_writer(&mut *out, subject.endpoint)?;
    out.extend_from_slice(b",\"route\":");
    serde_json::to_writer(&mut *out, &*subject.route)?;
    out.extend_from_slice(b",\"estimate\":");
    push_number(estimate.0, out);
    out.push(b'}');
    Ok(())
}

/// Writes an [`End`].
fn push_end(id: RequestId, cost: NanoUsd, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":\"");
    id.push_to(out);
    out.extend_from_slice(b"\",\"cost\":");
    push_number(cost.0, out);
    out.push(b'}');
}

fn push_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// The number of the process that a segment belongs to, from its file name.
pub fn process_of(path: &Path) -> Option<i64> {
    let (process, _) = path.file_stem()?.to_str()?.split_once('-')?;
    u64::from_str_radix(process, 16).ok().map(|process| process as i64)
}

/// A segment whose process has ended. Its lock is held until this value is dropped, so that no other process recovers it, too.
pub struct Abandoned {
    path: PathBuf,
    file: File,
}

impl Abandoned {
    /// Takes a segment over; `None` while its process is alive.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        match file.try_lock() {
            // The owner has deleted and closed the file meanwhile.
            Ok(()) if file.metadata()?.nlink() == 0 => Err(io::ErrorKind::NotFound.into()),
            Ok(()) => Ok(Some(Self { path: path.to_owned(), file })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// The number of the process that wrote the segment; `None` if the file name does not say.
    pub fn process(&self) -> Option<i64> {
        process_of(&self.path)
    }

    /// The lines of the segment, and the number of incomplete ones: a process that is killed may leave a part of its last line.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&mut self) -> io::Result<(Vec<Noted>, usize)> {
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes)?;
        let (mut noted, mut broken) = (Vec::new(), 0);
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match parse(line) {
                Some(line) => noted.push(line),
                None => broken += 1,
            }
        }
        Ok((noted, broken))
    }

    /// Deletes the segment, once its requests have their entries in the ledger.
    ///
    /// # Errors
    /// The file cannot be deleted.
    pub fn delete(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

fn parse(line: &[u8]) -> Option<Noted> {
    let Ok(line) = serde_json::from_slice::<Line<'_>>(line) else {
        let End { id, cost } = serde_json::from_slice(line).ok()?;
        return Some(Noted::Settled(RequestId::parse(&id)?, NanoUsd(cost)));
    };
    Some(Noted::Intent(Intent {
        id: RequestId::parse(&line.id)?,
        at: line.at,
        tenant: line.tenant.into_owned(),
        token: line.token.map(Cow::into_owned),
        endpoint: line.endpoint.into_owned(),
        route: line.route.into_owned(),
        estimate: NanoUsd(line.estimate),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject {
            id: RequestId::now(),
            at: 7,
            tenant: "te\"am".into(),
            token: Some("tok_1".into()),
            endpoint: "chat_completions",
            route: "gpt-4o\n".into(),
        }
    }

    fn segments(folder: &Path) -> usize {
        fs::read_dir(folder).map_or(0, Iterator::count)
    }

    #[test]
    fn what_was_noted_is_read_back_once_its_process_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (subject, other) = (subject(), subject());
        let dead = Journal::new(folder.path().into(), 1);
        dead.renew().unwrap();
        let pins = [dead.note(&subject, NanoUsd(5)).unwrap(), dead.note(&other, NanoUsd(6)).unwrap()];
        pins[0].note_end(subject.id, NanoUsd(3)).unwrap();
        let living = Journal::new(folder.path().into(), -2);
        living.renew().unwrap();
        let others = living.others().unwrap();
        assert_eq!((others.len(), process_of(&others[0])), (1, Some(1)));
        assert!(Abandoned::take(&others[0]).unwrap().is_none(), "its process lives");

        // The end of a process, as far as the file knows: its descriptors are closed, nothing is deleted.
        drop((dead, pins));
        assert_eq!(segments(folder.path()), 2);
        let mut torn = OpenOptions::new().append(true).open(&others[0]).unwrap();
        torn.write_all(b"\n{\"id\":\"req_0").unwrap();
        let mut found = Abandoned::take(&others[0]).unwrap().unwrap();
        assert!(Abandoned::take(&others[0]).unwrap().is_none(), "one recovers it at a time");
        let (noted, broken) = found.read().unwrap();
        assert_eq!((noted.len(), broken), (3, 1));
        let intent = |subject: &Subject, estimate| {
            Noted::Intent(Intent {
                id: subject.id,
                at: 7,
                tenant: "te\"am".into(),
                token: Some("tok_1".into()),
                endpoint: "chat_completions".into(),
                route: "gpt-4o\n".into(),
                estimate: NanoUsd(estimate),
            })
        };
        assert_eq!(noted, [intent(&subject, 5), intent(&other, 6), Noted::Settled(subject.id, NanoUsd(3))]);
        found.delete().unwrap();
        assert_eq!(living.others().unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn intents_are_for_their_owner_only_also_in_a_folder_that_was_not() {
        let parent = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for made in [None, Some(0o755), Some(0o777)] {
            let folder = parent.path().join(format!("{made:?}"));
            if let Some(mode) = made {
                fs::create_dir(&folder).unwrap();
                fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            }
            Journal::new(folder.clone(), 1).renew().unwrap();
            let segment = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
            assert_eq!((mode(&folder), mode(&segment)), (0o700, 0o600));
        }
    }

    #[test]
    fn a_closed_segment_goes_with_its_last_pin() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path().into(), 1);
        assert!(journal.note(&subject(), NanoUsd(1)).is_err() && !journal.is_up());
        journal.renew().unwrap();
        let pin = journal.note(&subject(), NanoUsd(1)).unwrap();
        journal.renew().unwrap();
        assert_eq!(segments(folder.path()), 1, "it has room");
        pin.written.store(SEGMENT, Ordering::Relaxed);
        journal.renew().unwrap();
        assert_eq!(segments(folder.path()), 2);
        drop(pin);
        assert_eq!(segments(folder.path()), 1);
    }

    #[test]
    fn a_segment_that_cannot_be_written_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path().into(), 1);
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let segment = Segment {
            path: folder.path().join("x"),
            file: full,
            written: 0.into(),
            begun: Instant::now(),
            closed: false.into(),
        };
        journal.current.store(Some(Arc::new(segment)));
        assert!(journal.is_up());
        assert_eq!(journal.note(&subject(), NanoUsd(1)).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(!journal.is_up());
        journal.renew().unwrap();
        assert!(journal.note(&subject(), NanoUsd(1)).is_ok());
    }
}
