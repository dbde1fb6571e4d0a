//! Turns: who moves many bytes at once lets others have their turn.

/// So many bytes are moved in one turn.
const TURN: usize = 256 << 10;

/// Bytes that a task has moved since others last had their turn. Where both ends are as fast as we are it would keep its thread to
/// itself: tokio makes a task yield only after 128 reads, which are 8 MB.
#[derive(Debug, Default)]
pub struct Turns(usize);

impl Turns {
    /// So many bytes were moved; waits for the others where that makes a turn.
    pub async fn took(&mut self, bytes: usize) {
        self.0 += bytes;
        if self.0 >= TURN {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }
}
