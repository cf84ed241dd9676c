//! Users as SCIM has them (RFC 7643), and what is to be changed of one. Pure.

use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// The extension that has the department.
const ENTERPRISE: &str = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User";
const USER: &str = "urn:ietf:params:scim:schemas:core:2.0:User";
const PATCH: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";

/// What an event says that a user is to be. What it does not say stays as the IdP has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// `userName` and the primary e-mail address: the event's `email`.
    pub email: String,
    /// `externalId`: the event's `userId`.
    pub user_id: String,
    /// The one of `roles`: the event's `role`.
    pub role: Option<String>,
    /// The enterprise extension's `department`: the event's `teamId`.
    pub team_id: Option<String>,
}

impl Wanted {
    /// The user who is created.
    pub fn resource(&self) -> Value {
        let mut schemas = vec![USER];
        let mut user = json!({
            "userName": self.email,
            "externalId": self.user_id,
            "active": true,
            "emails": [{"value": self.email, "primary": true}],
        });
        if let Some(role) = &self.role {
            user["roles"] = json!([{ "value": role }]);
        }
        if let Some(team_id) = &self.team_id {
            schemas.push(ENTERPRISE);
            user[ENTERPRISE] = json!({ "department": team_id });
        }
        user["schemas"] = schemas.into();
        user
    }

    /// What is to be changed of a user who is there; `None`: nothing.
    pub fn changes(&self, user: &User) -> Option<Value> {
        let mut operations = Vec::new();
        if !user.is_active() {
            operations.push(replace("active", true.into()));
        }
        if user.text("externalId").as_deref() != Some(&self.user_id) {
            operations.push(replace("externalId", json!(self.user_id)));
        }
        if let Some(role) = &self.role
            && user.values("roles") != [role]
        {
            // The whole list: of a user who was an administrator, nothing of that may stay.
            operations.push(replace("roles", json!([{ "value": role }])));
        }
        if let Some(team_id) = &self.team_id
            && user.department() != Some(team_id)
        {
            operations.push(replace(&format!("{ENTERPRISE}:department"), json!(team_id)));
        }
        (!operations.is_empty()).then(|| patch(operations))
    }
}

/// The PATCH that takes a user's access away.
pub fn deactivation() -> Value {
    patch(vec![replace("active", false.into())])
}

/// The PATCH that makes a user a member of a group; of one who is a member, it changes nothing (RFC 7644, 3.5.2.1).
pub fn joining(user: &User) -> Value {
    patch(vec![json!({"op": "add", "path": "members", "value": [{ "value": user.id }]})])
}

fn patch(operations: Vec<Value>) -> Value {
    json!({"schemas": [PATCH], "Operations": operations})
}

/// With a path for each attribute, and `op` in lower case: the form that all IdPs understand. Of an attribute that is not there, it
/// is taken as `add`.
fn replace(path: &str, value: Value) -> Value {
    json!({"op": "replace", "path": path, "value": value})
}

/// A user whom the IdP has.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    /// The IdP's own id.
    pub id: String,
    resource: Map<String, Value>,
}

impl User {
    /// `None`: it is not a resource with an id.
    pub fn read(resource: Value) -> Option<Self> {
        let Value::Object(resource) = resource else { return None };
        let id = text_of(resource.get("id")?).filter(|id| !id.is_empty())?.into_owned();
        Some(Self { id, resource })
    }

    /// What If-Match compares; `None` where the IdP keeps no versions.
    pub fn version(&self) -> Option<&str> {
        self.resource.get("meta")?.get("version")?.as_str()
    }

    /// An attribute that is a text, or a whole number, as some IdPs write ids.
    pub fn text(&self, attribute: &str) -> Option<Cow<'_, str>> {
        text_of(self.resource.get(attribute)?)
    }

    /// The IdP says that the user is active.
    pub fn is_active(&self) -> bool {
        self.says_active() == Some(true)
    }

    /// The IdP says that the user is not active. Where it says nothing, neither is so.
    pub fn is_inactive(&self) -> bool {
        self.says_active() == Some(false)
    }

    /// Whether this is an address of the user's, in whatever case.
    pub fn has_email(&self, email: &str) -> bool {
        self.values("emails").iter().any(|address| alike(address, email))
    }

    /// Whether the user is a member of a group, as far as the IdP says so.
    pub fn is_member(&self, group_id: &str) -> bool {
        self.values("groups").contains(&group_id)
    }

    fn department(&self) -> Option<&str> {
        self.resource.get(ENTERPRISE)?.get("department")?.as_str()
    }

    /// Some IdPs write it as a text.
    fn says_active(&self) -> Option<bool> {
        match self.resource.get("active")? {
            Value::Bool(active) => Some(*active),
            Value::String(active) => active.to_ascii_lowercase().parse().ok(),
            _ => None,
        }
    }

    /// The values of an attribute that has several; some IdPs write a list of texts.
    fn values(&self, attribute: &str) -> Vec<&str> {
        let items = self.resource.get(attribute).and_then(Value::as_array);
        items.into_iter().flatten().filter_map(|item| item.get("value").unwrap_or(item).as_str()).collect()
    }
}

fn text_of(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(text.into()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string().into()),
        _ => None,
    }
}

/// Whether two user names or addresses are the same: SCIM does not tell them apart by case.
pub fn alike(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted { email: "a@b.example".into(), user_id: "u1".into(), role: Some("rep".into()), team_id: Some("t1".into()) }
    }

    fn user(mut resource: Value) -> User {
        resource["id"] = json!("1");
        User::read(resource).unwrap()
    }

    fn paths(changes: Option<Value>) -> Vec<String> {
        let operations = changes.map(|changes| changes["Operations"].as_array().unwrap().clone()).unwrap_or_default();
        operations.iter().map(|operation| operation["path"].as_str().unwrap().rsplit(':').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_user_as_created_needs_no_change() {
        assert_eq!(wanted().changes(&user(wanted().resource())), None);
        let bare = Wanted { role: None, team_id: None, ..wanted() };
        assert_eq!(bare.changes(&user(bare.resource())), None);
        assert_eq!(bare.resource()["schemas"], json!([USER]));
        assert_eq!(bare.resource().get("roles"), None);
    }

    #[test]
    fn only_what_differs_is_changed() {
        let there = || wanted().resource();
        for (attribute, value, expected) in [
            ("active", json!(false), vec!["active"]),
            ("active", json!("False"), vec!["active"]),
            ("active", json!("True"), vec![]),
            ("active", Value::Null, vec!["active"]),
            ("externalId", json!("U1"), vec!["externalId"]),
            ("roles", json!([{"value": "rep"}, {"value": "admin"}]), vec!["roles"]),
            ("roles", json!(["rep"]), vec![]),
            (ENTERPRISE, json!({"department": "t0", "costCenter": "4"}), vec!["department"]),
            ("userName", json!("other"), vec![]),
        ] {
            let mut resource = there();
            resource[attribute] = value.clone();
            assert_eq!(paths(wanted().changes(&user(resource))), expected, "{attribute} {value}");
        }
        assert_eq!(paths(wanted().changes(&user(json!({})))), ["active", "externalId", "roles", "department"]);
    }

    #[test]
    fn what_an_event_does_not_say_is_left_alone() {
        let bare = Wanted { role: None, team_id: None, ..wanted() };
        assert_eq!(bare.changes(&user(wanted().resource())), None);
    }

    #[test]
    fn a_user_of_whom_the_idp_does_not_say_it_is_neither_active_nor_inactive() {
        for (active, expected) in
            [(json!(true), (true, false)), (json!("FALSE"), (false, true)), (json!(null), (false, false)), (json!(0), (false, false))]
        {
            let user = user(json!({ "active": active }));
            assert_eq!((user.is_active(), user.is_inactive()), expected, "{active}");
        }
    }

    #[test]
    fn what_has_no_id_is_no_user() {
        for resource in [json!({}), json!({"id": ""}), json!({"id": 0.5}), json!([]), json!("1")] {
            assert_eq!(User::read(resource.clone()), None, "{resource}");
        }
        let numbered = User::read(json!({"id": 7, "externalId": 8})).unwrap();
        assert_eq!((numbered.id.as_str(), numbered.text("externalId").as_deref()), ("7", Some("8")));
    }
}
