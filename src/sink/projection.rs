//! `kind = "projection"`: figures for dashboards, in tables of Sluice's own database: see `migrations/0010_projections.sql`.
//!
//! Out-of-order, repeated and replayed events leave the same figures: see [`projections`].
//!
//! | what happened | taken as |
//! | --- | --- |
//! | applied, now or earlier | delivered |
//! | something newer was applied, and this changes nothing | skipped: superseded |
//! | an event of another type | skipped |
//! | a field that is needed is absent, too long, or has a NUL character | permanent, naming the field |
//! | a row that the database refuses (SQLSTATE 22, 23, 54) | permanent for that row alone |
//! | the database refuses us (28, 42: a role, a right or a table is missing) | refused: the sink rests |
//! | no connection, or any other error | the sink's trouble: tried again |

use super::{Delivery, Outcomes, Sink};
use crate::delivery::{Blame, Failure, Outcome};
use crate::learning::{Event, Learning, Unmapped};
use crate::store::events::Trouble;
use crate::store::projections::{self, Applied, Completion, Figure, Observation, Progress, Quiz};
use crate::store::servers::{Connection, Servers};
use chrono::{DateTime, Datelike, Utc};
use tokio::sync::Mutex;

/// One statement a table costs little more for all of these than for one.
const BATCH_MAX: usize = 500;
/// Of each id, in bytes: three of them fit into one entry of an index, which Postgres bounds at 2704.
const ID_BYTES_MAX: usize = 800;
/// Times and scores beyond this are taken for mistakes, and for absent: their sums must stay numbers.
const NUMBER_MAX: f64 = 1e12;

/// The worker gives up a try before this; the server then must not go on with it for ever.
const SETTINGS: [(&str, &str); 2] = [("statement_timeout", "60s"), ("lock_timeout", "60s")];

/// Keeps the tables.
pub struct ProjectionSink {
    servers: Servers,
    /// Taken out while it is used, so that a try which is broken off in the middle of a statement closes it.
    connection: Mutex<Option<Connection>>,
}

impl ProjectionSink {
    pub fn new(database: &Servers) -> Self {
        let servers = database.session("sluice projection", &SETTINGS);
        Self { servers, connection: Mutex::default() }
    }

    async fn apply(&self, observations: &[Observation]) -> Result<Vec<Result<Applied, String>>, sqlx::Error> {
        let mut kept = self.connection.lock().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.servers.connect().await?,
        };
        let applied = projections::apply_all(&mut connection, observations).await?;
        *kept = Some(connection);
        Ok(applied)
    }
}

impl Sink for ProjectionSink {
    fn deliver<'a>(&'a self, batch: &'a [Delivery]) -> Outcomes<'a> {
        Box::pin(async move {
            let mut observations = Vec::with_capacity(batch.len());
            // `None`: the answer is the next of the database's.
            let settled: Vec<Option<Outcome>> = batch
                .iter()
                .map(|delivery| match observe(&delivery.payload, delivery.seq, delivery.received_at) {
                    Ok(observation) => {
                        observations.push(observation);
                        None
                    }
                    Err(unmapped) => Some(unobserved(&unmapped)),
                })
                .collect();
            let applied = if observations.is_empty() { Ok(Vec::new()) } else { self.apply(&observations).await };
            match applied {
                Ok(applied) => {
                    let mut applied = applied.into_iter().map(outcome);
                    let next = |settled: Option<Outcome>| settled.or_else(|| applied.next());
                    settled.into_iter().filter_map(next).collect()
                }
                Err(error) => {
                    let failure = failure(&error);
                    settled.into_iter().map(|settled| settled.unwrap_or_else(|| Outcome::Failed(failure.clone()))).collect()
                }
            }
        })
    }

    /// There is no request: what it would find in the payload.
    fn preview(&self, delivery: &Delivery) -> Result<String, Outcome> {
        match observe(&delivery.payload, delivery.seq, delivery.received_at) {
            Ok(observation) => Ok(format!("{:#?}", observation.figure)),
            Err(unmapped) => Err(unobserved(&unmapped)),
        }
    }

    fn batch_max(&self) -> usize {
        BATCH_MAX
    }
}

/// What becomes of an event that says nothing of the tables.
fn unobserved(unmapped: &Unmapped) -> Outcome {
    match unmapped {
        Unmapped::Type => Outcome::Skipped { reason: unmapped.to_string() },
        _ => Outcome::Failed(Failure::permanent(unmapped.to_string())),
    }
}

fn outcome(applied: Result<Applied, String>) -> Outcome {
    match applied {
        Ok(Applied::Current) => Outcome::Delivered { status: None },
        Ok(Applied::Superseded) => Outcome::Skipped { reason: "superseded".into() },
        Err(code) => Outcome::Failed(Failure::permanent(format!("the database refuses the row (SQLSTATE {code})"))),
    }
}

fn failure(error: &sqlx::Error) -> Failure {
    let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
    let (blame, error) = match Trouble::from(error) {
        Trouble::Again => (Blame::Sink, "another transaction was in the way".into()),
        Trouble::Data { code } => (Blame::Event, format!("the database refuses a row (SQLSTATE {code})")),
        Trouble::Unavailable { reason } if code.starts_with("28") || code.starts_with("42") => (
            Blame::Refused,
            format!("the database refuses us: {reason}; run sluice migrate, and sluice migrate --roles where roles are used"),
        ),
        Trouble::Unavailable { reason } => (Blame::Sink, format!("cannot write to the database: {reason}")),
    };
    Failure { blame, status: None, error, response: None, retry_after: None }
}

/// What an event says, in terms of the tables.
///
/// # Errors
/// An event of another type, or one that lacks what its table needs.
pub fn observe(payload: &[u8], seq: i64, received_at: DateTime<Utc>) -> Result<Observation, Unmapped> {
    let Learning { company_id, user_id, event } = Learning::parse(payload)?;
    let company = id(company_id.unwrap_or_default(), "companyId")?;
    let user = id(user_id, "data.userId")?;
    // A time that is still to come would keep all later events out.
    let as_of = |time: Option<DateTime<Utc>>| usable_time(time).filter(|time| *time <= received_at).unwrap_or(received_at);
    let (at, figure) = match event {
        Event::CourseCompleted { course, score, completed_at } => {
            let completion = Completion { course: id(course.id, "data.courseId")?, name: text(course.name), score: number(score) };
            (as_of(completed_at), Figure::Completion(completion))
        }
        Event::QuizSubmitted { quiz, score, score_max, passed, practice } => {
            let (score, score_max) = (number(score), number(score_max));
            let percent = score.zip(score_max.filter(|max| *max > 0.0)).map(|(score, max)| (100.0 * score / max).clamp(0.0, 100.0));
            let percent = percent.filter(|percent| percent.is_finite());
            let (quiz, name) = (id(quiz.id, "data.quizId")?, text(quiz.name));
            (received_at, Figure::Quiz(Quiz { quiz, name, score, score_max, percent, passed, practice }))
        }
        Event::UserProvisioned { email, role, team_id, .. } => {
            (received_at, Figure::Provisioned { email: text(Some(email)), role: text(role), team: text(team_id) })
        }
        Event::UserDeprovisioned { deprovisioned_at, .. } => {
            (received_at, Figure::Deprovisioned { at: usable_time(deprovisioned_at).unwrap_or(received_at) })
        }
        Event::ModuleProgress { module, percent, time_spent_secs } => {
            let (module, name) = (id(module.id, "data.moduleId")?, text(module.name));
            (received_at, Figure::Progress(Progress { module, name, percent, time_spent_secs: number(time_spent_secs) }))
        }
        Event::CertificationExpired { name, expired_at, renewal_deadline } => {
            let (name, deadline) = (id(name, "data.certName")?, usable_time(renewal_deadline));
            (as_of(expired_at), Figure::Expiry { name, expired_at: usable_time(expired_at), deadline })
        }
    };
    Ok(Observation { seq, at, company, user, figure })
}

fn id(id: String, field: &'static str) -> Result<String, Unmapped> {
    let usable = id.len() <= ID_BYTES_MAX && !id.contains('\0');
    usable.then_some(id).ok_or(Unmapped::Missing(field))
}

/// Postgres stores any character but NUL.
fn text(text: Option<String>) -> Option<String> {
    text.map(|text| text.replace('\0', ""))
}

fn number(number: Option<f64>) -> Option<f64> {
    number.filter(|number| number.abs() <= NUMBER_MAX)
}

/// A year that Postgres and every reader can take.
fn usable_time(time: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    time.filter(|time| (1..=9999).contains(&time.year()))
}
