//! Pools of threads for work that takes long, so that the workers that serve connections never wait for it.
//!
//! The threads have a lower priority than the others of the process, on systems that have one for each thread (Linux): while they
//! are busy, a small request gets its processor first. A thread without work ends, and releases its memory.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};

/// How long a thread waits for more work before it ends.
const IDLE: Duration = Duration::from_secs(5);

/// Why work was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRun {
    /// No thread came free in the time that the caller would wait, or too many waited already.
    Busy,
    /// The work panicked, or no thread could be started.
    Failed,
}

type Job = Box<dyn FnOnce() + Send>;

/// A bounded number of threads, and a bounded queue before them.
pub struct Pool {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue: usize,
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    nice: i32,
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Threads that wait for a job, without those that were given one already.
    idle: usize,
}

impl Pool {
    /// A pool of at most `threads` threads, started when there is work, and at most `queue` callers that wait for one. The
    /// threads' nice value (`nice(2)`) is `nice` higher than that of those that serve connections.
    pub fn new(name: &'static str, threads: usize, queue: usize, nice: i32) -> Self {
        Self {
            places: Arc::new(Semaphore::new(threads)),
            waiting: AtomicUsize::new(0),
            queue,
            shared: Arc::new(Shared { name, nice, state: Mutex::default(), more: Condvar::new() }),
        }
    }

    /// Runs `work` on a thread of the pool, in its turn. Work whose caller has left before its turn is not begun; work that has
    /// begun is finished.
    ///
    /// # Errors
    /// The turn did not come within `patience`, or the queue is full; or the work panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotRun> {
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let waits = Waiting::enter(&self.waiting);
                if waits.before >= self.queue {
                    return Err(NotRun::Busy);
                }
                match timeout(patience, self.places.clone().acquire_owned()).await {
                    Ok(Ok(place)) => place,
                    _ => return Err(NotRun::Busy),
                }
            }
        };
        self.on_thread(place, work).await
    }

    /// Like [`Self::run`], for work that has to be done: waits for as long as it takes.
    ///
    /// # Errors
    /// The work panicked.
    pub async fn run_surely<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, NotRun> {
        let place = self.places.clone().acquire_owned().await.map_err(|_| NotRun::Failed)?;
        self.on_thread(place, work).await
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        place: OwnedSemaphorePermit,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotRun> {
        let (sender, outcome) = oneshot::channel();
        let job = move || {
            // A panic drops the sender, which informs the caller, and the place.
            let done = work();
            drop(place);
            let _ = sender.send(done);
        };
        self.shared.clone().take(Box::new(job)).map_err(|_| NotRun::Failed)?;
        outcome.await.map_err(|_| NotRun::Failed)
    }
}

impl Shared {
    /// Gives a job to an idle thread, or to a new one. There are never more jobs than places, so no job waits for long.
    fn take(self: Arc<Self>, job: Job) -> std::io::Result<()> {
        let mut state = self.lock();
        if state.idle > 0 {
            state.idle -= 1;
            state.jobs.push_back(job);
            drop(state);
            self.more.notify_one();
            return Ok(());
        }
        drop(state);
        let shared = self.clone();
        thread::Builder::new().name(self.name.to_owned()).spawn(move || shared.work(job)).map(drop)
    }

    fn work(&self, first: Job) {
        yield_to_others(self.nice);
        let mut job = first;
        loop {
            // The default hook has logged the panic; the thread goes on.
            let _ = catch_unwind(AssertUnwindSafe(job));
            let mut state = self.lock();
            state.idle += 1;
            let until = Instant::now() + IDLE;
            job = loop {
                if let Some(job) = state.jobs.pop_front() {
                    break job;
                }
                let Some(left) = until.checked_duration_since(Instant::now()) else {
                    state.idle -= 1;
                    return;
                };
                self.more.wait_for(&mut state, left);
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Lowers the priority of the current thread. If this fails, the thread only has the same priority as the others.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn yield_to_others(nice: i32) {
    // SAFETY: a system call on numbers; on Linux 0 is the calling thread.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, nice);
    }
}

/// On other systems a priority applies to the whole process.
#[cfg(not(target_os = "linux"))]
fn yield_to_others(_: i32) {}

/// Counts a caller that waits, until it is dropped.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        Self { count, before: count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// Work that goes on until it is told to end, and a way to wait for its beginning.
    fn held() -> (impl FnOnce() + Send + 'static, oneshot::Receiver<()>, mpsc::Sender<()>) {
        let (begun, begins) = oneshot::channel();
        let (end, ends) = mpsc::channel::<()>();
        let work = move || {
            let _ = begun.send(());
            let _ = ends.recv();
        };
        (work, begins, end)
    }

    #[tokio::test]
    async fn work_is_done_elsewhere_and_panics_stay_there() {
        let pool = Pool::new("test", 1, 8, 1);
        let here = thread::current().id();
        assert_ne!(pool.run(LONG, move || thread::current().id()).await.unwrap(), here);
        assert_eq!(pool.run(LONG, || panic!("meant")).await, Err::<(), _>(NotRun::Failed));
        assert_eq!(pool.run(LONG, || 5).await, Ok(5));
    }

    #[tokio::test]
    async fn no_more_run_than_there_are_threads_and_the_others_wait_or_leave() {
        let pool = Arc::new(Pool::new("test", 2, 1, 1));
        let mut ends = Vec::new();
        let mut running = Vec::new();
        for _ in 0..2 {
            let (work, begins, end) = held();
            let pool = pool.clone();
            running.push(tokio::spawn(async move { pool.run(LONG, work).await }));
            begins.await.unwrap();
            ends.push(end);
        }
        // The third caller waits without a limit.
        assert_eq!(pool.run(Duration::from_millis(10), || ()).await, Err(NotRun::Busy));
        let waiting = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(LONG, || "late").await }
        });
        while pool.waiting.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        // The queue has room for one.
        assert_eq!(pool.run(LONG, || ()).await, Err(NotRun::Busy));
        drop(ends);
        assert_eq!(waiting.await.unwrap(), Ok("late"));
        for one in running {
            assert_eq!(one.await.unwrap(), Ok(()));
        }
    }

    #[tokio::test]
    async fn a_place_stays_taken_while_work_goes_on_that_nobody_waits_for() {
        let pool = Arc::new(Pool::new("test", 1, 8, 1));
        let (work, begins, end) = held();
        let left = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(LONG, work).await }
        });
        begins.await.unwrap();
        left.abort();
        let _ = left.await;
        assert_eq!(pool.run(Duration::from_millis(10), || ()).await, Err(NotRun::Busy));
        drop(end);
        assert_eq!(pool.run_surely(|| 1).await, Ok(1));
    }
}
