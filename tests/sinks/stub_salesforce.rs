//! A stub of a Salesforce org's REST API, over real HTTP: no such server can be had. It keeps records, and refuses what the real service
//! would refuse, in its words: `State::complaints` are requests that no well-behaved client sends.
//!
//! After the REST API's guide (upsert by external id; sObject Collections; error responses; Limit Info header) and the pages on OAuth 2.0
//! flows. It knows one object, `Training_Status__c`, with two rules of the org's own: a score above 100 does not pass its validation, and
//! a course named `duplicate` meets a duplicate rule.

#[path = "stub_salesforce/login.rs"]
mod login;
#[path = "stub_salesforce/rules.rs"]
mod rules;

use crate::http::{Message, Wire};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use rules::{EXTERNAL_ID, Fault, OBJECT, check, mistyped};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub const CLIENT_ID: &str = "sluice-app";
pub const CLIENT_SECRET: &str = "app-s3cret";
pub const USERNAME: &str = "integration@acme.example";
/// Whom an assertion must be made for.
pub const AUDIENCE: &str = "https://login.salesforce.com";

const RECORDS_MAX: usize = 200;

/// What an org is and keeps; it outlives the servers that serve it.
#[derive(Default)]
pub struct Org {
    state: Mutex<State>,
}

/// What tests may look at and change.
pub struct State {
    /// By external id; more than one only where [`State::twins`] made it so.
    pub records: BTreeMap<String, Vec<Map<String, Value>>>,
    /// How often each external id was written.
    pub writes: HashMap<String, usize>,
    /// Tokens that hold, each for so many calls more.
    sessions: HashMap<String, usize>,
    pub tokens_given: usize,
    /// How many calls a new token lasts.
    pub session_calls: usize,
    pub calls: usize,
    pub calls_max: usize,
    /// Instead of what would be answered to the next upserts: status and error code.
    pub script: VecDeque<(u16, &'static str)>,
    /// External ids whose row is locked, and for how many writes.
    pub locks: HashMap<String, usize>,
    /// How many records of one request the org's triggers can take: with more, a limit hits each.
    pub triggers_max: usize,
    /// It does what it is asked, and breaks off instead of answering.
    pub is_unheard: bool,
    /// How many records each upsert held.
    pub upserts: Vec<usize>,
    pub complaints: Vec<String>,
    /// Verifies assertions: PKCS#1, DER.
    pub public_key: Vec<u8>,
    ids: usize,
}

impl Default for State {
    fn default() -> Self {
        Self {
            records: BTreeMap::new(),
            writes: HashMap::new(),
            sessions: HashMap::new(),
            tokens_given: 0,
            session_calls: usize::MAX,
            calls: 0,
            calls_max: 1_000_000,
            script: VecDeque::new(),
            locks: HashMap::new(),
            triggers_max: usize::MAX,
            is_unheard: false,
            upserts: Vec::new(),
            complaints: Vec::new(),
            public_key: Vec::new(),
            ids: 0,
        }
    }
}

/// A server of an org, gone when it is dropped: connections break off, and the org stays.
pub struct Stub {
    pub address: SocketAddr,
    pub org: Arc<Org>,
    _serving: JoinSet<()>,
}

impl Stub {
    pub async fn start(address: SocketAddr, org: Arc<Org>) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut serving = JoinSet::new();
        let served = Arc::clone(&org);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let org = Arc::clone(&served);
                connections.spawn(async move {
                    let mut wire = Wire::new(stream);
                    while let Some(request) = wire.receive().await {
                        let (answer, is_unheard) = {
                            let mut state = org.state();
                            (state.answer(&request).bytes(), state.is_unheard)
                        };
                        if is_unheard || wire.send(&answer).await.is_err() {
                            break;
                        }
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, org, _serving: serving }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.org.state()
    }

    /// Ends it at once, whatever is under way; returns where it listened, and what stays.
    pub fn kill(self) -> (SocketAddr, Arc<Org>) {
        (self.address, self.org)
    }
}

impl Org {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer.
struct Answer {
    status: u16,
    body: Value,
    /// `api-usage`, of requests that had a valid token.
    usage: Option<(usize, usize)>,
}

impl Answer {
    fn new(status: u16, body: Value) -> Self {
        Self { status, body, usage: None }
    }

    /// Of a request as a whole.
    fn refused(status: u16, code: &str, message: &str) -> Self {
        Self::new(status, json!([{ "errorCode": code, "message": message }]))
    }

    fn bytes(&self) -> Vec<u8> {
        let body = if self.body.is_null() { String::new() } else { self.body.to_string() };
        let usage = self.usage.map(|(used, max)| format!("sforce-limit-info: api-usage={used}/{max}\r\n")).unwrap_or_default();
        let head = format!("HTTP/1.1 {} X\r\n{usage}content-type: application/json;charset=UTF-8\r\n", self.status);
        format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }
}

impl State {
    /// The one record with an external id.
    pub fn record(&self, external_id: &str) -> Option<&Map<String, Value>> {
        self.records.get(external_id).and_then(|records| records.first())
    }

    /// Two records with one external id, as an org can have where the field is not unique.
    pub fn twins(&mut self, external_id: &str) {
        self.records.insert(external_id.to_owned(), vec![Map::new(), Map::new()]);
    }

    /// No token that was given holds any more.
    pub fn end_sessions(&mut self) {
        self.sessions.clear();
    }

    fn answer(&mut self, request: &Message) -> Answer {
        let line = request.head.lines().next().unwrap_or_default();
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if target == "/services/oauth2/token" {
            return self.token(method, request);
        }
        let steps: Vec<&str> = target.trim_start_matches('/').split('/').collect();
        let ["services", "data", version, place @ ..] = steps.as_slice() else { return self.no_such_place(target) };
        let major = version.strip_prefix('v').and_then(|version| version.strip_suffix(".0"));
        if major.is_none_or(|major| major.parse::<u32>().is_err()) {
            return self.no_such_place(target);
        }
        if !self.is_authorized(request) {
            return Answer::refused(401, "INVALID_SESSION_ID", "Session expired or invalid");
        }
        self.calls += 1;
        let mut answer = match (method, place) {
            ("GET", []) => Answer::new(200, json!({ "sobjects": "/services/data/v62.0/sobjects" })),
            ("PATCH", ["sobjects", object, field, value]) => self.single(object, field, value, request),
            ("PATCH", ["composite", "sobjects", object, field]) => self.collection(object, field, request),
            _ => self.no_such_place(target),
        };
        answer.usage = Some((self.calls, self.calls_max));
        answer
    }

    fn no_such_place(&mut self, target: &str) -> Answer {
        self.complaints.push(format!("there is no {target}"));
        Answer::refused(404, "NOT_FOUND", "The requested resource does not exist")
    }

    fn is_authorized(&mut self, request: &Message) -> bool {
        let token = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let Some(calls) = token.and_then(|token| self.sessions.get_mut(token)) else { return false };
        *calls = calls.saturating_sub(1);
        let lasts = *calls > 0;
        if !lasts {
            self.sessions.remove(token.unwrap_or_default());
        }
        true
    }

    fn token(&mut self, method: &str, request: &Message) -> Answer {
        let refused = |error: &str, why: &str| Answer::new(400, json!({ "error": error, "error_description": why }));
        let form: HashMap<String, String> = form_urlencoded::parse(&request.body).into_owned().collect();
        let field = |name: &str| form.get(name).map_or("", String::as_str);
        if method != "POST" || request.header("content-type") != Some("application/x-www-form-urlencoded") {
            return refused("invalid_request", "must be a POST of a form");
        }
        match field("grant_type") {
            "client_credentials" => {
                let basic = format!("Basic {}", STANDARD.encode(format!("{CLIENT_ID}:{CLIENT_SECRET}")));
                let in_body = (field("client_id"), field("client_secret")) == (CLIENT_ID, CLIENT_SECRET);
                if !in_body && request.header("authorization") != Some(&basic) {
                    return refused("invalid_client", "invalid client credentials");
                }
            }
            "urn:ietf:params:oauth:grant-type:jwt-bearer" => {
                if let Err(why) = login::verify(field("assertion"), &self.public_key) {
                    return refused("invalid_grant", why);
                }
            }
            _ => return refused("unsupported_grant_type", "grant type not supported"),
        }
        self.tokens_given += 1;
        let token = format!("00Dstub!{}", self.tokens_given);
        self.sessions.insert(token.clone(), self.session_calls);
        // It does not say how long it lasts: that is a setting of the org's.
        let granted = json!({ "access_token": token, "instance_url": "https://stub", "token_type": "Bearer", "issued_at": "0" });
        Answer::new(200, granted)
    }

    /// What both kinds of upsert refuse, or the script does.
    fn refuse(&mut self, object: &str, field: &str, request: &Message) -> Option<Answer> {
        if let Some((status, code)) = self.script.pop_front() {
            return Some(if code.is_empty() {
                Answer::new(status, Value::Null)
            } else {
                Answer::refused(status, code, "as the script says")
            });
        }
        if request.header("content-type") != Some("application/json") {
            self.complaints.push("a body that is not called JSON".into());
            return Some(Answer::refused(415, "UNSUPPORTED_MEDIA_TYPE", "Content-Type header specified in HTTP request is not supported"));
        }
        if object != OBJECT {
            return Some(Answer::refused(404, "NOT_FOUND", "The requested resource does not exist"));
        }
        if field != EXTERNAL_ID {
            let message = format!("Provided external ID field does not exist or is not accessible: {field}");
            return Some(Answer::refused(404, "NOT_FOUND", &message));
        }
        None
    }

    /// `PATCH /sobjects/Object/Field/Value`.
    fn single(&mut self, object: &str, field: &str, value: &str, request: &Message) -> Answer {
        self.upserts.push(1);
        if let Some(refused) = self.refuse(object, field, request) {
            return refused;
        }
        let Ok(external_id) = percent_decode_str(value).decode_utf8().map(String::from) else {
            self.complaints.push(format!("a value that is not UTF-8: {value}"));
            return Answer::refused(400, "MALFORMED_ID", "not UTF-8");
        };
        let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(&request.body) else { return not_parsed("Unexpected character") };
        if fields.contains_key(EXTERNAL_ID) {
            self.complaints.push("an external id in the path and in the body".into());
            let message = format!("The {EXTERNAL_ID} field should not be specified in the sobject data.");
            return Answer::refused(400, "INVALID_FIELD", &message);
        }
        if let Some(why) = mistyped(&fields) {
            return not_parsed(&why);
        }
        match self.write(&external_id, fields) {
            Ok((id, created)) => {
                let body = json!({ "id": id, "success": true, "errors": [], "created": created });
                // Up to version 45 it was 204 and no body.
                if created { Answer::new(201, body) } else { Answer::new(204, Value::Null) }
            }
            Err(fault) if fault.status == 300 => {
                let url = |n: usize| format!("/services/data/v62.0/sobjects/{OBJECT}/a00{n}");
                Answer::new(300, json!([url(1), url(2)]))
            }
            Err(Fault { status, code, message, fields }) => {
                Answer::new(status, json!([{ "errorCode": code, "message": message, "fields": fields }]))
            }
        }
    }

    /// `PATCH /composite/sobjects/Object/Field`.
    fn collection(&mut self, object: &str, field: &str, request: &Message) -> Answer {
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else { return not_parsed("Unexpected character") };
        let records: Vec<Map<String, Value>> = serde_json::from_value(body["records"].clone()).unwrap_or_default();
        self.upserts.push(records.len());
        if let Some(refused) = self.refuse(object, field, request) {
            return refused;
        }
        if records.is_empty() || records.len() > RECORDS_MAX {
            self.complaints.push(format!("{} records in one request", records.len()));
            return Answer::refused(400, "EXCEEDED_ID_LIMIT", "record limit reached. cannot submit more than 200 records into this call");
        }
        if body["allOrNone"] != json!(false) {
            self.complaints.push("all or none, so that one record could harm the others".into());
        }
        if let Some(why) = records.iter().find_map(mistyped) {
            return not_parsed(&why);
        }
        let is_over_limits = records.len() > self.triggers_max;
        let mut seen = HashSet::new();
        let results = records.into_iter().map(|mut record| {
            let object = record.remove("attributes").map(|attributes| attributes["type"].clone());
            let Some(Value::String(external_id)) = record.remove(EXTERNAL_ID) else {
                self.complaints.push("a record without its external id".into());
                return Err(Fault::new("MISSING_ARGUMENT", format!("{EXTERNAL_ID} not specified"), Vec::new()));
            };
            if object != Some(json!(OBJECT)) {
                self.complaints.push("a record without the type of its object".into());
                return Err(Fault::new("INVALID_TYPE", "attributes.type", Vec::new()));
            }
            if !seen.insert(external_id.clone()) {
                self.complaints.push(format!("{external_id} twice in one request"));
                return Err(Fault::new("DUPLICATE_VALUE", format!("Duplicate external id specified: {external_id}"), vec![EXTERNAL_ID]));
            }
            if is_over_limits {
                let message = "Training: execution of AfterUpdate caused by: System.LimitException: Too many SOQL queries: 101";
                return Err(Fault::new("CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", message, Vec::new()));
            }
            self.write(&external_id, record)
        });
        let results: Vec<Value> = results
            .map(|result| match result {
                Ok((id, created)) => json!({ "id": id, "success": true, "errors": [], "created": created }),
                Err(Fault { code, message, fields, .. }) => {
                    json!({ "success": false, "errors": [{ "statusCode": code, "message": message, "fields": fields }] })
                }
            })
            .collect();
        Answer::new(200, Value::Array(results))
    }

    /// Upserts one record; its id, and whether it is new.
    fn write(&mut self, external_id: &str, fields: Map<String, Value>) -> Result<(String, bool), Fault> {
        if self.records.get(external_id).is_some_and(|records| records.len() > 1) {
            let message = "More than one record found for external id field";
            return Err(Fault { status: 300, ..Fault::new("DUPLICATE_EXTERNAL_ID", message, vec![EXTERNAL_ID]) });
        }
        if let Some(left) = self.locks.get_mut(external_id).filter(|left| **left > 0) {
            *left -= 1;
            return Err(Fault::new("UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access to this record", Vec::new()));
        }
        let is_new = !self.records.contains_key(external_id);
        check(external_id, &fields, is_new)?;
        self.ids += usize::from(is_new);
        let id = format!("a00{:012}", self.ids);
        let records = self.records.entry(external_id.to_owned()).or_insert_with(|| vec![Map::from_iter([("Id".into(), json!(id))])]);
        records[0].extend(fields);
        *self.writes.entry(external_id.to_owned()).or_default() += 1;
        Ok((records[0]["Id"].as_str().unwrap_or_default().to_owned(), is_new))
    }
}

fn not_parsed(why: &str) -> Answer {
    Answer::refused(400, "JSON_PARSER_ERROR", why)
}
