//! What would be asked of the IdP for an event, as text for people.

use super::idp::Ask;
use super::user::{self, User};
use super::{Change, OnDeprovision, ScimSink};
use crate::config::Group;
use crate::delivery::Failure;
use serde_json::json;

/// What is asked first, and what follows on each answer. `{id}` stands for what only the IdP knows.
pub fn preview(sink: &ScimSink, change: &Change) -> Result<String, Failure> {
    let someone = || User::read(json!({ "id": "{id}" })).ok_or_else(|| Failure::permanent("no user can be shown"));
    let deprived = |user: &User| match sink.on_deprovision {
        OnDeprovision::Deactivate => Ask::change(user, user::deactivation()),
        OnDeprovision::Delete => Ask::delete(user),
    };
    let steps = match change {
        Change::Provision(wanted) => {
            let user = someone()?;
            let changes = wanted.changes(&user).unwrap_or_default();
            vec![
                ("first", Ask::users("userName", &wanted.email)),
                ("where nobody is found", Ask::create(wanted.resource())),
                ("else, with those operations that are needed", Ask::change(&user, changes)),
            ]
        }
        Change::Deprovision { email: Some(email), user_id } => vec![
            ("first", Ask::users("userName", email)),
            ("where nobody is found", Ask::users("externalId", user_id)),
            ("where one is found, and not deprived already", deprived(&someone()?)),
        ],
        Change::Deprovision { email: None, user_id } => {
            vec![("first", Ask::users("externalId", user_id)), ("where one is found, and not deprived already", deprived(&someone()?))]
        }
        Change::Join { user_id, group } => {
            let first = ("first", Ask::users_with_groups("externalId", user_id));
            let join = |id: &str| Ok(("where the user is not a member", Ask::change_group(id, user::joining(&someone()?))));
            match group {
                Group::Id(id) => vec![first, join(id)?],
                Group::Name(name) => vec![first, ("then", Ask::groups(name)), join("{id}")?],
            }
        }
    };
    let show = |ask: Ask| sink.idp.show(&ask).map(|text| text.replace("%7Bid%7D", "{id}"));
    let shown = steps.into_iter().map(|(when, ask)| Ok(format!("# {when}\n{}", show(ask)?.trim_end())));
    Ok(shown.collect::<Result<Vec<_>, Failure>>()?.join("\n\n"))
}
