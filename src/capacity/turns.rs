//! Turns: a task that moves many bytes at once yields to others in between.

/// Bytes that a task moves in one turn.
const TURN: usize = 256 << 10;

/// Counts the bytes that a task has moved since it last yielded. If both ends are as fast as the gateway, the task would keep its
/// thread to itself: tokio makes a task yield only after 128 reads, which are 8 MB.
#[derive(Debug, Default)]
pub struct Turns(usize);

impl Turns {
    /// Reports bytes that were moved; yields to other tasks if that completes a turn.
    pub async fn took(&mut self, bytes: usize) {
        self.0 += bytes;
        if self.0 >= TURN {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }
}
