//! Integration tests: the real server on port 0, recording fakes, raw sockets. One binary, because linking is slow.

mod bodies;
mod credentials;
mod errors;
mod failover;
mod streams;
mod support;
mod surface;
