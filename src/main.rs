//! The `can` binary: see [`chittycan::cli`].

fn main() -> std::process::ExitCode {
    chittycan::cli::main()
}
