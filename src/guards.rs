//! Guards: inspect prompts and replies on their way, and stop those that they block.
//!
//! There are three points, and the guards are awaited at each: before a request is dispatched (before the cache is asked and
//! money is held), before a whole reply is delivered, and between the events of a stream. A prompt that is blocked reaches no
//! provider. A reply that is blocked reaches neither its client, nor the followers, nor the cache.
//!
//! Paths that are only forwarded, errors of providers, and answers from the cache are not inspected; the latter were inspected
//! when they were made.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{
    error::{Fault, GatewayError},
    openai::Texts,
};

/// The point at which a request or its reply is inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// The request was read and routed; its texts are those of the whole body that a provider would be asked with.
    BeforeDispatch,
    /// A whole JSON reply is complete, in the client's dialect.
    BeforeDelivery,
    /// A piece of an event stream is about to be written, in the client's dialect: the whole events that came together. Pieces
    /// without text are not shown. A text of the answer may be spread over several.
    BetweenEvents,
}

/// A guard's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardVerdict {
    /// The content goes on unchanged.
    Pass,
    /// The content goes no further; the client gets this error.
    Block(Box<GatewayError>),
}

impl GuardVerdict {
    /// A block with this message for the client. The message should say what is not allowed, and not repeat it.
    pub fn block(message: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self::Block(Box::new(GatewayError::new(Fault::ContentBlocked, message)))
    }
}

/// Inspects texts. Called once at each point that a request reaches; holds up that request alone.
#[async_trait]
pub trait Guard: Send + Sync {
    /// Decides about these texts. The future is dropped if the client leaves.
    async fn inspect(&self, at: Point, texts: &Texts) -> GuardVerdict;
}

/// All guards of a configuration, in the order in which they are asked.
#[derive(Clone, Default)]
pub struct Guards(Vec<Arc<dyn Guard>>);

impl Guards {
    /// These guards, in this order.
    pub fn new(guards: Vec<Arc<dyn Guard>>) -> Self {
        Self(guards)
    }

    /// No guard is installed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Asks one guard after the other.
    ///
    /// # Errors
    /// The error of the first guard that blocks.
    pub async fn inspect(&self, at: Point, texts: &Texts) -> Result<(), GatewayError> {
        for guard in &self.0 {
            if let GuardVerdict::Block(error) = guard.inspect(at, texts).await {
                return Err(*error);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Guards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} guards", self.0.len())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    struct Noted(&'static str, Arc<Mutex<Vec<String>>>);

    #[async_trait]
    impl Guard for Noted {
        async fn inspect(&self, at: Point, texts: &Texts) -> GuardVerdict {
            self.1.lock().push(format!("{} {at:?}", self.0));
            match texts.iter().any(|(_, _, text)| text.contains(self.0)) {
                true => GuardVerdict::block(format!("not {}", self.0)),
                false => GuardVerdict::Pass,
            }
        }
    }

    #[tokio::test]
    async fn they_are_asked_in_order_until_one_blocks() {
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let guard = |word| Arc::new(Noted(word, seen.clone())) as Arc<dyn Guard>;
        let guards = Guards::new(vec![guard("a"), guard("b"), guard("c")]);
        assert!(!guards.is_empty() && Guards::default().is_empty());
        let texts = |text: &str| Texts::of_reply(format!(r#"{{"content":"{text}"}}"#).into()).unwrap();
        assert_eq!(guards.inspect(Point::BeforeDelivery, &texts("x")).await, Ok(()));
        assert_eq!(seen.lock().len(), 3);
        let error = guards.inspect(Point::BeforeDispatch, &texts("cb")).await.unwrap_err();
        assert_eq!((error.fault, &*error.message, error.status()), (Fault::ContentBlocked, "not b", 400));
        assert_eq!(seen.lock()[3..], ["a BeforeDispatch", "b BeforeDispatch"]);
    }
}
