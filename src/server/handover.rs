//! The handover of an upgrade: a running gateway gives its sockets, its reservations and its database to its successor.
//!
//! ```text
//! can serve --upgrade        listens on `server.upgrade_socket`, in a folder that only its user can enter
//! SIGQUIT to the old one     connects; each side checks the uid of the other before a byte is exchanged
//!   old ─▶ Hello ◀─ new      the same protocol, the same database
//!   old ─▶ HandoverSnapshot          its budgets are frozen and the database is released
//!   new ─▶ Ready             it owns the database, holds what the old one may still spend, and waits for the listeners
//!   Pingora sends the listeners over a socket of its own in the same folder
//!   old ─▶ HandoverSnapshot          its listeners are closed: it needs no allowance any more
//!   the connection ends      with the old process
//! ```
//!
//! If anything fails before `Ready`, the old gateway takes its database back and continues as before.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use super::ending::Ending;
use crate::{
    ledger::{HandoverSnapshot, Ledger, NoHandover},
    store::Store,
};

/// The version of the protocol; both sides have to speak the same one.
const VERSION: u32 = 1;

/// How long a successor waits for the SIGQUIT that makes the running gateway hand over.
const SIGQUIT: Duration = Duration::from_secs(30);

/// How long the running gateway waits for a successor after SIGQUIT.
const SUCCESSOR: Duration = Duration::from_secs(5);

/// Time between two looks at something that is awaited.
const LOOK: Duration = Duration::from_millis(5);

/// Timeout of each step that takes no time by itself.
const STEP: Duration = Duration::from_secs(5);

/// How long the old gateway may take to write settled requests, and the successor to read what was spent.
const WORK: Duration = Duration::from_secs(60);

/// The largest message that is read, in bytes: enough for more than a million open requests.
const MAX_MESSAGE: u32 = 256 << 20;

/// Suffix of the name of Pingora's socket, after that of the upgrade socket.
const LISTENERS: &str = "-listeners";

/// The longest path of a Unix socket, in bytes.
const MAX_PATH: usize = 107;

/// The first message of each side.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    version: u32,
    pid: u32,
    /// The name by which every process knows the store; `None` while its folder does not exist.
    database: Option<String>,
}

/// Message of the successor: it has taken over.
#[derive(Debug, Serialize, Deserialize)]
struct Ready;

/// Pingora's socket, over which it sends the listeners. Pingora makes it accessible to everybody, so it is in the same private
/// folder.
pub fn listeners_socket(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(LISTENERS);
    path.into()
}

/// What a successor got from the gateway before it, and the connection to that gateway.
pub struct Incoming {
    /// The money that the old gateway may still spend.
    pub handed: HandoverSnapshot,
    stream: UnixStream,
}

impl Incoming {
    /// Waits for the running gateway to hand over. Blocks.
    ///
    /// # Errors
    /// The folder is not private, or the running gateway does not come in time, belongs to another user or has another database.
    pub fn wait(socket: &Path, store: &dyn Store) -> Result<Self, String> {
        let uid = own_uid().map_err(|error| error.to_string())?;
        private_folder(socket, uid, true)?;
        let shown = socket.display();
        let at = |error: io::Error| format!("server.upgrade_socket: {shown}: {error}");
        if UnixStream::connect(socket).is_ok() {
            return Err(format!("server.upgrade_socket: {shown}: another upgrade is under way"));
        }
        // Sockets left behind by processes that are gone.
        for left in [socket, &listeners_socket(socket)] {
            match fs::remove_file(left) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(error)),
                _ => {}
            }
        }
        let listener = UnixListener::bind(socket).map_err(at)?;
        let _remove = RemoveOnDrop(socket);
        // Nobody else can enter the folder; the mode repeats that.
        fs::set_permissions(socket, fs::Permissions::from_mode(0o600)).map_err(at)?;
        let mut stream = accept(&listener, socket, uid)?;
        let failed = |error: io::Error| format!("the running gateway did not hand over: {error}");
        let other: Hello = read(&mut stream, STEP).map_err(failed)?;
        send(&mut stream, &hello(store)).map_err(failed)?;
        agree(&other, store)?;
        let handed = read(&mut stream, WORK).map_err(failed)?;
        Ok(Self { handed, stream })
    }

    /// Tells the old gateway to send its listeners, once Pingora's socket is there. Then passes each further snapshot of that
    /// gateway to `inherit`, until the connection ends. Blocks.
    pub fn follow(mut self, listeners: &Path, mut inherit: impl FnMut(HandoverSnapshot)) {
        let begun = Instant::now();
        while !listeners.exists() && begun.elapsed() < STEP {
            thread::sleep(LOOK);
        }
        if let Err(error) = send(&mut self.stream, &Ready) {
            // Pingora gives up too if it gets no listeners.
            tracing::error!(%error, "the gateway before this one did not wait to be taken over");
            return;
        }
        while let Ok(handed) = read(&mut self.stream, Duration::MAX) {
            inherit(handed);
        }
    }
}

fn accept(listener: &UnixListener, socket: &Path, uid: u32) -> Result<UnixStream, String> {
    let shown = socket.display();
    listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    let begun = Instant::now();
    while begun.elapsed() < SIGQUIT {
        match listener.accept() {
            Ok((stream, _)) => match check_peer(&stream, uid) {
                Ok(()) => return Ok(stream),
                Err(error) => tracing::error!(%error, socket = %shown, "refused a connection to the upgrade socket"),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(LOOK),
            Err(error) => return Err(format!("server.upgrade_socket: {shown}: {error}")),
        }
    }
    Err(format!(
        "no gateway has handed over within {} s: send SIGQUIT to the running one, which must have the same \
         `server.upgrade_socket` ({shown}); where none runs, start without `--upgrade`",
        SIGQUIT.as_secs()
    ))
}

struct RemoveOnDrop<'a>(&'a Path);

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

/// The old gateway's side of a hand-over.
pub struct Outgoing {
    socket: PathBuf,
    ledger: Arc<Ledger>,
    /// The connection to the successor that has taken over.
    successor: Mutex<Option<UnixStream>>,
}

/// Why there was no handover; this gateway continues.
#[derive(Debug)]
pub enum Failure {
    /// No successor came in time.
    Nobody(PathBuf),
    /// A check failed; the message says which.
    Refused(String),
    /// The ledger cannot state what is spent and reserved.
    Ledger(NoHandover),
    /// The connection to the successor failed, or the successor did.
    Io(io::Error),
}

impl Outgoing {
    /// Does nothing until a signal comes.
    pub fn new(socket: PathBuf, ledger: Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self { socket, ledger, successor: Mutex::default() })
    }

    /// Gives reservations and database to a successor; Pingora may send it the listeners then. Blocks.
    fn hand_over(&self) -> Result<(), Failure> {
        let mut stream = self.connect()?;
        send(&mut stream, &hello(&**self.ledger.store())).map_err(Failure::Io)?;
        let other: Hello = read(&mut stream, STEP).map_err(Failure::Io)?;
        agree(&other, &**self.ledger.store()).map_err(Failure::Refused)?;
        let handed = self.ledger.freeze().map_err(Failure::Ledger)?;
        self.ledger.let_go();
        let taken: io::Result<Ready> = send(&mut stream, &handed).and_then(|()| read(&mut stream, WORK));
        match taken {
            Ok(Ready) => {
                *self.successor.lock() = Some(stream);
                tracing::info!(successor = other.pid, requests = handed.open.len(), "handed over");
                Ok(())
            }
            Err(error) => {
                // The closed connection tells a late successor that it has not taken over.
                drop(stream);
                while let Err(error) = self.ledger.take_back(STEP) {
                    tracing::error!(%error, "the successor failed and keeps the database; nothing new is granted");
                }
                self.ledger.thaw();
                Err(Failure::Io(error))
            }
        }
    }

    fn connect(&self) -> Result<UnixStream, Failure> {
        let uid = own_uid().map_err(Failure::Io)?;
        let begun = Instant::now();
        while begun.elapsed() < SUCCESSOR {
            if self.socket.parent().is_some_and(Path::exists) {
                private_folder(&self.socket, uid, false).map_err(Failure::Refused)?;
            }
            match UnixStream::connect(&self.socket) {
                Ok(stream) => {
                    check_peer(&stream, uid).map_err(Failure::Refused)?;
                    return Ok(stream);
                }
                Err(_) => thread::sleep(LOOK),
            }
        }
        Err(Failure::Nobody(self.socket.clone()))
    }

    /// Whether another gateway has taken over.
    pub fn has_successor(&self) -> bool {
        self.successor.lock().is_some()
    }

    /// To be called when the listeners are closed: no request comes any more, so the successor gets the allowance back. Blocks.
    pub fn drained(&self) {
        let mut successor = self.successor.lock();
        let Some(stream) = &mut *successor else { return };
        let told =
            self.ledger.drain().map_err(Failure::Ledger).and_then(|rest| send(stream, &rest).map_err(Failure::Io));
        if let Err(error) = told {
            tracing::error!(%error, "the successor gets back what this gateway does not need only when it ends");
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody(socket) => write!(
                f,
                "no successor within {} s on {}: start it with `can serve --upgrade` and the same `server.upgrade_socket`",
                SUCCESSOR.as_secs(),
                socket.display()
            ),
            Self::Refused(message) => f.write_str(message),
            Self::Ledger(NoHandover::Unwritten) => {
                f.write_str("the ledger cannot be written in time: a successor would not know what is spent")
            }
            Self::Ledger(NoHandover::Unfinished) => {
                f.write_str("the gateway before this one still has requests under way; try again when it has ended")
            }
            Self::Io(error) => write!(f, "the successor failed: {error}"),
        }
    }
}

/// The signals that end a gateway: SIGQUIT hands over to a successor, SIGTERM lets open requests end, SIGINT does not.
pub struct Signals {
    /// Hands over to a successor.
    pub outgoing: Arc<Outgoing>,
    /// Ends the gateway without a successor.
    pub ending: Arc<Ending>,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let mut quit = heard(SignalKind::quit());
        let mut terminate = heard(SignalKind::terminate());
        let mut interrupt = heard(SignalKind::interrupt());
        loop {
            let handed_over = async {
                next(&mut quit).await;
                let (done, outcome) = oneshot::channel();
                let outgoing = self.outgoing.clone();
                // Not on the runtime, which would wait for this work when it ends.
                let spawned = thread::Builder::new().name("handover".into()).spawn(move || {
                    // Another signal may have ended the wait.
                    let _ = done.send(outgoing.hand_over());
                });
                match spawned {
                    Ok(_) => outcome.await.unwrap_or(Err(Failure::Io(io::ErrorKind::Other.into()))),
                    Err(error) => Err(Failure::Io(error)),
                }
            };
            tokio::select! {
                outcome = handed_over => match outcome {
                    Ok(()) => return ShutdownSignal::GracefulUpgrade,
                    Err(error) => tracing::error!(%error, "no upgrade: this gateway goes on serving"),
                },
                () = next(&mut terminate) => break,
                () = next(&mut interrupt) => return ShutdownSignal::FastShutdown,
            }
        }
        tokio::select! {
            () = self.ending.announce() => ShutdownSignal::GracefulTerminate,
            // Whoever sends the signal twice does not want to wait.
            () = next(&mut terminate) => ShutdownSignal::GracefulTerminate,
            () = next(&mut interrupt) => ShutdownSignal::FastShutdown,
        }
    }
}

fn heard(kind: SignalKind) -> Option<Signal> {
    signal(kind).map_err(|error| tracing::error!(%error, ?kind, "a signal cannot be heard")).ok()
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => _ = signal.recv().await,
        None => std::future::pending().await,
    }
}

fn hello(store: &dyn Store) -> Hello {
    Hello { version: VERSION, pid: std::process::id(), database: store.name() }
}

/// Whether the other side is a gateway that this one can take over from, or hand over to.
fn agree(other: &Hello, store: &dyn Store) -> Result<(), String> {
    let own = hello(store);
    if other.version != own.version {
        return Err(format!(
            "process {} hands over by version {} of the protocol, this one by version {}: stop the old gateway and start \
             the new one without `--upgrade`",
            other.pid, other.version, own.version
        ));
    }
    if other.database != own.database {
        let shown = |name: &Option<String>| name.clone().unwrap_or_else(|| "none".into());
        return Err(format!(
            "process {} has the database {}, this one has {}: an upgrade keeps the database; stop the old gateway and start \
             the new one without `--upgrade`",
            other.pid,
            shown(&other.database),
            shown(&own.database)
        ));
    }
    Ok(())
}

/// Checks that the folder of the socket belongs to this user and is closed to others. With `make`, a missing folder is made.
fn private_folder(socket: &Path, uid: u32, make: bool) -> Result<(), String> {
    let folder = socket.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fault = |what: String| Err(format!("server.upgrade_socket: the folder {} {what}", folder.display()));
    if socket.as_os_str().len() + LISTENERS.len() > MAX_PATH {
        return fault(format!("is too deep: the path of a Unix socket has at most {MAX_PATH} bytes"));
    }
    if make
        && let Err(error) = fs::DirBuilder::new().mode(0o700).create(folder)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return fault(format!("cannot be made: {error}"));
    }
    let facts = match fs::symlink_metadata(folder) {
        Ok(facts) => facts,
        Err(error) => return fault(format!("cannot be read: {error}")),
    };
    let mode = facts.mode() & 0o7777;
    match () {
        () if !facts.is_dir() => fault("is no folder of its own, but a link or a file".into()),
        () if facts.uid() != uid => fault(format!("belongs to user {}, not to this process's user {uid}", facts.uid())),
        () if mode & 0o077 != 0 => fault(format!("is open to other users (mode {mode:04o}): it must be 0700")),
        () => Ok(()),
    }
}

/// Checks which user's process is at the other end.
fn check_peer(stream: &UnixStream, uid: u32) -> Result<(), String> {
    match stream.try_clone().and_then(peer_uid).and_then(|peer| stream.set_nonblocking(false).map(|()| peer)) {
        Ok(peer) if peer == uid => Ok(()),
        Ok(peer) => Err(format!("its process belongs to user {peer}, not to this process's user {uid}")),
        Err(error) => Err(format!("its user cannot be told: {error}")),
    }
}

/// The effective user of this process, as others see it at the other end of a socket.
fn own_uid() -> io::Result<u32> {
    let (one, _other) = UnixStream::pair()?;
    peer_uid(one)
}

/// The user at the other end (`SO_PEERCRED`, which the standard library does not offer yet). Makes the socket non-blocking.
fn peer_uid(stream: UnixStream) -> io::Result<u32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    stream.set_nonblocking(true)?;
    Ok(tokio::net::UnixStream::from_std(stream)?.peer_cred()?.uid())
}

/// Sends a message: its length, then JSON.
fn send(stream: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    stream.set_write_timeout(Some(STEP))?;
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&text)
}

/// Reads a message; with `Duration::MAX` it waits without a limit.
fn read<T: DeserializeOwned>(stream: &mut UnixStream, patience: Duration) -> io::Result<T> {
    stream.set_read_timeout(Some(patience).filter(|patience| *patience != Duration::MAX))?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
