//! The client's end of an exchange: watches whether it is still there, and writes to it, so that one who is slow or gone ends
//! no exchange that others wait for, or that is to be paid for.

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_error::{Error, ErrorType, Result};

use crate::cache::Lead;

/// What is known of the client of one exchange.
#[derive(Default)]
pub struct Client {
    shield: Option<Shield>,
    parting: Option<Parting>,
    /// When it left; the exchange goes on without it.
    gone: Option<Instant>,
}

/// Lets an exchange go on without its client.
struct Shield {
    lead: Arc<Lead>,
    /// Also when nobody else waits for it.
    finish: bool,
}

/// What becomes of an exchange whose client leaves, where nobody else waits for its answer.
#[derive(Clone, Copy, Debug)]
pub enum Parting {
    /// It goes on for so long: what the provider counted is about to come.
    Linger(Duration),
    /// It goes on to its end.
    Drain,
}

impl Client {
    /// From now on a client that leaves, or does not read, does not end the exchange while others follow `lead`; with
    /// `finish` not even if nobody does.
    pub fn shield(&mut self, session: &mut ServerSession, lead: Arc<Lead>, finish: bool) {
        // Writes that can wait in the session while the provider is read on. HTTP/1 only.
        session.set_proxy_tasks_enabled(true);
        self.shield.get_or_insert(Shield { lead, finish });
    }

    /// From now on the exchange does not end at once when the client leaves.
    pub fn outlived(&mut self, parting: Parting) {
        // The first word holds: what is drained need not linger.
        self.parting.get_or_insert(parting);
    }

    /// True after the client has left and the exchange went on without it.
    pub fn is_gone(&self) -> bool {
        self.gone.is_some()
    }

    /// Ends when the exchange has to end because its client has left; writes meanwhile what that has not read yet. May be
    /// dropped and called again.
    pub async fn left(&mut self, session: &mut ServerSession) -> Box<Error> {
        let error = match self.gone {
            Some(_) => Error::explain(ErrorType::ConnectionClosed, "the client has left"),
            None => match flush(session).await {
                Ok(()) => match session.read_body_or_idle(true).await {
                    // Nothing more is expected of it.
                    Ok(_) => pending().await,
                    Err(error) => error,
                },
                Err(error) => error,
            },
        };
        if let Some(Shield { lead, finish }) = active(&self.shield) {
            self.gone.get_or_insert_with(Instant::now);
            match finish {
                true => pending().await,
                false => lead.abandoned().await,
            }
        }
        match self.parting {
            Some(Parting::Drain) => {
                self.gone.get_or_insert_with(Instant::now);
                pending().await
            }
            Some(Parting::Linger(time)) => {
                let until = *self.gone.get_or_insert_with(Instant::now) + time;
                tokio::time::sleep_until(until.into()).await;
            }
            None => {}
        }
        error.into_down()
    }

    /// Writes to the client. Behind a shield it does not wait for a client that does not read, and not for one that is gone.
    ///
    /// # Errors
    /// A client that is gone, where the exchange need not go on without it.
    pub async fn write(&mut self, session: &mut ServerSession, tasks: Vec<HttpTask>) -> Result<()> {
        if self.is_gone() {
            return Ok(());
        }
        let guarded = active(&self.shield).is_some();
        let queued = waits_to_be_read(session);
        if !session.supports_proxy_task_api() || !guarded && !queued {
            return match session.response_duplex_vec(tasks).await {
                Err(error) => self.go_on_alone(error),
                Ok(_) => Ok(()),
            };
        }
        for task in tasks {
            session.send_downstream_proxy_task(task);
        }
        // Without a flight that others follow nothing is gained by reading on.
        let outcome = match guarded {
            true => session.write_downstream_proxy_tasks().now_or_never().unwrap_or(Ok(false)),
            false => session.write_downstream_proxy_tasks().await,
        };
        match outcome {
            Ok(_) => Ok(()),
            Err(error) => self.go_on_alone(error),
        }
    }

    /// The client cannot be written to: the exchange goes on if others wait for it, or if it is to outlive its client.
    fn go_on_alone(&mut self, error: Box<Error>) -> Result<()> {
        match active(&self.shield) {
            Some(shield) if shield.finish || !shield.lead.abandon() => {}
            _ if self.parting.is_some() => {}
            _ => return Err(error.into_down()),
        }
        self.gone.get_or_insert_with(Instant::now);
        Ok(())
    }
}

/// The shield, while the flight behind it is under way.
fn active(shield: &Option<Shield>) -> Option<&Shield> {
    shield.as_ref().filter(|shield| !shield.lead.is_over())
}

/// True while something waits for a client that is slow to read.
pub fn waits_to_be_read(session: &ServerSession) -> bool {
    session.supports_proxy_task_api() && session.has_pending_downstream_proxy_tasks()
}

/// Writes what waits for a client that is slow to read. May be dropped before it has ended.
///
/// # Errors
/// When the client is gone.
pub async fn flush(session: &mut ServerSession) -> Result<()> {
    while waits_to_be_read(session) {
        session.write_downstream_proxy_tasks().await?;
    }
    Ok(())
}
