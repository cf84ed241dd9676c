//! Moto, which speaks S3; and a stub for answers that it does not give.

use crate::http::{Message, Wire};
use crate::peers::{self, Peer};
use crate::stub::Stub;
use tokio::net::TcpStream;
use tokio::process::Command;

/// S3, in memory; any credential will do until [`S3::be_strict`].
pub struct S3 {
    pub peer: Peer,
}

impl S3 {
    /// With an empty bucket `events`.
    pub async fn start() -> Option<Self> {
        let python = peers::program("moto", "bin/python")?;
        let server = python.with_file_name("moto_server");
        let peer = Peer::start(|port| {
            let mut command = Command::new(&python);
            command.arg(server).args(["-H", "127.0.0.1", "-p", &port.to_string()]).stderr(std::process::Stdio::null());
            command
        })
        .await;
        let s3 = Self { peer };
        assert_eq!(s3.ask("PUT", "/events", "", "").await.status(), 200);
        Some(s3)
    }

    pub async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Message {
        // Objects are private: until it is strict, whoever signs at all may read them.
        let signed = if headers.is_empty() { signed("s3") } else { headers.to_owned() };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n{signed}connection: close\r\n", self.peer.address);
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        let mut wire = Wire::new(TcpStream::connect(self.peer.address).await.unwrap());
        wire.send(request.as_bytes()).await.unwrap();
        wire.receive().await.expect("an answer")
    }

    /// All keys, in the order of the alphabet.
    pub async fn keys(&self) -> Vec<String> {
        let (mut keys, mut after) = (Vec::new(), String::new());
        loop {
            let answer = self.ask("GET", &format!("/events?list-type=2&start-after={after}"), "", "").await;
            let page: Vec<String> =
                answer.text().split("<Key>").skip(1).map(|rest| rest.split_once("</Key>").unwrap().0.to_owned()).collect();
            let Some(last) = page.last() else { return keys };
            after = percent(last);
            keys.extend(page);
        }
    }

    /// From now on checks who asks, and each signature. Returns the one credential that may put objects.
    pub async fn be_strict(&self) -> (String, String) {
        let headers = format!("{}content-type: application/x-www-form-urlencoded\r\n", signed("iam"));
        let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}"#;
        let mut made = String::new();
        for form in [
            "Action=CreateUser&UserName=sluice".to_owned(),
            format!("Action=PutUserPolicy&UserName=sluice&PolicyName=put&PolicyDocument={}", percent(policy)),
            "Action=CreateAccessKey&UserName=sluice".to_owned(),
        ] {
            let answer = self.ask("POST", "/", &headers, &format!("{form}&Version=2010-05-08")).await;
            assert_eq!(answer.status(), 200, "{}", answer.text());
            made = answer.text().to_owned();
        }
        let part = |name: &str| {
            let (_, rest) = made.split_once(&format!("<{name}>")).unwrap();
            rest.split_once("</").unwrap().0.to_owned()
        };
        assert_eq!(self.ask("POST", "/moto-api/reset-auth", "", "0").await.status(), 200);
        (part("AccessKeyId"), part("SecretAccessKey"))
    }

    pub async fn be_lenient(&self) {
        assert_eq!(self.ask("POST", "/moto-api/reset-auth", "", "inf").await.status(), 200);
    }
}

/// A header that says so and no more.
fn signed(service: &str) -> String {
    let credential = format!("Credential=any/20260101/us-east-1/{service}/aws4_request");
    format!("authorization: AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=x\r\n")
}

pub fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) { char::from(byte).into() } else { format!("%{byte:02X}") })
        .collect()
}

/// Told how many requests came before; gives status, further header lines, and the code of S3.
pub type Script = fn(usize) -> (u16, &'static str, &'static str);

/// A stub of S3. It refuses a put that is not signed, or not only where there is no object yet.
pub async fn stub(script: Script) -> Stub {
    Stub::start(move |request, before| {
        let signed = request.header("authorization").is_some_and(|value| value.starts_with("AWS4-HMAC-SHA256 Credential="));
        let only_new = request.header("if-none-match") == Some("*");
        let (status, headers, code) = if signed && only_new { script(before) } else { (400, "", "InvalidRequest") };
        let error = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>of key s3cret</Message></Error>");
        (status, format!("{headers}etag: \"x\"\r\n"), if code.is_empty() { String::new() } else { error })
    })
    .await
}
