//! The events that are measured with: the six types, 300 to 500 bytes, 1,000 users, each event different from every other.
//!
//! The load generator shares its machine with what it measures, so a request costs it a copy and a few digits: the bodies' texts
//! are fixed but for numbers of a fixed width, and the signatures are made before the clock starts.

use crate::clock;
use crate::event::NewEvent;
use crate::profile::Profile;
use crate::signature;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// Signs everything here; good for nothing else.
pub const SECRET: &str = "sluice-bench";
/// The source that the events are of.
pub const SOURCE: &str = "mindtickle";
pub const USERS: u64 = 1000;
/// Hex digits of HMAC-SHA256.
const SIGNATURE_BYTES: usize = 64;

/// Of the six types, in the order of [`TYPES`](crate::cli::samples::TYPES). `SSSSSSSS` is the event's number, `UUUU` its user's.
const BODIES: [&str; 6] = [
    r#"{"event":"course.completed","companyId":"acme","data":{"userId":"u-UUUU","courseName":"Discovery Calls for Enterprise Accounts","courseId":"c-SSSSSSSS","score":87,"completedAt":"2026-11-20T10:00:00Z","startedAt":"2026-11-02T08:15:00Z","language":"en-GB","series":"Onboarding of account executives","certificateUrl":"https://learn.example.com/certificates/SSSSSSSS"}}"#,
    r#"{"event":"quiz.submitted","companyId":"acme","data":{"userId":"u-UUUU","quizName":"Objection Handling, second round","quizId":"q-SSSSSSSS","quizType":"graded","score":14,"maxScore":20,"passed":true,"submittedAt":"2026-11-20T10:00:00Z","attempt":2,"timeSpentSec":1260,"series":"Onboarding of account executives","topics":["pricing","security","procurement"]}}"#,
    r#"{"event":"user.provisioned","companyId":"acme","data":{"userId":"u-UUUU","email":"rep-UUUU@example.com","role":"learner","teamId":"t-7","provisionedBy":"scim","externalId":"00u-SSSSSSSS","displayName":"Sales Representative","locale":"en-GB","timeZone":"Europe/London","groups":["sales","emea","enterprise"],"provisionedAt":"2026-11-20T10:00:00Z"}}"#,
    r#"{"event":"user.deprovisioned","companyId":"acme","data":{"userId":"u-UUUU","email":"rep-UUUU@example.com","reason":"left the company","deprovisionedAt":"2026-11-20T10:00:00Z","externalId":"00u-SSSSSSSS","deprovisionedBy":"scim","lastSeenAt":"2026-11-18T16:40:00Z","teamId":"t-7","groups":["sales","emea","enterprise"],"contentReassignedTo":"u-0001"}}"#,
    r#"{"event":"module.progress","companyId":"acme","data":{"userId":"u-UUUU","moduleName":"Pricing and packaging, fiscal year 2027","moduleId":"m-SSSSSSSS","progressPct":45,"timeSpentSec":1830,"updatedAt":"2026-11-20T10:00:00Z","series":"Onboarding of account executives","lastLesson":"Discounts and approvals","lessonsDone":5,"lessonsTotal":11}}"#,
    r#"{"event":"certification.expired","companyId":"acme","data":{"userId":"u-UUUU","certName":"MEDDIC for account executives","certId":"k-SSSSSSSS","expiredAt":"2026-11-20T10:00:00Z","issuedAt":"2025-11-20T10:00:00Z","renewalDeadline":"2026-12-20T10:00:00Z","series":"Certification of account executives","managerNotified":true,"graceDays":30}}"#,
];

/// The event id of number `i`.
fn event_id(i: u64) -> String {
    format!("b-{i:08}")
}

/// The number of an event by its id: what [`event_id`] was given.
pub fn number_of(event_id: &[u8]) -> Option<usize> {
    std::str::from_utf8(event_id.strip_prefix(b"b-")?).ok()?.parse().ok()
}

/// A number's place in a text.
type Field = Range<usize>;

/// A text with numbers to be filled in.
#[derive(Debug, Clone)]
struct Template {
    text: Vec<u8>,
    serials: Vec<Field>,
    users: Vec<Field>,
}

impl Template {
    fn new(text: Vec<u8>) -> Self {
        let places = |mark: &[u8]| -> Vec<Field> {
            let at = text.windows(mark.len()).enumerate().filter(|(_, window)| *window == mark);
            at.map(|(at, _)| at..at + mark.len()).collect()
        };
        let (serials, users) = (places(b"SSSSSSSS"), places(b"UUUU"));
        Self { text, serials, users }
    }

    fn fill(&self, i: u64, out: &mut Vec<u8>) {
        self.fill_for(i, i % USERS, out);
    }

    fn fill_for(&self, i: u64, user: u64, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.text);
        self.serials.iter().for_each(|field| write_digits(&mut out[field.clone()], i));
        self.users.iter().for_each(|field| write_digits(&mut out[field.clone()], user));
    }
}

/// Writes a number with leading zeros; digits that do not fit are left off.
fn write_digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// The events themselves, for the store.
#[derive(Debug)]
pub struct Events {
    profile: Profile,
    source: Arc<str>,
    bodies: Vec<Template>,
    timestamp: String,
}

impl Events {
    /// All of them are signed as of now.
    pub fn new() -> Self {
        let bodies = BODIES.iter().map(|body| Template::new(body.as_bytes().to_vec())).collect();
        Self { profile: Profile::mindtickle(), source: SOURCE.into(), bodies, timestamp: clock::now().timestamp().to_string() }
    }

    /// Event number `i`, as ingest would have read it; the signature kept with it is as long as a real one.
    pub fn event(&self, i: u64) -> NewEvent {
        self.event_of((i % BODIES.len() as u64) as usize, i, i % USERS, &event_id(i))
    }

    /// The same of a type, by its place among the six, with a user and an id of the caller's.
    pub fn event_of(&self, kind: usize, i: u64, user: u64, id: &str) -> NewEvent {
        let mut body = Vec::new();
        self.bodies[kind].fill_for(i, user, &mut body);
        let facts = self.profile.read(&body);
        let headers = format!(r#"{{"signature":"{i:064x}","timestamp":"{}","event_id":"{id}"}}"#, self.timestamp);
        NewEvent::new(&self.source, Some(id), &self.timestamp, Bytes::from(body), facts, headers)
    }

    fn body(&self, i: u64) -> &Template {
        &self.bodies[(i % BODIES.len() as u64) as usize]
    }

    fn sign(&self, i: u64, body: &mut Vec<u8>) -> [u8; SIGNATURE_BYTES] {
        self.body(i).fill(i, body);
        let signature = signature::sign(&self.profile, SECRET.as_bytes(), &self.timestamp, body);
        signature.as_bytes().try_into().expect("HMAC-SHA256 has 64 hex digits")
    }
}

/// Signed requests, numbered from 0, ready to be written.
#[derive(Debug)]
pub struct Requests {
    templates: Vec<Template>,
    signature_at: Vec<Field>,
    signatures: Vec<[u8; SIGNATURE_BYTES]>,
}

impl Requests {
    /// Signs `count` events, on all cores. Blocks.
    pub fn sign(count: usize) -> Self {
        let events = Events::new();
        let mut signatures = vec![[0; SIGNATURE_BYTES]; count];
        let share = count.div_ceil(std::thread::available_parallelism().map_or(1, usize::from)).max(1);
        std::thread::scope(|scope| {
            for (part, signatures) in signatures.chunks_mut(share).enumerate() {
                let events = &events;
                scope.spawn(move || {
                    let (first, mut body) = ((part * share) as u64, Vec::new());
                    (first..).zip(signatures).for_each(|(i, signature)| *signature = events.sign(i, &mut body));
                });
            }
        });
        let mark = "G".repeat(SIGNATURE_BYTES);
        let texts: Vec<Vec<u8>> = BODIES.iter().map(|body| request(&events, &mark, body)).collect();
        let signature_at = texts.iter().map(|text| place_of(text, mark.as_bytes())).collect();
        Self { templates: texts.into_iter().map(Template::new).collect(), signature_at, signatures }
    }

    pub fn len(&self) -> usize {
        self.signatures.len()
    }

    /// Writes request number `i`, below [`Requests::len`], in place of what `out` holds.
    pub fn write(&self, i: usize, out: &mut Vec<u8>) {
        let kind = i % BODIES.len();
        self.templates[kind].fill(i as u64, out);
        out[self.signature_at[kind].clone()].copy_from_slice(&self.signatures[i]);
    }
}

fn request(events: &Events, signature: &str, body: &str) -> Vec<u8> {
    let signed = events.profile.headers(signature, &events.timestamp, "b-SSSSSSSS");
    let headers: String = signed.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!(
        "POST /webhooks/{SOURCE} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len(),
    )
    .into_bytes()
}

fn place_of(text: &[u8], mark: &[u8]) -> Field {
    let at = text.windows(mark.len()).position(|window| window == mark).expect("the text was made with the mark");
    at..at + mark.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::Timestamp;

    #[test]
    fn every_request_is_signed_over_its_own_body_and_carries_its_own_id() {
        let requests = Requests::sign(13);
        let (profile, mut seen, mut text) = (Profile::mindtickle(), std::collections::HashSet::new(), Vec::new());
        for i in 0..requests.len() {
            requests.write(i, &mut text);
            let request = String::from_utf8(text.clone()).unwrap();
            let (head, body) = request.split_once("\r\n\r\n").unwrap();
            let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap().to_owned();
            let timestamp = header("x-mt-webhook-timestamp");
            let signature = header("x-mt-webhook-signature");
            let timestamp = Timestamp::parse(&timestamp).unwrap();
            assert!(signature::verify(&profile, [SECRET.as_bytes()], timestamp, body.as_bytes(), signature.as_bytes()));
            assert_eq!(header("Content-Length"), body.len().to_string());
            assert_eq!(number_of(header("x-mt-event-id").as_bytes()), Some(i));
            assert!(seen.insert(body.to_owned()));
        }
    }

    #[test]
    fn an_event_has_300_to_500_bytes_and_one_of_a_thousand_users_and_is_not_quarantined() {
        let events = Events::new();
        let users: std::collections::HashSet<_> = (0..3000).map(|i| events.event(i).order_key.unwrap()).collect();
        assert_eq!(users.len(), 1000);
        for i in 0..6 {
            let event = events.event(i);
            assert!((300..=500).contains(&event.payload.len()), "{}", event.payload.len());
            assert_eq!((event.quarantine, event.derived_id), (None, false));
        }
    }
}
