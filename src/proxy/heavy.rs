//! Heavy: work on a large body, with room in the memory budget and on a thread that no connection waits for.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    capacity::{Capacity, NotRun, PATIENCE, Part, Pool, Refused, SMALL, Share, THREAD_PATIENCE},
    error::{Fault, GatewayError},
};

/// Bodies up to this size, in bytes, are worked on in the request's own task: that takes less than a millisecond.
pub const INLINE: usize = 256 << 10;

/// Bytes that light work may take without asking the memory budget: the trees of small requests, of which each worker has one at
/// a time.
const UNASKED: u64 = 4 << 20;

/// Bytes that work on a thread of a pool may take without asking the memory budget.
const SMALL_WORK: u64 = SMALL as u64;

/// When a client may try again: memory that other requests hold comes free within seconds.
const RETRY: Duration = Duration::from_secs(1);

/// A piece of work, by the bytes it reads and the memory it takes.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Bytes that are read.
    pub bytes: usize,
    /// Bytes of memory that are taken meanwhile.
    pub memory: u64,
}

impl Load {
    /// Reading a body, or writing a new one from it. At most one of its values is copied at a time.
    pub fn reading(bytes: usize) -> Self {
        Self { bytes, memory: bytes as u64 }
    }

    /// Listing where the texts of a body with this number of values stand, in a list that doubles as it grows.
    pub fn listing(bytes: usize, values: usize) -> Self {
        Self { bytes, memory: bytes as u64 + 36 * values as u64 }
    }

    /// Bringing a body with this number of values into its canonical form: two copies, in which a number may grow by half, and
    /// the places of its members.
    pub fn canonical(bytes: usize, values: usize) -> Self {
        Self { bytes, memory: 3 * bytes as u64 + 40 * values as u64 }
    }

    /// Translating a body with this number of values into another dialect: two trees at a time, and the new body.
    pub fn translating(bytes: usize, values: usize) -> Self {
        Self { bytes, memory: 4 * bytes as u64 + 400 * values as u64 }
    }

    /// The work is done in the request's own task.
    pub fn is_light(&self) -> bool {
        self.bytes <= INLINE && self.memory <= UNASKED
    }
}

/// Does `work` on a thread of the parsing pool, and passes it its share of the memory budget, to be kept with the result. Light
/// work is done at once and gets no share.
///
/// # Errors
/// There is no room or no thread for the work, or it panicked.
pub async fn run<T: Send + 'static>(
    capacity: &Capacity,
    load: Load,
    work: impl FnOnce(Option<Share>) -> T + Send + 'static,
) -> Result<T, GatewayError> {
    if load.is_light() {
        return Ok(work(None));
    }
    run_in(&capacity.parsing, capacity, load, work).await
}

/// Like [`run`], on a thread of another pool, for light work too.
///
/// # Errors
/// As for [`run`].
pub async fn run_in<T: Send + 'static>(
    pool: &Pool,
    capacity: &Capacity,
    load: Load,
    work: impl FnOnce(Option<Share>) -> T + Send + 'static,
) -> Result<T, GatewayError> {
    let share = match load.memory {
        0..=SMALL_WORK => None,
        memory => Some(capacity.memory.draw(Part::Work, memory, PATIENCE).await.map_err(|why| no_room(why, memory))?),
    };
    pool.run(THREAD_PATIENCE, move || work(share)).await.map_err(|why| match why {
        NotRun::Busy => overloaded("The gateway has no thread free for a request of this size."),
        NotRun::Failed => GatewayError::new(Fault::Internal, "The request body could not be processed."),
    })
}

/// Ties a new body to the share of the work that made it, or to a share of its own. A small body needs none.
///
/// # Errors
/// There is no room for the body.
pub fn keep(capacity: &Capacity, share: Option<Share>, made: Bytes) -> Result<Bytes, GatewayError> {
    let length = made.len() as u64;
    if made.len() <= SMALL {
        return Ok(made);
    }
    let share = match share {
        Some(mut share) => {
            let more = length.saturating_sub(share.bytes());
            if more > 0 { share.grow(more).map(|()| share) } else { Ok(share) }
        }
        None => capacity.memory.try_draw(Part::Work, length),
    };
    share.map(|share| share.hold(made)).map_err(|why| no_room(why, length))
}

/// Makes room in the memory budget for a buffer that has grown to this number of bytes.
///
/// # Errors
/// There is no room for the buffer.
pub fn fit(capacity: &Capacity, room: &mut Option<Share>, bytes: usize) -> Result<(), GatewayError> {
    let wanted = bytes as u64;
    let drawn = match room {
        Some(share) if share.bytes() >= wanted => Ok(()),
        // By half at least, so that a long buffer does not ask for each piece.
        Some(share) => share.grow((wanted - share.bytes()).max(share.bytes() / 2)),
        None => capacity.memory.try_draw(Part::Work, wanted).map(|share| *room = Some(share)),
    };
    drawn.map_err(|why| no_room(why, wanted))
}

/// The error for a refusal of the memory budget; `wanted` is in bytes.
pub fn no_room(why: Refused, wanted: u64) -> GatewayError {
    match why {
        Refused::Full => overloaded("The gateway's memory budget (server.memory_budget) is in use by other requests."),
        Refused::Never(most) => {
            let message = format!(
                "The request needs {wanted} bytes of memory at once, and the gateway's memory budget has {most} for one request \
                 (server.memory_budget)."
            );
            GatewayError::new(Fault::BodyTooLarge, message)
        }
    }
}

fn overloaded(why: &str) -> GatewayError {
    let error = GatewayError::new(Fault::Overloaded, format!("{why} Please try again in {} s.", RETRY.as_secs()));
    GatewayError { retry_after: Some(RETRY), ..error }
}
