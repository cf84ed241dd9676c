//! `kind = "email"` against aiosmtpd, a mail server, from a signed event to what Python's own parser reads in the mailbox.

use crate::client::{Event, store_all};
use crate::mailbox::Mailbox;
use crate::system::{Process, System, eventually};
use serde_json::{Value, json};
use std::collections::HashSet;
use uuid::Uuid;

const PLAIN: &str = "tls = \"none\"\nfrom = \"Learning <learning@sluice.example>\"";
const RETRY: &str = "retry = { initial = \"20ms\", cap = \"20ms\", max_attempts = 3 }";

/// The lines of a config for a sink at `url`.
fn config(url: &str, keys: &str) -> String {
    format!("[[sink]]\nname = \"mail\"\nkind = \"email\"\nurl = \"{url}\"\nallow = [\"127.0.0.0/8\"]\n{keys}\n\n")
}

fn plain(mailbox: &Mailbox, keys: &str) -> String {
    config(&format!("smtp://{}", mailbox.address()), &format!("{PLAIN}\n{keys}"))
}

fn quiz(id: &str, user: &str, more: Value) -> Event {
    let mut data = json!({ "userId": user, "quizId": "q-7", "quizName": "Safety", "score": 45, "maxScore": 60 });
    data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let body = json!({ "event": "quiz.submitted", "companyId": "acme", "data": data });
    Event { id: id.into(), body: body.to_string().into_bytes() }
}

fn key(event_id: &str) -> Uuid {
    sluice::sink::idempotency_key("mindtickle", event_id, "mail")
}

/// Status and error of the delivery of an event.
async fn fate(system: &System, event_id: &str) -> (String, i32, String) {
    let row = "select d.status, d.attempts::int4, coalesce(d.last_error, '') from sluice.deliveries d \
               join sluice.events e on e.seq = d.event_seq where e.event_id = $1";
    sqlx::query_as(row).bind(event_id).fetch_one(&system.db).await.unwrap()
}

#[tokio::test]
async fn a_mail_is_read_back_from_the_mailbox_in_all_its_parts_and_a_replay_is_the_same_mail() {
    let Some(mailbox) = Mailbox::start().await else { return };
    let system = System::new("email_journey").await;
    let keys = "to = [\"{{ event.data.managerEmail }}\", \"coach@b.example\", \"{{ event.data.other | default('') }}\"]\n\
                subject = \"Prüfung „{{ event.data.quizName }}“: {{ event.data.userId }}\"\n\
                text = \"\"\"{{ event.data.userId }} has {{ event.data.score }} in {{ event.data.quizName }}.\n.\nÜben hilft — \u{1F393}\"\"\"";
    let _worker = system.working(&system.config(&plain(&mailbox, keys))).await;
    let ingest = system.ingest().await;
    let event = quiz("evt 1/", "u-1", json!({ "managerEmail": "boss@a.example", "quizName": "Safety\r\nBcc: evil@b.example" }));
    let mut client = ingest.client();
    client.store(&event).await;
    assert_eq!(client.post(&event).await.text(), r#"{"duplicate":true}"#);
    system.drained(1).await;
    let mails = mailbox.mails();
    assert_eq!(mails.len(), 1);
    let mail = &mails[0];
    assert_eq!(mail["mail_from"], "learning@sluice.example");
    assert_eq!(mail["rcpt_to"], json!(["boss@a.example", "coach@b.example"]));
    let headers = &mail["headers"];
    assert_eq!(headers["from"], "Learning <learning@sluice.example>");
    assert_eq!(headers["to"], "boss@a.example, coach@b.example");
    assert_eq!(headers["subject"], "Prüfung „Safety Bcc: evil@b.example“: u-1");
    assert_eq!(headers["message-id"], format!("<{}@sluice.example>", key("evt 1/")));
    assert_eq!((&headers["auto-submitted"], &headers["x-event-id"]), (&json!("auto-generated"), &json!("evt 1/")));
    assert!(headers.get("bcc").is_none() && mail["defects"] == json!([]), "{mail}");
    let received: String =
        system.value("select to_char(received_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS') || '+00:00' from sluice.events").await;
    assert_eq!(mail["date"], received);
    assert_eq!(mail["type"], "text/plain");
    let text = mail["text"].as_str().unwrap().replace("\r\n", "\n");
    assert_eq!(text, "u-1 has 45 in Safety  Bcc: evil@b.example.\n.\nÜben hilft — \u{1F393}\n\n-- \nEvent evt 1/\n");
    assert_eq!(system.execute("update sluice.deliveries set status = 'pending'").await, 1);
    system.drained(1).await;
    let mails = mailbox.mails();
    assert_eq!((mails.len(), &mails[0]["raw"]), (2, &mails[1]["raw"]), "the same bytes on every try");
}

#[tokio::test]
async fn without_words_of_its_own_a_mail_says_the_built_in_ones_and_one_connection_carries_many() {
    let Some(mailbox) = Mailbox::start().await else { return };
    let system = System::new("email_built_in").await;
    let _worker = system.working(&system.config(&plain(&mailbox, "to = [\"boss@a.example\"]\nconcurrency = 1"))).await;
    let ingest = system.ingest().await;
    for n in 0..20 {
        ingest.client().store(&quiz(&format!("e{n}"), &format!("u{n}"), json!({}))).await;
    }
    let unknown = json!({ "event": "badge.awarded", "companyId": "acme", "data": {} }).to_string().into_bytes();
    ingest.client().store(&Event { id: "e20".into(), body: unknown }).await;
    system.drained(20).await;
    assert_eq!(system.count("skipped").await, 1);
    let mails = mailbox.mails();
    assert_eq!(mails[0]["headers"]["subject"], "Quiz submitted: Safety, by u0, with a score of 45 of 60");
    assert_eq!(mails.iter().map(|mail| &mail["port"]).collect::<HashSet<_>>().len(), 1, "connections");
}

#[tokio::test]
async fn each_answer_of_the_mail_server_has_its_consequence() {
    let Some(mailbox) = Mailbox::start().await else { return };
    let system = System::new("email_answers").await;
    let keys = "to = [\"{{ event.data.to }}\"]\nsubject = \"{{ event.data.subject | default('x') }}\"\nconcurrency = 1";
    let _worker = system.working(&system.config(&plain(&mailbox, &format!("{keys}\n{RETRY}\nbreaker = {{ rest = \"50ms\" }}")))).await;
    let ingest = system.ingest().await;
    let cases = [
        ("550-gone@a.example", "x", "dead", 1, "the server answered 550 to recipient 1"),
        ("450-full@a.example", "x", "dead", 3, "the server answered 450 to recipient 1"),
        ("450-once@a.example", "x", "delivered", 1, ""),
        ("421-once@a.example", "x", "delivered", 1, ""),
        ("ok@a.example", "refuse 554", "dead", 1, "the server answered 554 to the mail"),
        ("ok@a.example", "refuse 452 once", "delivered", 1, ""),
        ("Boss <ok@a.example>", "x", "dead", 1, "number 1 of `to` makes no address of this event"),
        ("ok@a.example, ok@b.example", "x", "dead", 1, "number 1 of `to` makes no address of this event"),
        ("ok@a.example", "x", "delivered", 0, ""),
    ];
    for (n, (to, subject, ..)) in cases.iter().enumerate() {
        ingest.client().store(&quiz(&format!("e{n}"), &format!("u{n}"), json!({ "to": to, "subject": subject }))).await;
    }
    ingest.client().store(&quiz("nobody", "u-x", json!({ "to": " " }))).await;
    eventually("all is over", async || system.count("pending").await == 0).await;
    for (n, (to, subject, status, attempts, error)) in cases.iter().enumerate() {
        let (became, tried, said) = fate(&system, &format!("e{n}")).await;
        assert_eq!((became.as_str(), said.contains(error)), (*status, true), "{to}, {subject}: {said}");
        assert!(*status == "delivered" || tried == *attempts, "{to}, {subject}: {tried} attempts");
        assert!(!said.contains("a.example"), "whose address it is, is in no error: {said}");
    }
    let named = "select count(*) from sluice.attempts where strpos(response, '@') > 0 or strpos(response, 'a.example') > 0";
    assert_eq!(system.value::<i64>(named).await, 0, "nor in what is kept of an answer");
    assert_eq!(fate(&system, "nobody").await.0, "skipped");
    assert_eq!(mailbox.mails().len(), 4);
}

#[tokio::test]
async fn recipients_that_are_put_off_or_refused_cost_the_others_neither_the_mail_nor_a_second_one() {
    let Some(mailbox) = Mailbox::start().await else { return };
    let system = System::new("email_recipients").await;
    let keys = "to = [\"one@a.example\", \"{{ event.data.second }}\", \"three@a.example\"]";
    let _worker = system.working(&system.config(&plain(&mailbox, &format!("{keys}\n{RETRY}")))).await;
    let ingest = system.ingest().await;
    let got = |id: &str| {
        let id = format!("<{}@sluice.example>", key(id));
        let mails = mailbox.mails().into_iter().filter(|mail| mail["headers"]["message-id"] == json!(id));
        mails.map(|mail| mail["rcpt_to"].clone()).collect::<Vec<_>>()
    };
    // The sender's trouble, it seems, but the server takes the mail for others: these have it, and the sink rests.
    ingest.client().store(&quiz("e0", "e0", json!({ "second": "550-5.7.1-once-two@a.example" }))).await;
    eventually("the others have it", async || !got("e0").is_empty()).await;
    for (id, second) in [("e1", "450-once-two@a.example"), ("e2", "450-two@a.example"), ("e3", "550-two@a.example")] {
        ingest.client().store(&quiz(id, id, json!({ "second": second }))).await;
    }
    eventually("all is over", async || system.count("pending").await == 0).await;
    let others = json!(["one@a.example", "three@a.example"]);
    assert_eq!(got("e0"), [others.clone(), json!(["550-5.7.1-once-two@a.example"])]);
    assert_eq!((fate(&system, "e0").await.0.as_str(), fate(&system, "e1").await.0.as_str()), ("delivered", "delivered"));
    assert_eq!(got("e1"), [others.clone(), json!(["450-once-two@a.example"])]);
    for (id, attempts, code) in [("e2", 3, 450), ("e3", 1, 550)] {
        let error = format!("2 of 3 recipients have the mail: the server answered {code} to recipient 2");
        assert_eq!(fate(&system, id).await, ("dead".into(), attempts, error));
        assert_eq!(got(id), std::slice::from_ref(&others));
    }
    // What is dead for good and replayed goes to all again: the same mail.
    system.execute("update sluice.outbox set status = 'pending' where event_id = 'e3'").await;
    eventually("it is over", async || system.count("pending").await == 0).await;
    assert_eq!(got("e3"), [others.clone(), others]);
}

#[tokio::test]
async fn all_mails_are_there_after_the_mail_server_was_killed_in_the_middle_of_5_000() {
    const COUNT: usize = 5000;
    const CONCURRENCY: usize = 8;
    let Some(mut mailbox) = Mailbox::start().await else { return };
    let system = System::new("email_killed").await;
    let keys = "to = [\"boss@a.example\"]\nconcurrency = 8\nretry = { initial = \"50ms\", cap = \"500ms\", max_attempts = 100 }";
    let _worker = system.working(&system.config(&plain(&mailbox, &format!("{keys}\nbreaker = {{ rest = \"50ms\" }}")))).await;
    let ingest = system.ingest().await;
    let list = |part: usize| (0..COUNT / 10).map(|n| quiz(&format!("e{part}-{n}"), &format!("u{part}-{n}"), json!({}))).collect();
    let storing = tokio::spawn(store_all(ingest.address, (0..10).map(list).collect()));
    eventually("some are delivered", async || system.count("delivered").await > 500).await;
    mailbox.restart().await;
    storing.await.unwrap();
    system.drained(COUNT as i64).await;
    let mails = mailbox.mails();
    let ids: HashSet<_> = mails.iter().map(|mail| mail["headers"]["message-id"].as_str().unwrap()).collect();
    let twice = mails.len() - ids.len();
    eprintln!("{} mails, {twice} of them twice", mails.len());
    assert_eq!(ids.len(), COUNT, "all are there");
    assert!(twice <= CONCURRENCY, "{twice} came twice, more than were in flight");
}

/// A worker that trusts the mailbox's authority, with this log-in.
async fn trusting(system: &System, mailbox: &Mailbox, scheme: &str, password: &str) -> Process {
    system.set_env("SSL_CERT_FILE", mailbox.folder.path().join("ca.pem").to_str().unwrap());
    let login = format!("username = \"sluice\"\npassword = \"{password}\"\nto = [\"boss@a.example\"]\nfrom = \"learning@sluice.example\"");
    let url = format!("{scheme}://localhost:{}", mailbox.address().port());
    system.working(&system.config(&config(&url, &login))).await
}

#[tokio::test]
async fn a_log_in_is_sent_encrypted_alone_and_a_wrong_one_buries_nothing() {
    for (tls, scheme) in [("starttls", "smtp"), ("implicit", "smtps")] {
        let Some(mailbox) = Mailbox::start_with(tls).await else { return };
        let system = System::new(&format!("email_{tls}")).await;
        let mut worker = trusting(&system, &mailbox, scheme, "wr0ng").await;
        let ingest = system.ingest().await;
        ingest.client().store(&quiz("e1", "u1", json!({}))).await;
        eventually("the sink rests", async || worker.log().contains("the sink rests")).await;
        assert!(worker.log().contains("the server answered 535 to the log-in (AUTH)"), "{}", worker.log());
        assert!(!worker.log().contains("wr0ng"));
        assert_eq!(fate(&system, "e1").await, ("pending".into(), 0, String::new()));
        worker.stop().await;
        let _worker = trusting(&system, &mailbox, scheme, "mail-s3cret").await;
        system.drained(1).await;
        let mails = mailbox.mails();
        assert_eq!((mails.len(), &mails[0]["encrypted"], &mails[0]["login"]), (1, &json!(true), &json!(true)));
    }
}

#[tokio::test]
async fn what_is_wrong_between_here_and_the_mail_server_buries_nothing() {
    let (Some(mailbox), Some(untrusted)) = (Mailbox::start().await, Mailbox::start_with("starttls").await) else { return };
    let plain = format!("smtp://{}", mailbox.address());
    let keys = "to = [\"boss@a.example\"]";
    let learning = "from = \"learning@sluice.example\"";
    for (n, (config, said)) in [
        (config(&plain, &format!("{keys}\n{learning}")), "the server does not offer STARTTLS"),
        (config(&plain, &format!("{keys}\ntls = \"none\"\nfrom = \"stranger@a.example\"")), "the server answered 550 to MAIL FROM"),
        // Many a server tells only here that the account may not send.
        (config(&plain, &format!("to = [\"550-5.7.1-a@a.example\"]\n{PLAIN}")), "the server answered 550 to recipient 1"),
        (config(&plain, &format!("to = [\"450-4.7.1-a@a.example\"]\n{PLAIN}")), "the server answered 450 to recipient 1"),
        (
            config(&plain, &format!("{keys}\nsubject = \"refuse 550 5.7.1\"\n{PLAIN}")),
            "the server answered 550 to the mail: it refuses the sender or the account",
        ),
        (config(&plain, &format!("{keys}\nsubject = \"refuse 550 5.4.5\"\n{PLAIN}")), "the server answered 550 to the mail"),
        (config(&plain, &format!("{keys}\n{PLAIN}")).replace("allow = [\"127.0.0.0/8\"]", ""), "may not connect to 127.0.0.1"),
        (
            config(
                &format!("smtp://localhost:{}", untrusted.address().port()),
                &format!("{keys}\n{learning}\nbreaker = {{ failures = 1 }}"),
            ),
            "TLS handshake with localhost failed",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let system = System::new(&format!("email_between_{n}")).await;
        let worker = system.working(&system.config(&config)).await;
        let ingest = system.ingest().await;
        ingest.client().store(&quiz("e1", "u1", json!({}))).await;
        eventually("the sink rests", async || worker.log().contains("the sink rests")).await;
        assert!(worker.log().contains(said), "{said}: {}", worker.log());
        let (status, attempts, _) = fate(&system, "e1").await;
        // The sink's trouble burns the one try that opens the breaker; a refusal burns none.
        assert!(status == "pending" && (attempts == 0 || said.starts_with("TLS")), "{said}: {status} after {attempts}");
    }
    assert!(mailbox.mails().is_empty() && untrusted.mails().is_empty());
}

#[tokio::test]
async fn a_mistake_in_the_config_is_told_with_its_place_and_route_test_shows_the_mail() {
    let system = System::empty("email_config").await;
    let said = async |text: &str| {
        let output = system.run_with(Some(&system.config(text)), &["config", "check"]).await;
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (from, to) = ("from = \"a@b.example\"", "to = [\"c@d.example\"]");
    for (url, keys, wanted) in [
        ("http://mail.example", format!("{from}\n{to}"), ":4:7: `url` must be a URL such as \"smtp://"),
        ("smtp://user:pw@mail.example", format!("{from}\n{to}"), ":4:7: `url` must not hold a user or password"),
        ("smtp://mail.example/inbox", format!("{from}\n{to}"), ":4:7: `url` must end with the host"),
        ("smtp://mail.example:0", format!("{from}\n{to}"), ":4:7: `url` must be a URL"),
        ("smtps://mail.example", format!("tls = \"none\"\n{from}\n{to}"), ":6:7: `tls` must not be \"none\" where"),
        ("smtp://mail.example", format!("tls = \"maybe\"\n{from}\n{to}"), ":6:7: `tls` must be \"required\" or \"none\""),
        ("smtp://mail.example", format!("username = \"u\"\n{from}\n{to}"), ":6:12: `username` needs a `password`"),
        (
            "smtp://mail.example",
            format!("tls = \"none\"\nusername = \"u\"\npassword = \"s3cret\"\n{from}\n{to}"),
            ":8:12: `password` must not be given where `tls` is \"none\"",
        ),
        ("smtp://mail.example", to.to_owned(), "`from` of this sink is missing"),
        ("smtp://mail.example", from.to_owned(), "`to` of this sink is missing"),
        ("smtp://mail.example", format!("from = \"nobody\"\n{to}"), ":6:8: `from` must be an address"),
        ("smtp://mail.example", format!("{from}\nto = [\"nobody\"]"), ":7:7: each of `to` must be an address"),
        ("smtp://mail.example", format!("{from}\nto = [\"{{{{ evnt.x }}}}\"]"), ":7:7: each of `to` knows `event` and `meta` alone"),
        ("smtp://mail.example", format!("{from}\n{to}\nsubject = \"{{{{ x\""), ":8:11: `subject` must be a template"),
        ("smtp://mail.example", format!("{from}\n{to}\nheaders = {{ a = \"b\" }}"), "`headers` is a key of kind ="),
    ] {
        let (valid, said) = said(&config(url, &keys)).await;
        assert!(!valid && said.contains(wanted) && !said.contains("s3cret"), "{wanted}: {said}");
    }
    let valid = config("smtps://mail.example", &format!("{from}\n{to}\nusername = \"u\"\npassword = \"s3cret\""));
    let file = system.config(&valid);
    let event = file.with_extension("json");
    std::fs::write(&event, quiz("e1", "u1", json!({})).body).unwrap();
    let output = system.run_with(Some(&file), &["route", "test", "--event", event.to_str().unwrap()]).await;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in [
        "smtps://mail.example:465 (TLS, AUTH (configured))",
        "MAIL FROM:<a@b.example>",
        "RCPT TO:<c@d.example>",
        "Subject: Quiz submitted: Safety, by u1, with a score of 45 of 60",
        "Event evt_test",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert!(!shown.contains("s3cret"), "{shown}");
}
