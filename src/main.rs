//! The `can` binary: see [`chittycan::cli`].

fn main() {}
