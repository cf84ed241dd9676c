//! Just enough HTTP/1.1 for tests that must see, and send, exactly what is on the wire.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request or an answer.
#[derive(Debug, Clone)]
pub struct Message {
    /// Request or status line, and headers.
    pub head: String,
    pub body: Vec<u8>,
}

impl Message {
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// Of an answer.
    pub fn status(&self) -> u16 {
        let status = self.head.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.unwrap_or_else(|| panic!("not an answer: {}", self.head))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("answers are text")
    }
}

/// A connection, from either side.
pub struct Wire {
    pub stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a live socket");
        Self { stream, read: Vec::new() }
    }

    /// Fails where the other side has gone: some tests are about that.
    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The next message; `None` when the other side has closed the connection, or broken it off.
    pub async fn receive(&mut self) -> Option<Message> {
        let head_end = loop {
            if let Some(at) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let rest = self.read.split_off(head_end);
        let head = String::from_utf8(std::mem::replace(&mut self.read, rest)).expect("heads are ASCII");
        let mut message = Message { head, body: Vec::new() };
        let length: usize = message.header("content-length").map_or(0, |length| length.parse().expect("a length"));
        while self.read.len() < length {
            self.more().await?;
        }
        let rest = self.read.split_off(length);
        message.body = std::mem::replace(&mut self.read, rest);
        Some(message)
    }

    async fn more(&mut self) -> Option<()> {
        matches!(self.stream.read_buf(&mut self.read).await, Ok(1..)).then_some(())
    }
}
