//! Whatever comes in over a raw socket: what it is answered, whether it is stored, byte for byte, and whether it goes on to the sinks.
//!
//! One table, in the order of the questions that ingest asks: is it HTTP, is it for a source, is it signed, is it within the cap,
//! can it be processed, is it new?

mod database;
mod slow;
mod table;

use crate::http::Wire;
use crate::sink::Sink;
use crate::system::System;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use table::{Case, INGEST, Row};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For one answer, or the close of a connection: more than any limit that the table's ingest has.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// An event, as it is stored.
#[derive(sqlx::FromRow)]
struct Stored {
    seq: i64,
    event_id: String,
    derived_id: bool,
    quarantine: Option<String>,
    payload: Vec<u8>,
}

/// What came back: status, head without its date, and body.
#[derive(Debug, Clone)]
struct Answer(u16, String, String);

/// Sends what the case says, over a connection of its own.
async fn send(ingest: SocketAddr, case: &Case) -> Result<Vec<Answer>, String> {
    let mut wire = Wire::new(TcpStream::connect(ingest).await.map_err(|error| error.to_string())?);
    let mut answers = Vec::new();
    for (bytes, statuses) in &case.sends {
        // Ingest may refuse, and close, before it has read all.
        wire.send(bytes).await.ok();
        for _ in statuses {
            let answer = timeout(ANSWER_MAX, wire.receive()).await.map_err(|_| format!("hangs after {answers:?}"))?;
            let answer = answer.ok_or_else(|| format!("closed after {answers:?}"))?;
            let head = answer.head.lines().filter(|line| !line.starts_with("date:")).collect::<Vec<_>>().join("\n");
            answers.push(Answer(answer.status(), head, answer.text().to_owned()));
        }
    }
    if case.closes {
        let end = timeout(ANSWER_MAX, wire.receive()).await.map_err(|_| format!("left open after {answers:?}"))?;
        end.map_or(Ok(()), |answer| Err(format!("one answer too many: {answer:?}")))?;
    }
    Ok(answers)
}

/// What is not as the case says.
fn judge(case: &Case, answers: &[Answer], stored: &[Stored]) -> Vec<String> {
    let mut wrong = Vec::new();
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.0).collect();
    let expected: Vec<u16> = case.sends.iter().flat_map(|(_, statuses)| statuses.iter().copied()).collect();
    if statuses != expected {
        wrong.push(format!("answered {answers:?}, not {expected:?}"));
    }
    let received = answers.iter().filter(|answer| answer.2 == r#"{"received":true}"#).count();
    if received != stored.len() {
        wrong.push(format!("{} stored, and received is said {received} times", stored.len()));
    }
    if stored.len() != case.rows.len() {
        wrong.push(format!("{} stored, not {}", stored.len(), case.rows.len()));
    }
    wrong.extend(stored.iter().zip(&case.rows).flat_map(|(row, expected)| judge_row(row, expected)));
    wrong
}

fn judge_row(row: &Stored, expected: &Row) -> Vec<String> {
    let mut wrong = Vec::new();
    if row.payload != expected.body {
        wrong.push("not stored byte for byte".into());
    }
    let id = (!row.derived_id).then_some(&row.event_id);
    if id != expected.id.as_ref() {
        wrong.push(format!("its id is {id:?}, not {:?}", expected.id));
    }
    let reason = row.quarantine.as_deref();
    if !expected.held.map_or(reason.is_none(), |part| reason.is_some_and(|reason| reason.contains(part))) {
        wrong.push(format!("held back because of {reason:?}, not {:?}", expected.held));
    }
    wrong
}

#[tokio::test]
async fn whatever_is_sent_has_its_answer_and_what_verifies_is_stored_byte_for_byte_and_delivered_or_held_back() {
    let system = System::new("inputs").await;
    let sink = Sink::answering(200).await;
    let _worker = system.working(&system.config(&sink.config("crm", ""))).await;
    let ingest = system.ingest_with(INGEST).await;
    let mut told: BTreeMap<u16, BTreeSet<(String, String)>> = BTreeMap::new();
    let (mut last_seq, mut fresh, mut wrong) = (0, Vec::new(), Vec::new());

    for case in table::cases() {
        let answers = send(ingest.address, &case).await;
        let stored: Vec<Stored> = sqlx::query_as(
            "select seq, event_id, derived_id, quarantine, payload
               from sluice.events join sluice.payloads on event_seq = seq where seq > $1 order by seq",
        )
        .bind(last_seq)
        .fetch_all(&system.db)
        .await
        .unwrap();
        let found = answers.as_ref().map_or_else(|error| vec![error.clone()], |answers| judge(&case, answers, &stored));
        wrong.extend(found.into_iter().map(|found| format!("{}: {found}", case.name)));
        last_seq = stored.last().map_or(last_seq, |row| row.seq);
        fresh.extend(stored.into_iter().filter(|row| row.quarantine.is_none()));
        for Answer(status, head, body) in answers.into_iter().flatten() {
            told.entry(status).or_default().insert((head, body));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));

    for status in [401, 403] {
        assert_eq!(told[&status].len(), 1, "one answer for every cause: {:?}", told[&status]);
    }
    assert!(told[&405].iter().all(|(head, _)| head.contains("allow: POST")));
    let (bodies, events) = ("select count(*) from sluice.bodies", "select count(*) from sluice.events");
    assert_eq!(system.value::<i64>(bodies).await, system.value::<i64>(events).await, "no body makes a view fail");

    // What is not held back goes on to the sink as it came, and nothing else does.
    system.drained(fresh.len() as i64).await;
    sink.assert_each_once(fresh.len());
    let ledger = sink.ledger().into_iter().map(|receipt| (receipt.event_id, receipt.request.body));
    let delivered: BTreeMap<String, Vec<u8>> = ledger.collect();
    for row in &fresh {
        assert!(delivered[&row.event_id] == row.payload, "{}: delivered byte for byte", row.event_id);
    }
    assert!(!ingest.process.log().contains("panicked"));
}
