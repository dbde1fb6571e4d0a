//! A reply that is held back until it is complete, so that its header can state its cost, its failure can lead to another
//! deployment, and the objects that it names are recorded before its client knows them.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;

use crate::capacity::{MemoryBudget, Part, Refused, SMALL, Share};

/// The memory budget has no room for a reply that must be held; never seen by a client.
pub const NO_ROOM: ErrorType = ErrorType::Custom("NoRoom");

/// Bytes by which the room of a held reply grows.
const STEP: u64 = 256 << 10;

/// Turns a complete reply into what the client gets: may change status, headers and body.
pub type Finish = Box<dyn FnOnce(&mut ResponseHeader, Bytes) -> Bytes + Send + Sync>;

/// How much of a reply is held.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The largest reply that is held, in bytes.
    pub bytes: usize,
    /// True: a reply that is larger, or finds no room in the memory budget, is an error. False: such a reply is passed on
    /// unfinished.
    pub must: bool,
}

/// A reply, as far as it has arrived.
pub struct Held {
    header: Box<ResponseHeader>,
    limit: Limit,
    finish: Finish,
    room: Room,
    chunks: Vec<Bytes>,
    length: usize,
}

impl Held {
    /// A reply whose header has come; `finish` is called with the whole reply.
    pub fn new(header: Box<ResponseHeader>, limit: Limit, memory: &Arc<MemoryBudget>, finish: Finish) -> Self {
        let room = Room { memory: memory.clone(), share: None };
        Self { header, limit, finish, room, chunks: Vec::new(), length: 0 }
    }

    /// Takes more of the body. False if the reply cannot be held, see [`Self::let_through`].
    ///
    /// # Errors
    /// [`NO_ROOM`] or a reply that is too large, where it must be held.
    pub fn push(&mut self, data: Bytes) -> Result<bool> {
        self.length += data.len();
        if !data.is_empty() {
            self.chunks.push(data);
        }
        let fits = self.room.fit(self.length).is_ok();
        let too_large = self.length > self.limit.bytes;
        if !self.limit.must {
            return Ok(fits && !too_large);
        }
        if !fits {
            return Err(Error::explain(NO_ROOM, "the reply finds no room in the memory budget").into_up());
        }
        if too_large {
            return Err(Error::explain(ErrorType::ReadError, "the reply is too large to be held").into_up());
        }
        Ok(true)
    }

    /// The whole reply has come: returns what the client gets.
    pub fn complete(self) -> (Box<ResponseHeader>, Bytes) {
        let Self { mut header, finish, room, chunks, .. } = self;
        let body = finish(&mut header, joined(chunks));
        let body = match room.share {
            // The share is held until the client has read the body.
            Some(share) => share.hold(body),
            None => body,
        };
        header.remove_header(&header::TRANSFER_ENCODING);
        // The value is a number: inserting it cannot fail.
        let _ = header.insert_header(header::CONTENT_LENGTH, body.len());
        (header, body)
    }

    /// Returns what has arrived of the reply, unchanged.
    pub fn let_through(self) -> (Box<ResponseHeader>, Vec<Bytes>) {
        (self.header, self.chunks)
    }
}

/// The body of a reply whose header has left already.
pub enum Withheld {
    /// The body is held until it is complete.
    Reply(Box<Held>),
    /// A body of the gateway's replaces the provider's.
    Instead(Bytes),
}

impl Withheld {
    /// Takes a piece of the body, and returns what the client gets now.
    ///
    /// # Errors
    /// See [`Held::push`].
    pub fn take(this: &mut Option<Self>, data: Bytes, end: bool) -> Result<Bytes> {
        let passes = match this {
            Some(Self::Reply(held)) => !held.push(data)?,
            Some(Self::Instead(_)) => false,
            None => return Ok(data),
        };
        if !passes && !end {
            return Ok(Bytes::new());
        }
        Ok(match this.take() {
            Some(Self::Reply(held)) if passes => joined(held.let_through().1),
            Some(Self::Reply(held)) => held.complete().1,
            Some(Self::Instead(body)) => body,
            None => Bytes::new(),
        })
    }
}

fn joined(mut chunks: Vec<Bytes>) -> Bytes {
    if chunks.len() == 1 {
        return chunks.swap_remove(0);
    }
    let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
    drop(chunks);
    whole.freeze()
}

/// The room of a held reply in the memory budget.
struct Room {
    memory: Arc<MemoryBudget>,
    share: Option<Share>,
}

impl Room {
    /// Makes room for a body of this number of bytes: its pieces, and the whole that is made of them at the end. A small body
    /// needs none.
    fn fit(&mut self, length: usize) -> Result<(), Refused> {
        if length <= SMALL {
            return Ok(());
        }
        let wanted = 2 * length as u64;
        match &mut self.share {
            Some(share) if wanted > share.bytes() => share.grow((wanted - share.bytes()).max(STEP)),
            Some(_) => Ok(()),
            None => self.memory.try_draw(Part::Reply, wanted.max(STEP)).map(|share| self.share = Some(share)),
        }
    }
}
