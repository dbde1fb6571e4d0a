//! `can health`: asks a running gateway whether it is ready. For health checks in containers without curl.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

use clap::Args;

const PATIENCE: Duration = Duration::from_secs(2);

/// Ask a running gateway whether it is ready: the exit code is 0 if it is.
#[derive(Args, Debug)]
pub struct Health {
    /// The address of the admin listener.
    #[arg(long, env = "CAN_ADMIN_LISTEN", default_value = "127.0.0.1:8081", value_name = "ADDRESS")]
    admin: SocketAddr,
}

/// Asks the admin listener, and prints its answer if the gateway is not ready.
pub fn run(args: &Health) -> ExitCode {
    match get(args.admin, "/readyz", None) {
        Ok(reply) if reply.starts_with("HTTP/1.1 200 ") || reply.starts_with("HTTP/1.0 200 ") => ExitCode::SUCCESS,
        Ok(reply) => {
            eprintln!("not ready: {}", reply.lines().next().unwrap_or("no answer"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("not ready: {}: {error}", args.admin);
            ExitCode::FAILURE
        }
    }
}

/// Sends a GET request to the admin listener, and returns the reply with its head and body.
pub(super) fn get(admin: SocketAddr, path: &str, token: Option<&str>) -> std::io::Result<String> {
    // A listening address such as 0.0.0.0 is not an address to connect to.
    let ip = match admin.ip() {
        ip if ip.is_unspecified() && ip.is_ipv6() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, admin.port()), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let token = token.filter(|token| token.bytes().all(|b| b.is_ascii_graphic()));
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {ip}\r\n{token}\r\n").as_bytes())?;
    let mut reply = String::new();
    stream.take(64 * 1024).read_to_string(&mut reply)?;
    Ok(reply)
}
