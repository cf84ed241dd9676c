//! As much of HTTP/1.1 as the load generator and the sink need of their known partners: they must cost less than what they measure.

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Room for a head and the largest body that is exchanged here.
const READ_BYTES: usize = 16 * 1024;
/// A partner that sends more than this without an end is not one of ours.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// What has come in on a connection and is not yet taken.
#[derive(Debug, Default)]
pub struct Incoming {
    buffer: Vec<u8>,
    start: usize,
}

impl Incoming {
    /// Waits for a whole message, hands its head to `take`, and lets go of it. `None`: the connection has ended, or makes no sense.
    pub async fn message<T>(&mut self, stream: &mut TcpStream, take: impl Fn(&[u8]) -> T) -> Option<T> {
        loop {
            let rest = &self.buffer[self.start..];
            if let Some(head) = head_length(rest) {
                let length = head + content_length(&rest[..head]);
                if rest.len() >= length {
                    let taken = take(&rest[..head]);
                    self.start += length;
                    return Some(taken);
                }
            }
            if rest.len() > MESSAGE_BYTES_MAX {
                return None;
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            self.buffer.reserve(READ_BYTES);
            if stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }
}

/// With the empty line.
fn head_length(text: &[u8]) -> Option<usize> {
    text.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn content_length(head: &[u8]) -> usize {
    header(head, "content-length").and_then(|value| std::str::from_utf8(value).ok()?.parse().ok()).unwrap_or(0)
}

/// A header's value; `name` in whatever case.
pub fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|&byte| byte == b'\n').find_map(|line| {
        let (found, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":").filter(|_| found.eq_ignore_ascii_case(name.as_bytes()))?;
        Some(value.trim_ascii())
    })
}

/// The status of an answer's head; 0: it has none.
pub fn status(head: &[u8]) -> u16 {
    head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_at_its_empty_line_and_its_headers_are_found_in_any_case() {
        let text = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length:  2 \r\nX-Event-Id: b-00000007\r\n\r\nno";
        let head = &text[..head_length(text).unwrap()];
        assert_eq!((status(head), content_length(head), text.len() - head.len()), (503, 2, 2));
        assert_eq!(header(head, "x-event-id"), Some(b"b-00000007".as_slice()));
        assert_eq!(header(head, "x-event"), None);
        assert_eq!(status(b"nonsense"), 0);
    }
}
