//! The identity provider: which requests there are, and what its answers mean.

use super::discreet;
use super::user::{User, alike};
use crate::config;
use crate::delivery::{Blame, Failure};
use crate::sink::OpenError;
use crate::sink::client::answer::{self, Answer};
use crate::sink::client::oauth::Authorization;
use crate::sink::client::{Client, is_https};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, IF_MATCH, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// What needs no escape, in a path or in a query.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// See the module's documentation.
pub struct Idp {
    base: String,
    headers: HeaderMap,
    authorization: Authorization,
    client: Client,
}

/// What users are looked for to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Provision,
    /// Access must not stay open because somebody was not recognized.
    Deprovision,
    Join,
}

/// One request, before the credential is added.
#[derive(Debug, Clone)]
pub struct Ask {
    method: Method,
    /// What follows the base.
    path: String,
    /// The version that the resource must still have.
    version: Option<String>,
    body: Option<Value>,
}

impl Ask {
    /// Which users have this value of an attribute. Without what may be long, and is of no use here.
    pub fn users(attribute: &str, value: &str) -> Self {
        Self::get(format!("/Users?{}&excludedAttributes=groups,photos", filter(attribute, value)))
    }

    /// The same, with the groups whose members they are.
    pub fn users_with_groups(attribute: &str, value: &str) -> Self {
        Self::get(format!("/Users?{}", filter(attribute, value)))
    }

    /// Which groups have this name. Not who is in them: that may be many.
    pub fn groups(name: &str) -> Self {
        Self::get(format!("/Groups?{}&excludedAttributes=members", filter("displayName", name)))
    }

    pub fn create(user: Value) -> Self {
        Self { method: Method::POST, body: Some(user), ..Self::get("/Users".into()) }
    }

    pub fn change(user: &User, patch: Value) -> Self {
        let version = user.version().map(str::to_owned);
        Self { method: Method::PATCH, version, body: Some(patch), ..Self::get(format!("/Users/{}", escaped(&user.id))) }
    }

    pub fn delete(user: &User) -> Self {
        Self { method: Method::DELETE, ..Self::get(format!("/Users/{}", escaped(&user.id))) }
    }

    /// Without a version: others may change the group meanwhile, and it would make no difference.
    pub fn change_group(id: &str, patch: Value) -> Self {
        Self { method: Method::PATCH, body: Some(patch), ..Self::get(format!("/Groups/{}", escaped(id))) }
    }

    fn get(path: String) -> Self {
        Self { method: Method::GET, path, version: None, body: None }
    }

    /// The same, whatever version the resource has.
    pub fn unconditional(self) -> Self {
        Self { version: None, ..self }
    }

    /// It is about all users or groups: then it is the URL that is wrong where there is nothing.
    fn is_about_all(&self) -> bool {
        self.method == Method::GET || self.method == Method::POST
    }
}

impl Idp {
    /// `concurrency` is how many connections are worth keeping.
    pub fn new(config: &config::ScimSink, concurrency: usize) -> Result<Self, OpenError> {
        let base = config.url.expose().trim_end_matches('/').to_owned();
        let uri: Uri = base.parse().map_err(|_| OpenError::Url("is not a URL"))?;
        let client = Client::new(&config.allow, concurrency, is_https(&uri)).map_err(OpenError::Tls)?;
        let authorization = Authorization::open(&config.authorization, &config.allow)?;
        Ok(Self { base, headers: headers(config)?, authorization, client })
    }

    /// Sends a request; the answer is one of success. `personal`: what no error may repeat.
    pub async fn send(&self, ask: &Ask, personal: &[&str]) -> Result<Answer, Failure> {
        let answer = self.authorization.call(&self.client, self.request(ask)?).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(failure(ask, &answer, personal)) }
    }

    /// The users who have this value of `userName` or `externalId`.
    pub async fn users(&self, attribute: &str, value: &str, purpose: Purpose, personal: &[&str]) -> Result<Vec<User>, Failure> {
        let is_same = |theirs: &str| if attribute == "userName" { alike(theirs, value) } else { theirs == value };
        let ask = if purpose == Purpose::Join { Ask::users_with_groups(attribute, value) } else { Ask::users(attribute, value) };
        self.find(&ask, attribute, is_same, purpose, personal).await
    }

    /// The groups of this name.
    pub async fn groups(&self, name: &str) -> Result<Vec<User>, Failure> {
        self.find(&Ask::groups(name), "displayName", |theirs| alike(theirs, name), Purpose::Join, &[]).await
    }

    /// What a list holds of what was asked for. Not all that it holds: some IdPs pass over a filter that they do not know, and
    /// nothing may happen to a user who only happens to be in the list.
    ///
    /// Nor may access stay open because a leaver is in it and is not recognized: of those, only an empty list says that nobody is
    /// there. That is trouble of the event alone where the list is whole, since an IdP may compare more loosely than this does.
    async fn find(
        &self,
        ask: &Ask,
        attribute: &str,
        is_same: impl Fn(&str) -> bool,
        purpose: Purpose,
        personal: &[&str],
    ) -> Result<Vec<User>, Failure> {
        let answer = self.send(ask, personal).await?;
        let unread = |blame, error: &str| Failure {
            blame,
            status: Some(answer.status.as_u16()),
            error: format!("answered {}, {error}", answer.status),
            // It holds the user.
            response: None,
            retry_after: None,
        };
        let said = answer.json().unwrap_or_default();
        let (Some(total), list) = (said["totalResults"].as_u64(), said["Resources"].as_array().cloned().unwrap_or_default()) else {
            if answer.is_cut() {
                return Err(unread(Blame::Event, "with more than the 64 KiB that are read: too much is listed, or too much of one"));
            }
            return Err(unread(Blame::Sink, "but not with a SCIM list of resources: check the sink's `url`"));
        };
        let count = list.len() as u64;
        let (mut found, mut others) = (Vec::new(), 0);
        for resource in list.into_iter().filter_map(User::read) {
            match resource.text(attribute).map(|theirs| is_same(&theirs)) {
                Some(true) => found.push(resource),
                Some(false) => others += 1,
                None => {}
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
        let (blame, error) = if total > count && count > 0 {
            let error = "and the list does not hold what was asked for, but has more pages: the IdP does not filter by this attribute";
            (Blame::Refused, error)
        } else if total > count {
            (Blame::Permanent, "and counts what the list does not hold: see to it by hand")
        } else if others < count {
            (Blame::Permanent, "and the list holds what has no id or not the attribute, so who that is cannot be told: see to it by hand")
        } else if others > 0 && purpose == Purpose::Deprovision {
            (Blame::Permanent, "and the list holds only others than the one who was asked for: end access by hand")
        } else {
            return Ok(found);
        };
        Err(unread(blame, error))
    }

    /// Without the credential.
    fn request(&self, ask: &Ask) -> Result<Request<Full<Bytes>>, Failure> {
        let uri = format!("{}{}", self.base, ask.path).parse::<Uri>();
        let mut request = Request::new(Full::new(ask.body.as_ref().map(|body| Bytes::from(body.to_string())).unwrap_or_default()));
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = uri.map_err(|_| Failure::permanent("what the event names makes no URL: it is too long"))?;
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        if ask.body.is_none() {
            headers.remove(CONTENT_TYPE);
        }
        if let Some(Ok(version)) = ask.version.as_deref().map(HeaderValue::from_str) {
            headers.insert(IF_MATCH, version);
        }
        Ok(request)
    }

    /// A request as text for people.
    pub fn show(&self, ask: &Ask) -> Result<String, Failure> {
        let shown = self.authorization.show(self.request(ask)?);
        // Of the URL only the base may be secret.
        Ok(shown.replacen("/…\n", &format!("/…{}\n", ask.path), 1))
    }
}

/// What an answer other than success means.
fn failure(ask: &Ask, answer: &Answer, personal: &[&str]) -> Failure {
    let said = answer.json().unwrap_or_default();
    let texts = [&said["scimType"], &said["detail"]].map(|text| text.as_str().unwrap_or_default());
    let mut words: Vec<&str> = texts.into_iter().filter(|text| !text.is_empty()).collect();
    let blame = match (answer.status.as_u16(), ask.is_about_all()) {
        (300..=399, _) | (404 | 405 | 501, true) => {
            words.push("check the sink's `url`, which ends where `/Users` would follow");
            Blame::Refused
        }
        (405 | 501, false) => {
            words.push("the IdP takes no such change: check the sink's `url` and `on_deprovision`");
            Blame::Refused
        }
        // What was read is no longer so.
        (404 | 409 | 412, _) => Blame::Event,
        _ => answer::blame(answer.status),
    };
    let id = ask.path.rsplit('/').next().unwrap_or_default();
    let personal: Vec<&str> = personal.iter().copied().chain((!ask.is_about_all()).then_some(id)).collect();
    let mut failure = answer.failure_as(blame, &discreet::without(&words.join(": "), &personal));
    failure.response = failure.response.map(|response| discreet::without(&response, &personal));
    failure
}

/// `filter=attribute eq "value"`. A filter's texts are JSON's.
fn filter(attribute: &str, value: &str) -> String {
    format!("filter={}", escaped(&format!("{attribute} eq {}", Value::from(value))))
}

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// The headers of every request.
fn headers(config: &config::ScimSink) -> Result<HeaderMap, OpenError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/scim+json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/scim+json, application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("sluice/", env!("CARGO_PKG_VERSION"))));
    for (name, value) in &config.headers {
        let wrong = || OpenError::Header(name.clone());
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(value.expose()).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_can_end_its_filter() {
        let query = |value| Ask::users_with_groups("userName", value).path;
        assert_eq!(query("a+b@c.example"), "/Users?filter=userName%20eq%20%22a%2Bb%40c.example%22");
        assert_eq!(query(r#"x" or active eq "true"#), "/Users?filter=userName%20eq%20%22x%5C%22%20or%20active%20eq%20%5C%22true%22");
        assert_eq!(query(r"x\"), "/Users?filter=userName%20eq%20%22x%5C%5C%22");
        assert_eq!(query("é&\n"), "/Users?filter=userName%20eq%20%22%C3%A9%26%5Cn%22");
    }

    #[test]
    fn no_id_can_leave_its_place_in_the_path() {
        let user = User::read(serde_json::json!({"id": "../Groups/1?x#y"})).unwrap();
        assert_eq!(Ask::delete(&user).path, "/Users/..%2FGroups%2F1%3Fx%23y");
    }
}
