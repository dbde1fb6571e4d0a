//! What goes over the wire between clients, the gateway and providers, as plain Rust over bytes and JSON: no socket, no database.
//!
//! | module | what it knows |
//! |---|---|
//! | [`types`] | ids, money, usage, secrets |
//! | [`openai`] | endpoints, peeking into and splicing raw bodies, usage, error shapes, the stream relay |
//! | [`sse`] | event boundaries, writing events |
//! | [`dialect`] | translators: OpenAI Chat to and from Anthropic Messages, OpenAI Responses, Ollama |

// Tests may unwrap; the build without tests keeps the lint for the code itself.
#![cfg_attr(test, allow(clippy::unwrap_used))]

/// The methods of a [`serde::de::Visitor`] that passes over numbers, `true`, `false` and `null`: its value is `()`.
#[macro_export]
macro_rules! skip_scalars {
    () => {
        fn visit_bool<E>(self, _: bool) -> Result<(), E> {
            Ok(())
        }

        fn visit_i64<E>(self, _: i64) -> Result<(), E> {
            Ok(())
        }

        fn visit_u64<E>(self, _: u64) -> Result<(), E> {
            Ok(())
        }

        fn visit_f64<E>(self, _: f64) -> Result<(), E> {
            Ok(())
        }

        fn visit_unit<E>(self) -> Result<(), E> {
            Ok(())
        }
    };
}

pub mod dialect;
pub mod openai;
pub mod sse;
pub mod types;
