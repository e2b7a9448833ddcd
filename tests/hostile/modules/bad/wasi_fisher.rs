//! Built for wasm32-wasip2 with plain `cargo build`, and looks for what WASI might give: files, arguments, variables,
//! sockets, the time. Says what it found; and prints more than anybody reads.

use std::{
    net::{TcpListener, TcpStream, UdpSocket},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(_: Context, _: &Guest) -> Result<Outcome, Failure> {
        let mut found = Vec::new();
        for path in ["/etc/passwd", "/proc/self/environ", ".", "/"] {
            if std::fs::read(path).is_ok() || std::fs::read_dir(path).is_ok() {
                found.push(format!("file {path}"));
            }
        }
        if std::fs::write("/tmp/escaped", "x").is_ok() {
            found.push("a place to write".to_owned());
        }
        found.extend(std::env::args().map(|argument| format!("argument {argument}")));
        found.extend(std::env::vars().map(|(name, _)| format!("variable {name}")));
        if TcpStream::connect("127.0.0.1:22").is_ok() || TcpListener::bind("127.0.0.1:0").is_ok() {
            found.push("TCP".to_owned());
        }
        if UdpSocket::bind("127.0.0.1:0").is_ok() {
            found.push("UDP".to_owned());
        }
        if SystemTime::now().duration_since(UNIX_EPOCH).is_ok_and(|time| !time.is_zero()) {
            found.push("the time".to_owned());
        }
        let begun = Instant::now();
        std::hint::black_box((0..1_000_000u64).fold(0, u64::wrapping_add));
        if !begun.elapsed().is_zero() {
            found.push("how time passes".to_owned());
        }
        for number in 0..1000 {
            println!("line {number} on standard output");
        }
        eprint!("\x1b[31mlast words");
        done(format!("found: {found:?}"))
    }
}

bad!(Module);
