//! `kind = "scim"` against scim2-server, with OAuth tokens from Canaille, and, for answers that neither gives, against a stub.

mod answers;
mod mistakes;
mod preview;
mod stub;

use crate::client::{Event, store_all};
use crate::http::{Message, Wire};
use crate::peers::{self, Peer};
use crate::system::{System, eventually};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;

pub const TOKEN: &str = "idp-s3cret";
const ENTERPRISE: &str = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User";

/// The IdP, which keeps its users in a file.
pub struct Idp {
    peer: Option<Peer>,
    pub address: SocketAddr,
    folder: TempDir,
    /// Where it asks about tokens that are not [`TOKEN`]: URL, client, secret.
    introspection: Vec<String>,
}

impl Idp {
    pub async fn start() -> Option<Self> {
        Self::asking(Vec::new()).await
    }

    async fn asking(introspection: Vec<String>) -> Option<Self> {
        let python = peers::program("scim", "bin/python")?;
        let folder = tempfile::tempdir().unwrap();
        let peer = Peer::start(|port| command(&python, folder.path(), port, &introspection)).await;
        Some(Self { address: peer.address, peer: Some(peer), folder, introspection })
    }

    async fn kill(&mut self) {
        self.peer.take().expect("it runs").kill().await;
    }

    /// After [`Idp::kill`].
    async fn start_again(&mut self) {
        let python = peers::program("scim", "bin/python").expect("it was there");
        let (folder, introspection) = (self.folder.path(), &self.introspection);
        self.peer = Some(Peer::start_at(self.address, |port| command(&python, folder, port, introspection)).await);
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> Message {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head = format!("{method} /v2{path} HTTP/1.1\r\nhost: idp\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n");
        let request = format!("{head}content-type: application/scim+json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let mut wire = Wire::new(TcpStream::connect(self.address).await.unwrap());
        wire.send(request.as_bytes()).await.unwrap();
        wire.receive().await.expect("an answer")
    }

    pub async fn create_user(&self, mut user: Value) {
        user["schemas"] = json!(["urn:ietf:params:scim:schemas:core:2.0:User"]);
        assert_eq!(self.ask("POST", "/Users", &user).await.status(), 201);
    }

    pub async fn create_group(&self, name: &str) {
        let group = json!({"schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"], "displayName": name});
        assert_eq!(self.ask("POST", "/Groups", &group).await.status(), 201);
    }

    /// All users or groups.
    async fn all(&self, path: &str) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let page = self.ask("GET", &format!("{path}?startIndex={}&count=1000", all.len() + 1), &Value::Null).await;
            let page: Value = serde_json::from_slice(&page.body).unwrap();
            let resources = page["Resources"].as_array().cloned().unwrap_or_default();
            if resources.is_empty() {
                return all;
            }
            all.extend(resources);
        }
    }

    /// The one user.
    async fn only_user(&self) -> Value {
        let users = self.all("/Users").await;
        assert_eq!(users.len(), 1, "{users:?}");
        users[0].clone()
    }

    /// The ids of who is in a group.
    pub async fn members(&self, name: &str) -> Vec<Value> {
        let groups = self.all("/Groups").await;
        let group = groups.iter().find(|group| group["displayName"] == name).expect("the group");
        group["members"].as_array().into_iter().flatten().map(|member| member["value"].clone()).collect()
    }

    /// The users' names and whether they are active, in order.
    pub async fn active(&self) -> Vec<(String, bool)> {
        let users = self.all("/Users").await;
        let mut users: Vec<_> = users.iter().map(|user| (user["userName"].as_str().unwrap().into(), user["active"] == true)).collect();
        users.sort();
        users
    }
}

fn command(python: &Path, folder: &Path, port: u16, introspection: &[String]) -> Command {
    let mut command = Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sinks/idp.py")).arg(folder.join("users.ndjson"));
    command.args([&port.to_string(), TOKEN]).args(introspection);
    command
}

fn config_with(address: SocketAddr, keys: &str) -> String {
    format!("[[sink]]\nname = \"idp\"\nkind = \"scim\"\nurl = \"http://{address}/v2\"\nallow = [\"127.0.0.0/8\"]\n{keys}\n\n")
}

fn config(address: SocketAddr, keys: &str) -> String {
    config_with(address, &format!("token = \"{TOKEN}\"\nretry = {{ initial = \"20ms\", cap = \"200ms\" }}\n{keys}"))
}

fn event(id: &str, event: &str, data: Value) -> Event {
    Event { id: id.into(), body: json!({ "event": event, "companyId": "acme", "data": data }).to_string().into_bytes() }
}

fn provisioned(id: &str, user: &str, email: &str, role: &str) -> Event {
    event(id, "user.provisioned", json!({"userId": user, "email": email, "role": role, "teamId": "t1", "provisionedBy": "x"}))
}

fn deprovisioned(id: &str, user: &str, email: Option<&str>) -> Event {
    event(id, "user.deprovisioned", json!({"userId": user, "email": email, "reason": "left"}))
}

fn expired(id: &str, user: &str, name: &str) -> Event {
    event(id, "certification.expired", json!({"userId": user, "certName": name, "expiredAt": "2026-01-02T03:04:05Z"}))
}

const REPLAY: &str = "update sluice.deliveries set status = 'pending' where status = 'delivered'";

#[tokio::test]
async fn a_provisioned_user_is_read_back_once_whether_redelivered_or_replayed_and_a_later_event_changes_the_same_one() {
    let Some(idp) = Idp::start().await else { return };
    let system = System::new("scim_provision").await;
    let _worker = system.working(&system.config(&config(idp.address, ""))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    let e1 = provisioned("e1", "u1", "ada+1@b.example", "rep");
    client.store(&e1).await;
    assert_eq!(client.post(&e1).await.text(), r#"{"duplicate":true}"#);
    system.drained(1).await;
    for _replay in 0..2 {
        let user = idp.only_user().await;
        assert_eq!((&user["userName"], &user["externalId"]), (&json!("ada+1@b.example"), &json!("u1")));
        assert_eq!((&user["active"], &user["roles"]), (&json!(true), &json!([{"value": "rep"}])));
        assert_eq!(user["emails"], json!([{"value": "ada+1@b.example", "primary": true}]));
        assert_eq!(user[ENTERPRISE], json!({"department": "t1"}));
        assert_eq!(user["meta"]["version"], "W/\"1\"", "what is so already is not written again");
        assert_eq!(system.execute(REPLAY).await, 1);
        system.drained(1).await;
    }
    client.store(&provisioned("e2", "u1", "Ada+1@B.example", "admin")).await;
    system.drained(2).await;
    assert_eq!(idp.only_user().await["roles"], json!([{"value": "admin"}]));
    client.store(&event("e3", "module.progress", json!({"userId": "u1", "moduleId": "m", "progressPct": 3}))).await;
    client.store(&expired("e4", "u1", "Gold")).await;
    eventually("the others are skipped", async || system.count("skipped").await == 2).await;
}

#[tokio::test]
async fn a_user_whom_the_idp_has_already_is_taken_over_whatever_the_name_holds() {
    let Some(idp) = Idp::start().await else { return };
    let odd = r#"o"brien\ or userName pr+1@b.example"#;
    for name in ["Grace@B.example", odd, "bystander@b.example"] {
        idp.create_user(json!({"userName": name, "active": false})).await;
    }
    let system = System::new("scim_existing").await;
    let _worker = system.working(&system.config(&config(idp.address, ""))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    client.store(&provisioned("e1", "u1", "grace@b.example", "rep")).await;
    client.store(&provisioned("e2", "u2", odd, "rep")).await;
    system.drained(2).await;
    let expected = [("Grace@B.example", true), ("bystander@b.example", false), (odd, true)];
    assert_eq!(idp.active().await, expected.map(|(name, active)| (name.to_owned(), active)));
}

#[tokio::test]
async fn a_deprovisioned_user_is_inactive_also_where_the_event_has_no_address_or_is_repeated() {
    let Some(idp) = Idp::start().await else { return };
    let system = System::new("scim_deprovision").await;
    let _worker = system.working(&system.config(&config(idp.address, ""))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    for n in 1..=3 {
        client.store(&provisioned(&format!("p{n}"), &format!("u{n}"), &format!("u{n}@b.example"), "rep")).await;
    }
    client.store(&deprovisioned("d1", "u1", Some("U1@b.example"))).await;
    client.store(&deprovisioned("d2", "u2", None)).await;
    client.store(&deprovisioned("d4", "u4", Some("nobody@b.example"))).await;
    system.drained(6).await;
    let expected = [("u1@b.example", false), ("u2@b.example", false), ("u3@b.example", true)];
    for _replay in 0..2 {
        assert_eq!(idp.active().await, expected.map(|(name, active)| (name.to_owned(), active)));
        assert_eq!(
            system
                .execute(&format!("{REPLAY} and event_seq in (select event_seq from sluice.bodies where type = 'user.deprovisioned')"))
                .await,
            3
        );
        system.drained(6).await;
    }
}

#[tokio::test]
async fn a_deprovisioned_user_is_deleted_where_that_is_configured_and_deleting_again_is_success() {
    let Some(idp) = Idp::start().await else { return };
    let system = System::new("scim_delete").await;
    let _worker = system.working(&system.config(&config(idp.address, "on_deprovision = \"delete\""))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    client.store(&provisioned("e1", "u1", "u1@b.example", "rep")).await;
    client.store(&provisioned("e2", "u2", "u2@b.example", "rep")).await;
    client.store(&deprovisioned("e3", "u1", Some("u1@b.example"))).await;
    client.store(&deprovisioned("e4", "u1", None)).await;
    system.drained(4).await;
    assert_eq!(idp.active().await, [("u2@b.example".to_owned(), true)]);
}

#[tokio::test]
async fn a_user_whose_certification_expired_is_in_the_group_once() {
    let Some(idp) = Idp::start().await else { return };
    idp.create_group("Re-certification").await;
    idp.create_group("Others").await;
    let system = System::new("scim_group").await;
    let _worker = system.working(&system.config(&config(idp.address, "group = \"Re-certification\""))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    client.store(&provisioned("e1", "u1", "u1@b.example", "rep")).await;
    client.store(&expired("e2", "u1", "Gold")).await;
    client.store(&expired("e3", "u1", "Silver")).await;
    system.drained(3).await;
    let id = idp.only_user().await["id"].clone();
    for _replay in 0..2 {
        assert_eq!((idp.members("Re-certification").await, idp.members("Others").await), (vec![id.clone()], Vec::new()));
        assert_eq!(system.execute(&format!("{REPLAY} and event_seq = (select max(event_seq) from sluice.deliveries)")).await, 1);
        system.drained(3).await;
    }
}

#[tokio::test]
async fn a_provisioning_that_died_and_is_replayed_after_the_deprovisioning_brings_nobody_back() {
    let Some(mut idp) = Idp::start().await else { return };
    let system = System::new("scim_superseded").await;
    let keys =
        format!("token = \"{TOKEN}\"\nretry = {{ initial = \"20ms\", cap = \"20ms\", max_attempts = 2 }}\nbreaker = {{ failures = 100 }}");
    let _worker = system.working(&system.config(&config_with(idp.address, &keys))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    client.store(&provisioned("e1", "u1", "u1@b.example", "rep")).await;
    system.drained(1).await;
    idp.kill().await;
    // One user whom the IdP has, and one whom it never got.
    client.store(&provisioned("e2", "u1", "u1@b.example", "admin")).await;
    client.store(&provisioned("e3", "u2", "u2@b.example", "rep")).await;
    eventually("both are dead", async || system.count("dead").await == 2).await;
    idp.start_again().await;
    client.store(&deprovisioned("e4", "u1", Some("u1@b.example"))).await;
    client.store(&deprovisioned("e5", "u2", Some("u2@b.example"))).await;
    system.drained(3).await;
    assert_eq!(system.execute("update sluice.deliveries set status = 'pending' where status = 'dead'").await, 2);
    eventually("the replayed are skipped", async || system.count("skipped").await == 2).await;
    let reasons = "select string_agg(distinct last_error, ', ') from sluice.deliveries where status = 'skipped'";
    assert_eq!(system.value::<String>(reasons).await, "superseded");
    let user = idp.only_user().await;
    assert_eq!((&user["userName"], &user["active"], &user["roles"]), (&json!("u1@b.example"), &json!(false), &json!([{"value": "rep"}])));
}

#[tokio::test]
async fn all_users_are_there_once_after_the_idp_was_killed_in_the_middle_of_5_000() {
    const COUNT: usize = 5000;
    let Some(mut idp) = Idp::start().await else { return };
    let system = System::new("scim_killed").await;
    let keys = "concurrency = 4\nretry = { initial = \"50ms\", cap = \"500ms\", max_attempts = 100 }\ntimeout = \"30s\"";
    let _worker = system.working(&system.config(&config_with(idp.address, &format!("token = \"{TOKEN}\"\n{keys}")))).await;
    let ingest = system.ingest().await;
    let user = |n: usize| provisioned(&format!("e{n}"), &format!("u{n}"), &format!("u{n}@b.example"), "rep");
    let list = |part: usize| (part..COUNT).step_by(10).map(user).collect();
    let storing = tokio::spawn(store_all(ingest.address, (0..10).map(list).collect()));
    eventually("some are delivered", async || system.count("delivered").await > 300).await;
    idp.kill().await;
    idp.start_again().await;
    storing.await.unwrap();
    // The peer serves a hundred users a second or so: all of them take longer than a test waits for one thing.
    for part in 1..4 {
        let so_far = (COUNT * part / 4) as i64;
        eventually("the next quarter is delivered", async || system.count("delivered").await > so_far).await;
    }
    system.drained(COUNT as i64).await;
    let users = idp.active().await;
    assert_eq!(users.len(), COUNT);
    assert!(users.iter().all(|(_, active)| *active) && users.windows(2).all(|pair| pair[0] != pair[1]), "a user is there twice");
}

#[tokio::test]
async fn tokens_are_fetched_from_an_oauth_server_and_again_when_it_has_forgotten_them() {
    const CLIENT: [&str; 2] = ["sluice", "oauth/s3cret+"];
    let Some(python) = peers::program("canaille", "bin/python") else { return };
    let serve = |port: u16| {
        let mut command = Command::new(&python);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sinks/tokens.py")).arg(port.to_string()).args(CLIENT);
        command
    };
    let tokens = Peer::start(serve).await;
    let address = tokens.address;
    let introspection = [format!("http://{address}/oauth/introspect")].into_iter().chain(CLIENT.map(String::from)).collect();
    let Some(idp) = Idp::asking(introspection).await else { return };
    let oauth = |[id, secret]: [&str; 2]| {
        format!(
            "[sink.oauth]\ntoken_url = \"http://{address}/oauth/token\"\nclient_id = \"{id}\"\nclient_secret = \"{secret}\"\nscope = \"scim\""
        )
    };
    let system = System::new("scim_oauth").await;
    let _worker = system.working(&system.config(&config_with(idp.address, &oauth(CLIENT)))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    client.store(&provisioned("e1", "u1", "u1@b.example", "rep")).await;
    system.drained(1).await;
    // Its tokens are in memory: after this, the one that is kept is refused.
    tokens.kill().await;
    let _tokens = Peer::start_at(address, serve).await;
    client.store(&deprovisioned("e2", "u1", Some("u1@b.example"))).await;
    system.drained(2).await;
    assert_eq!(idp.active().await, [("u1@b.example".to_owned(), false)]);
    assert_eq!(system.value::<i64>("select count(*) from sluice.attempts").await, 0, "no try failed");
}
