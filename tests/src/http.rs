//! A small real HTTP server and client.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::command::Running;
use crate::netns::Namespace;
use crate::wait;

/// A server that serves one page in a namespace, until dropped.
#[derive(Debug)]
pub struct Server {
    _process: Running,
    _pages: tempfile::TempDir,
}

impl Server {
    /// Starts the server; it accepts connections when this returns.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn start(namespace: &Namespace, address: SocketAddr, page: &str) -> Result<Self> {
        let pages = tempfile::tempdir().context("failed to create directory for pages")?;
        let index = pages.path().join("index.html");
        fs::write(&index, page).with_context(|| format!("failed to write: {}", index.display()))?;
        let child = namespace
            .command("busybox")
            .args(["httpd", "-f", "-p", &address.to_string(), "-h"])
            .arg(pages.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("failed to start: busybox httpd")?;
        let process = Running(child);
        wait::until("http server", || namespace.enter(|| listens(address.port())))?;
        Ok(Self {
            _process: process,
            _pages: pages,
        })
    }
}

/// Whether a socket of the current namespace listens on this port.
fn listens(port: u16) -> Result<bool> {
    let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"].map(Path::new);
    for table in tables.into_iter().filter(|table| table.exists()) {
        let sockets =
            fs::read_to_string(table).with_context(|| format!("failed to read: {}", table.display()))?;
        if has_listener(&sockets, port) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_listener(sockets: &str, port: u16) -> bool {
    let local = format!(":{port:04X}");
    sockets.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        // local address, remote address, state; 0A is LISTEN
        words.next().is_some_and(|address| address.ends_with(&local)) && words.nth(1) == Some("0A")
    })
}

/// Gets a page; returns its body.
///
/// # Errors
///
/// When there is no connection within the limit, or the answer is not a page.
pub fn get(address: SocketAddr) -> Result<String> {
    let failed = || format!("failed to get page: http://{address}/");
    let mut stream = TcpStream::connect_timeout(&address, wait::LIMIT).with_context(failed)?;
    stream.set_read_timeout(Some(wait::LIMIT)).with_context(failed)?;
    stream
        .write_all(format!("GET / HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())
        .with_context(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(failed)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.lines().next().is_some_and(|line| line.contains(" 200 ")) => {
            Ok(body.to_owned())
        }
        _ => bail!(
            "{}: {}",
            failed(),
            answer.lines().next().unwrap_or("empty answer")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_listening_sockets_only() {
        let table = "  sl  local_address rem_address   st\n   0: 0303F40A:1F90 00000000:0000 0A 0\n   \
                     1: 0303F40A:0050 00000000:0000 01 0\n";
        assert!(has_listener(table, 8080));
        assert!(!has_listener(table, 80));
    }
}
