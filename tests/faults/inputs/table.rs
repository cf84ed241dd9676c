//! The table of inputs. Each case has a body, and so an event, of its own, unless it is about repeats.

mod meaning;

use crate::client::SECRET;
use sluice::profile::Profile;
use sluice::{clock, signature};
use std::sync::LazyLock;

/// The cap of the table's ingest.
pub const BODY_MAX: usize = 64 * 1024;

/// Lines of the table's ingest. Short limits, so that a case which is waited for ends soon. After them come further sources.
pub const INGEST: &str = r#"
body_max = "64KiB"
header_timeout = "2s"
body_timeout = "2s"

[[source]]
name = "acme"
secrets = ["s3cret"]
company_id = "acme"

[[source]]
name = "rotating"
secrets = ["next", "s3cret"]
"#;

const SIGNATURE: &str = "x-mt-webhook-signature";
const TIMESTAMP: &str = "x-mt-webhook-timestamp";
const ID: &str = "x-mt-event-id";

/// What is sent over one connection, and what must become of it.
pub struct Case {
    pub name: String,
    /// Bytes, and the statuses of the answers to wait for before the next are sent.
    pub sends: Vec<(Vec<u8>, Vec<u16>)>,
    /// The connection is closed afterwards: whatever else came over it is not taken for a request.
    pub closes: bool,
    /// What is stored, in this order.
    pub rows: Vec<Row>,
}

/// An event that is stored.
pub struct Row {
    /// `None`: one is derived.
    pub id: Option<String>,
    pub body: Vec<u8>,
    /// A part of the reason why it is quarantined; `None`: it is not.
    pub held: Option<&'static str>,
}

/// A request whose signature verifies, until a case spoils it.
#[derive(Clone)]
struct Request {
    line: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    /// The body as it goes over the wire, where that is not as it is.
    sent: Option<Vec<u8>>,
}

impl Request {
    fn signed(id: &str, timestamp: &str, body: &[u8]) -> Self {
        let signature = sign(SECRET, timestamp, body);
        let headers =
            [("host", "sluice"), ("content-length", &body.len().to_string()), (SIGNATURE, &signature), (TIMESTAMP, timestamp), (ID, id)];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_owned())).to_vec();
        Self { line: "POST /webhooks/mindtickle HTTP/1.1".into(), headers, body: body.to_owned(), sent: None }
    }

    fn line(mut self, line: impl Into<String>) -> Self {
        self.line = line.into();
        self
    }

    fn to(self, source: &str) -> Self {
        self.line(format!("POST /webhooks/{source} HTTP/1.1"))
    }

    fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(header, _)| header != name);
        self
    }

    /// One more header line.
    fn and(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Another value of a header.
    fn with(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.without(name).and(name, value)
    }

    /// In these chunks, and with what comes after the last of them.
    fn chunked(mut self, sent: impl AsRef<[u8]>) -> Self {
        self.sent = Some(sent.as_ref().to_owned());
        self.without("content-length").and("transfer-encoding", "chunked")
    }

    fn head(&self) -> Vec<u8> {
        let mut head = format!("{}\r\n", self.line).into_bytes();
        for (name, value) in &self.headers {
            head = [head.as_slice(), name.as_bytes(), b": ", value, b"\r\n"].concat();
        }
        head.extend(b"\r\n");
        head
    }

    fn bytes(&self) -> Vec<u8> {
        [self.head().as_slice(), self.sent.as_ref().unwrap_or(&self.body)].concat()
    }

    /// The row that it becomes.
    fn row(&self) -> Row {
        let id = self.headers.iter().find(|(name, _)| name == ID).map(|(_, id)| String::from_utf8(id.clone()).expect("a usable id"));
        Row { id, body: self.body.clone(), held: None }
    }
}

fn sign(secret: &str, timestamp: &str, body: &[u8]) -> String {
    signature::sign(&Profile::mindtickle(), secret.as_bytes(), timestamp, body)
}

/// Seconds since 1970, so long ago: one and the same now for the whole table.
fn seconds(ago: i64) -> String {
    static NOW: LazyLock<i64> = LazyLock::new(|| clock::now().timestamp());
    (*NOW - ago).to_string()
}

/// A good body, of a user of its own.
fn body(user: &str) -> Vec<u8> {
    format!(r#"{{"event":"course.completed","companyId":"acme","data":{{"userId":"{user}"}}}} "#).into_bytes()
}

/// A good request, under this id.
fn good(id: &str) -> Request {
    Request::signed(id, &seconds(0), &body(id))
}

/// One chunk, and the end.
fn chunk(body: &[u8]) -> Vec<u8> {
    [format!("{:X};ext=\"1\"\r\n", body.len()).as_bytes(), body, b"\r\n0\r\n\r\n"].concat()
}

#[derive(Default)]
struct Table {
    cases: Vec<Case>,
}

impl Table {
    fn case(&mut self, name: &str, sends: Vec<(Vec<u8>, Vec<u16>)>, rows: Vec<Row>) -> &mut Case {
        self.cases.push(Case { name: name.to_owned(), sends, closes: false, rows });
        self.cases.last_mut().expect("it was just pushed")
    }

    /// Answered so, and not stored.
    fn refused(&mut self, status: u16, name: &str, request: impl AsRef<[u8]>) -> &mut Case {
        self.case(name, vec![(request.as_ref().to_owned(), vec![status])], Vec::new())
    }

    /// Stored under its id, and delivered.
    fn stored(&mut self, name: &str, request: Request) -> &mut Case {
        self.case(name, vec![(request.bytes(), vec![200])], vec![request.row()])
    }

    /// Stored under an id derived from it, and delivered.
    fn derived(&mut self, name: &str, request: Request) {
        self.case(name, vec![(request.bytes(), vec![200])], vec![Row { id: None, body: request.body, held: None }]);
    }

    /// Stored, and held back for this reason.
    fn held(&mut self, reason: &'static str, name: &str, request: Request) {
        self.case(name, vec![(request.bytes(), vec![200])], vec![Row { held: Some(reason), ..request.row() }]);
    }
}

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut table = Table::default();
    http(&mut table);
    framing(&mut table);
    paths(&mut table);
    meaning::fill(&mut table);
    table.cases
}

fn http(table: &mut Table) {
    table.refused(400, "not HTTP", "this is not HTTP\r\n\r\n").closes = true;
    table.refused(400, "the beginning of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").closes = true;
    table.case("the preface of HTTP/2", vec![(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), vec![])], vec![]).closes = true;
    table.case("nothing but line ends", vec![(b"\r\n\r\n\r\n".to_vec(), vec![])], vec![]).closes = true;
    table.refused(400, "an unknown version", good("v").line("POST /webhooks/mindtickle HTTP/1.2").bytes()).closes = true;
    table.refused(400, "no version", "POST /webhooks/mindtickle\r\n\r\n").closes = true;
    table.stored("HTTP/1.0", good("1.0").line("POST /webhooks/mindtickle HTTP/1.0")).closes = true;
    table.stored("no host", good("no-host").without("host"));
    table.stored("connection: close", good("close").and("connection", "close")).closes = true;
    let bare = good("bare");
    let text = String::from_utf8(bare.bytes()).expect("ASCII");
    table.case("bare line feeds", vec![(text.replace("\r\n", "\n").into_bytes(), vec![200])], vec![bare.row()]);
    let upper = good("upper");
    let text = String::from_utf8(upper.bytes()).expect("ASCII").replace("x-mt-", "X-MT-");
    table.case("header names in capitals", vec![(text.into_bytes(), vec![200])], vec![upper.row()]);
    for (name, line) in [
        ("a folded header", "x-a: b\r\n c"),
        ("a blank before the colon", "x-a : b"),
        ("a header without a colon", "x-a"),
        ("a header without a name", ": b"),
        ("NUL in a header", "x-a: \0"),
        ("a bare carriage return in a header", "x-a: b\rc"),
    ] {
        let request = String::from_utf8(good("x").bytes()).expect("ASCII");
        table.refused(400, name, request.replacen("host: sluice", line, 1)).closes = true;
    }
    table.stored("60 KiB of headers", good("60k").and("x-a", "a".repeat(60 * 1024)));
    table.refused(431, "200 KiB of headers", good("x").and("x-a", "a".repeat(200 * 1024)).bytes()).closes = true;
    let many = |count: usize| (0..count).fold(good("90"), |request, n| request.and(&format!("x-{n}"), "a"));
    table.stored("95 headers", many(90));
    table.refused(431, "200 headers", many(195).bytes()).closes = true;
    let pipelined = [good("p-1"), good("p-2"), good("p-3")];
    let bytes = pipelined.iter().flat_map(Request::bytes).collect();
    table.case("three requests at once", vec![(bytes, vec![200; 3])], pipelined.iter().map(Request::row).collect());
    let (first, last) = (good("q-1"), good("q-2"));
    let bytes = [first.bytes(), good("x").without(SIGNATURE).bytes(), last.bytes()].concat();
    table.case("a refused one between two", vec![(bytes, vec![200, 401, 200])], vec![first.row(), last.row()]);
    let patient = good("expect").and("expect", "100-continue");
    table.case("expect: 100-continue", vec![(patient.head(), vec![100]), (patient.body.clone(), vec![200])], vec![patient.row()]);
    let refused = good("x").without(SIGNATURE).and("expect", "100-continue");
    table.refused(401, "expect: 100-continue without a signature", refused.head());
}

fn framing(table: &mut Table) {
    let whole = |id: &str| good(id).chunked(chunk(&good(id).body));
    table.stored("chunks", whole("chunks"));
    let in_pieces = |id: &str, end: &str| {
        let pieces = body(id).iter().map(|byte| format!("1\r\n{}\r\n", char::from(*byte))).collect::<String>();
        good(id).chunked(pieces + end)
    };
    table.stored("a chunk a byte", in_pieces("pieces", "0\r\n\r\n"));
    table.stored("chunks and a trailer", in_pieces("trailer", "0\r\nx-a: b\r\n\r\n"));
    let signed = whole("x");
    let trailer = format!("0\r\n{SIGNATURE}: {}\r\n\r\n", sign(SECRET, &seconds(0), &signed.body));
    table.refused(401, "the signature in a trailer", in_pieces("x", &trailer).without(SIGNATURE).bytes());
    for (name, sent) in [
        ("a chunk's length that is not hex", "xyz\r\n"),
        ("a chunk's length with a sign", "+5\r\nabcde\r\n0\r\n\r\n"),
        ("a chunk's length that overflows", "fffffffffffffffff\r\n"),
        ("a chunk longer than it says", "1\r\nabc\r\n0\r\n\r\n"),
        ("a chunk's length ended by a bare line feed", "3\nabc\r\n0\r\n\r\n"),
    ] {
        table.refused(400, name, good("x").chunked(sent).bytes()).closes = true;
    }

    // Two lengths: where two servers could read one request differently, it is one, and the last of its connection.
    let hidden = good("hidden").bytes();
    let with_more = |request: &Request| [request.bytes(), hidden.clone()].concat();
    let both = whole("both").and("content-length", "5");
    table.case("a length and chunks", vec![(with_more(&both), vec![200])], vec![both.row()]).closes = true;
    let both = whole("both-2");
    let turned = Request { headers: both.headers.iter().rev().cloned().collect(), ..both }.and("content-length", "5");
    table.case("chunks and a length", vec![(with_more(&turned), vec![200])], vec![turned.row()]).closes = true;
    let twice = good("twice");
    let same = twice.clone().and("content-length", twice.body.len().to_string());
    table.stored("the same length twice", same);
    for (name, length) in [("another length", "5"), ("a length of 0", "0")] {
        table.refused(400, name, with_more(&good("x").and("content-length", length))).closes = true;
    }
    for length in ["-1", "+5", "0x5", "5, 5", "5 5", "", "18446744073709551616", "1e1"] {
        table.refused(400, &format!("content-length: {length}"), with_more(&good("x").with("content-length", length))).closes = true;
    }
    for (name, encoding) in [
        ("chunked that is not the last", "chunked, identity"),
        ("identity", "identity"),
        ("junk", "\u{b}chunked"),
        ("cased junk", "xchunked"),
    ] {
        let request = good("x").chunked(chunk(b"{}")).with("transfer-encoding", encoding);
        table.refused(400, name, with_more(&request)).closes = true;
    }
    let old = whole("x").line("POST /webhooks/mindtickle HTTP/1.0");
    table.refused(400, "chunks over HTTP/1.0", with_more(&old)).closes = true;
    let zip = whole("gzip").with("transfer-encoding", "gzip, chunked");
    table.stored("what is inside the chunks is taken as it came", zip);
    table.refused(408, "a body shorter than its length", good("x").with("content-length", "1000").bytes()).closes = true;
    table.refused(408, "chunks without an end", good("x").chunked("5\r\nabcde\r\n").bytes()).closes = true;
    let long = good("x").with("content-length", "5").bytes();
    table.case("a body longer than its length", vec![(long, vec![403, 400])], vec![]).closes = true;
    table.stored("a body that says it is compressed", good("encoded").and("content-encoding", "gzip").and("content-type", "text/plain"));
}

fn paths(table: &mut Table) {
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "post", "BREW"] {
        table.refused(405, method, good("x").line(format!("{method} /webhooks/mindtickle HTTP/1.1")).bytes());
    }
    for path in [
        "/",
        "/webhooks",
        "/webhooks/",
        "/webhooks/nobody",
        "/webhooks/mindtickle/",
        "//webhooks/mindtickle",
        "/webhooks//mindtickle",
        "/webhooks/./mindtickle",
        "/webhooks/x/../mindtickle",
        "/webhooks/mind%74ickle",
        "/webhooks/mindtickle%00",
        "/webhooks/mindtickle;a=b",
        "/Webhooks/mindtickle",
        "/webhooks/Mindtickle",
        "/webhooks/{source}",
        "/livez",
        "/metrics",
        "*",
    ] {
        table.refused(404, path, good("x").line(format!("POST {path} HTTP/1.1")).bytes());
    }
    table.stored("a query", good("query").line("POST /webhooks/mindtickle?a=b&c HTTP/1.1"));
    table.stored("a target with its host", good("absolute").line("POST http://anything:1/webhooks/mindtickle HTTP/1.1"));
    for target in ["/webhooks/mind tickle", "/webhooks/\u{1}", "webhooks/mindtickle"] {
        table.refused(400, target, good("x").line(format!("POST {target} HTTP/1.1")).bytes()).closes = true;
    }
    table.refused(404, "60 KiB of target", good("x").line(format!("POST /{} HTTP/1.1", "a".repeat(60 * 1024))).bytes());
    table.refused(431, "200 KiB of target", good("x").line(format!("POST /{} HTTP/1.1", "a".repeat(200 * 1024))).bytes()).closes = true;
}
