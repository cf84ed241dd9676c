//! `kind = "scim"`: users at an identity provider (IdP), over SCIM 2.0 (RFC 7644).
//!
//! | event | what the IdP is asked |
//! | --- | --- |
//! | `user.provisioned` | who has this `userName`: nobody → `POST /Users`; one → `PATCH` of what differs, or nothing |
//! | `user.deprovisioned` | the same, or by `externalId`; one → `PATCH` of `active` to false, or `DELETE`; nobody → nothing |
//! | `certification.expired` | who has this `externalId`, and which group is named so; one each → `PATCH` that adds the one to the other |
//! | others | nothing: skipped |
//!
//! A user is known by `userName`, the event's e-mail address. `externalId` is not unique at an IdP: it is written, and believed only
//! where nothing better is to be had.
//!
//! | the IdP | is taken as |
//! | --- | --- |
//! | answers 2xx; has it so already; 404 to a `DELETE` | delivered |
//! | has nobody to deprovision | delivered, and on record: no user whom an earlier event would still make comes back |
//! | answers 404, 409 or 412 to a change, or 409 to a `POST` | what was read has changed: read again, and tried once more; then trouble with this event |
//! | answers with a list of more than 64 KiB | trouble with this event |
//! | lists others alone, or what cannot be read, where a leaver was asked for | permanent: only an empty list says that nobody has access |
//! | lists others alone, and has more pages: it does not filter | a refusal |
//! | answers 400, 413, 422 or another 4xx; has several such users or groups, or no such group | permanent |
//! | has nobody whose certification could have expired | permanent: a later event of that user, such as the end of all access, must not wait for it |
//! | answers 200 to a deactivation, and still has the user as active | trouble with this event |
//! | answers 500 or another 5xx but 501 | trouble with this event |
//! | answers 408, 502, 503, 504; not with a SCIM list; cannot be resolved or reached; breaks off | trouble of the sink |
//! | answers 429 | a rate limit |
//! | answers 401, 403; 3xx, 405 or 501; or 404 to what is asked of all users: the URL, or the way to end access, is wrong | a refusal: the sink rests, nothing is buried |

mod discreet;
mod idp;
mod preview;
mod user;

use super::{Delivery, OpenError, Outcomes, Sink, one_by_one};
use crate::config::{self, Group, OnDeprovision};
use crate::delivery::{Blame, Failure, Outcome};
use crate::learning::{Event, Learning, Unmapped};
use idp::{Ask, Idp, Purpose};
use user::{User, Wanted};

/// See the module's documentation.
pub struct ScimSink {
    idp: Idp,
    group: Option<Group>,
    on_deprovision: OnDeprovision,
}

/// What an event changes at the IdP.
enum Change {
    Provision(Wanted),
    Deprovision { email: Option<String>, user_id: String },
    Join { user_id: String, group: Group },
}

impl Change {
    /// What no error may repeat.
    fn personal(&self) -> Vec<&str> {
        match self {
            Self::Provision(Wanted { email, user_id, role, team_id }) => {
                [email, user_id].into_iter().chain(role).chain(team_id).map(String::as_str).collect()
            }
            Self::Deprovision { email, user_id } => email.iter().chain([user_id]).map(String::as_str).collect(),
            Self::Join { user_id, .. } => vec![user_id],
        }
    }
}

impl ScimSink {
    /// `concurrency` is how many connections are worth keeping.
    pub fn new(config: &config::ScimSink, concurrency: usize) -> Result<Self, OpenError> {
        Ok(Self { idp: Idp::new(config, concurrency)?, group: config.group.clone(), on_deprovision: config.on_deprovision })
    }

    /// What an event changes; or what becomes of its delivery where it changes nothing.
    fn change(&self, delivery: &Delivery) -> Result<Change, Outcome> {
        let skipped = |reason: &str| Outcome::Skipped { reason: reason.into() };
        let Learning { user_id, event, .. } = Learning::parse(&delivery.payload).map_err(|unmapped| match unmapped {
            Unmapped::Type => skipped(&unmapped.to_string()),
            _ => Outcome::Failed(Failure::permanent(unmapped.to_string())),
        })?;
        match event {
            Event::UserProvisioned { email, role, team_id, .. } => Ok(Change::Provision(Wanted { email, user_id, role, team_id })),
            Event::UserDeprovisioned { email, .. } => Ok(Change::Deprovision { email, user_id }),
            Event::CertificationExpired { .. } => match &self.group {
                Some(group) => Ok(Change::Join { user_id, group: group.clone() }),
                None => Err(skipped("no `group` is configured for users whose certification has expired")),
            },
            _ => Err(skipped("events of this type change no user")),
        }
    }

    async fn attempt(&self, delivery: &Delivery) -> Outcome {
        let change = match self.change(delivery) {
            Ok(change) => change,
            Err(outcome) => return outcome,
        };
        match self.make(&change).await {
            Ok(status) => Outcome::Delivered { status: Some(status) },
            Err(failure) => Outcome::Failed(failure),
        }
    }

    /// Makes a change; returns the status of success. What was read may change before it is written: then it is read once more.
    async fn make(&self, change: &Change) -> Result<u16, Failure> {
        let is_stale = |failure: &Failure| failure.blame == Blame::Event && matches!(failure.status, Some(404 | 409 | 412));
        match self.try_to_make(change, Again(false)).await {
            Err(failure) if is_stale(&failure) => self.try_to_make(change, Again(true)).await,
            made => made,
        }
    }

    async fn try_to_make(&self, change: &Change, again: Again) -> Result<u16, Failure> {
        let personal = &change.personal();
        match change {
            Change::Provision(wanted) => self.provision(wanted, again, personal).await,
            Change::Deprovision { email, user_id } => self.deprovision(email.as_deref(), user_id, again, personal).await,
            Change::Join { user_id, group } => self.join(user_id, group, personal).await,
        }
    }

    async fn provision(&self, wanted: &Wanted, again: Again, personal: &[&str]) -> Result<u16, Failure> {
        let ask = match self.by_name(&wanted.email, Purpose::Provision, personal).await? {
            None => Ask::create(wanted.resource()),
            Some(user) => match wanted.changes(&user) {
                None => return Ok(THERE_ALREADY),
                Some(changes) => again.condition(Ask::change(&user, changes)),
            },
        };
        Ok(self.idp.send(&ask, personal).await?.status.as_u16())
    }

    async fn deprovision(&self, email: Option<&str>, user_id: &str, again: Again, personal: &[&str]) -> Result<u16, Failure> {
        let Some(user) = self.leaver(email, user_id, personal).await? else { return Ok(THERE_ALREADY) };
        match self.on_deprovision {
            OnDeprovision::Delete => match self.idp.send(&Ask::delete(&user), personal).await {
                Ok(answer) => Ok(answer.status.as_u16()),
                Err(failure) if is_gone(&failure) => Ok(404),
                Err(failure) => Err(failure),
            },
            OnDeprovision::Deactivate if user.is_inactive() => Ok(THERE_ALREADY),
            OnDeprovision::Deactivate => {
                let answer = self.idp.send(&again.condition(Ask::change(&user, user::deactivation())), personal).await?;
                let still_active = answer.json().and_then(User::read).is_some_and(|user| user.is_active());
                if still_active {
                    let failure = answer.failure_as(Blame::Event, "but the IdP still has the user as active");
                    // The response is the user.
                    return Err(Failure { response: None, ..failure });
                }
                Ok(answer.status.as_u16())
            }
        }
    }

    /// The user whose access ends; `None`: nobody has any.
    async fn leaver(&self, email: Option<&str>, user_id: &str, personal: &[&str]) -> Result<Option<User>, Failure> {
        if let Some(email) = email
            && let Some(user) = self.by_name(email, Purpose::Deprovision, personal).await?
        {
            return Ok(Some(user));
        }
        let mut users = self.idp.users("externalId", user_id, Purpose::Deprovision, personal).await?;
        if users.iter().all(User::is_inactive) && self.on_deprovision == OnDeprovision::Deactivate {
            return Ok(None);
        }
        match (users.len(), users.pop()) {
            (_, None) => Ok(None),
            (1, Some(user)) if email.is_none_or(|email| user.has_email(email)) => Ok(Some(user)),
            (1, _) => Err(Failure::permanent(
                "nobody has the event's e-mail address as `userName`, and the user with its `externalId` has another: end that user's access \
                 by hand if it is the same person",
            )),
            _ => Err(Failure::permanent("several users have the event's `externalId`, and none its `userName`: end access by hand")),
        }
    }

    async fn join(&self, user_id: &str, group: &Group, personal: &[&str]) -> Result<u16, Failure> {
        let users = self.idp.users("externalId", user_id, Purpose::Join, personal).await?;
        let user = match &users[..] {
            [user] => user,
            [] => return Err(Failure::permanent("no user has the event's `externalId`: provision the user, and replay")),
            _ => return Err(Failure::permanent("several users have the event's `externalId`: add the right one to the group by hand")),
        };
        let id = match group {
            Group::Id(id) => id.clone(),
            Group::Name(name) => match &self.idp.groups(name).await?[..] {
                [group] => group.id.clone(),
                [] => return Err(Failure::permanent("the IdP has no group that is named as `group` says: create it, and replay")),
                _ => return Err(Failure::permanent("several groups are named as `group` says: give its id, group = \"id:…\"")),
            },
        };
        if user.is_member(&id) {
            return Ok(THERE_ALREADY);
        }
        match self.idp.send(&Ask::change_group(&id, user::joining(user)), personal).await {
            Ok(answer) => Ok(answer.status.as_u16()),
            Err(failure) if is_gone(&failure) => {
                let error = format!("{}: the IdP does not have the group, or the user, any more", failure.error);
                Err(Failure { blame: Blame::Permanent, error, ..failure })
            }
            Err(failure) => Err(failure),
        }
    }

    /// The user who has this name, which is at most one.
    async fn by_name(&self, email: &str, purpose: Purpose, personal: &[&str]) -> Result<Option<User>, Failure> {
        let mut users = self.idp.users("userName", email, purpose, personal).await?;
        match users.len() {
            0 | 1 => Ok(users.pop()),
            _ => {
                Err(Failure::permanent("several users have the event's e-mail address as `userName`: correct that at the IdP, and replay"))
            }
        }
    }
}

/// The IdP itself says that what was to be changed is not there. A 404 with another blame says something else.
fn is_gone(failure: &Failure) -> bool {
    failure.blame == Blame::Event && failure.status == Some(404)
}

/// The status of a delivery for which nothing had to be changed: that of the answer which said so.
const THERE_ALREADY: u16 = 200;

/// Whether a change is tried a second time.
#[derive(Clone, Copy)]
struct Again(bool);

impl Again {
    /// The second time without a version. What is set does not depend on what was there, and some IdPs compare versions in a way that
    /// lets none match.
    fn condition(self, ask: Ask) -> Ask {
        if self.0 { ask.unconditional() } else { ask }
    }
}

impl Sink for ScimSink {
    fn deliver<'a>(&'a self, batch: &'a [Delivery]) -> Outcomes<'a> {
        one_by_one(batch, |delivery| self.attempt(delivery))
    }

    /// What is asked first, and what then follows: that depends on the answer.
    fn preview(&self, delivery: &Delivery) -> Result<String, Outcome> {
        let change = self.change(delivery)?;
        preview::preview(self, &change).map_err(Outcome::Failed)
    }

    /// Who is provisioned and who is deprovisioned: one user. Membership of the group is another object: one does not undo the other.
    fn object(&self, delivery: &Delivery) -> Option<String> {
        let key = delivery.order_key.as_ref()?;
        match self.change(delivery).ok()? {
            Change::Provision(_) | Change::Deprovision { .. } => Some(format!("user {key}")),
            Change::Join { .. } => Some(format!("member {key}")),
        }
    }
}
