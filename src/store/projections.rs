//! The tables of projections: many events a statement, merged so that order and repetition do not matter.
//!
//! Of what an event says, some replaces what an older event said, and some only ever grows. Both are merges that commute, so that a late, repeated or
//! replayed event, and two workers at once, leave the same figures. Rows are written in the order of their keys, lest two writers deadlock.

use super::events::Trouble;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// What one event says of one person.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// `events.seq`.
    pub seq: i64,
    /// When it was so: never later than it was received.
    pub at: DateTime<Utc>,
    /// Empty where the payload names none.
    pub company: String,
    pub user: String,
    pub figure: Figure,
}

/// Which table it is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Figure {
    Progress(Progress),
    Completion(Completion),
    Quiz(Quiz),
    Expiry { name: String, expired_at: Option<DateTime<Utc>>, deadline: Option<DateTime<Utc>> },
    Provisioned { email: Option<String>, role: Option<String>, team: Option<String> },
    Deprovisioned { at: DateTime<Utc> },
}

/// Of `learner_progress`.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    pub module: String,
    pub name: Option<String>,
    /// 0 to 100.
    pub percent: Option<f64>,
    pub time_spent_secs: Option<f64>,
}

/// Of `course_completions`.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    pub course: String,
    pub name: Option<String>,
    pub score: Option<f64>,
}

/// Of `quiz_results`.
#[derive(Debug, Clone, PartialEq)]
pub struct Quiz {
    pub quiz: String,
    pub name: Option<String>,
    pub score: Option<f64>,
    pub score_max: Option<f64>,
    /// 0 to 100.
    pub percent: Option<f64>,
    pub passed: Option<bool>,
    pub practice: bool,
}

/// What became of an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The tables show it.
    Current,
    /// Something newer is shown, and this added nothing.
    Superseded,
}

/// Applies observations, in the order given for the answers alone. `Err`: the database refuses that one, with this SQLSTATE.
///
/// A batch that is refused is split by halves, so that one bad row harms no other: what was applied of it before is applied again, which changes nothing.
pub async fn apply_all(conn: &mut PgConnection, observations: &[Observation]) -> Result<Vec<Result<Applied, String>>, sqlx::Error> {
    let mut outcomes = Vec::with_capacity(observations.len());
    let mut left = vec![observations];
    while let Some(part) = left.pop() {
        match apply(conn, part).await {
            Ok(applied) => outcomes.extend(applied.into_iter().map(Ok)),
            Err(error) => match Trouble::from(&error) {
                Trouble::Data { code } if part.len() == 1 => outcomes.push(Err(code)),
                Trouble::Data { .. } => {
                    let (first, second) = part.split_at(part.len() / 2);
                    left.extend([second, first]);
                }
                _ => return Err(error),
            },
        }
    }
    Ok(outcomes)
}

/// One object's key in a table: company, user, and what of theirs.
type Key<'a> = (&'a str, &'a str, &'a str);
/// The newest event that an object shows.
type Version = (DateTime<Utc>, i64);

async fn apply(conn: &mut PgConnection, observations: &[Observation]) -> Result<Vec<Applied>, sqlx::Error> {
    let mut applied = vec![Applied::Current; observations.len()];
    progress(conn, observations, &mut applied).await?;
    completions(conn, observations, &mut applied).await?;
    quizzes(conn, observations).await?;
    expiries(conn, observations, &mut applied).await?;
    learners(conn, observations, &mut applied).await?;
    Ok(applied)
}

/// An array for a column.
fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

/// The greater of two, where there is any.
fn greatest(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b).reduce(f64::max)
}

impl Observation {
    fn version(&self) -> Version {
        (self.at, self.seq)
    }

    fn key<'a>(&'a self, of: &'a str) -> Key<'a> {
        (&self.company, &self.user, of)
    }
}

async fn progress(conn: &mut PgConnection, observations: &[Observation], applied: &mut [Applied]) -> Result<(), sqlx::Error> {
    let mut merged: BTreeMap<Key, (Version, Progress)> = BTreeMap::new();
    for observation in observations {
        let Figure::Progress(seen) = &observation.figure else { continue };
        let row = merged.entry(observation.key(&seen.module)).or_insert_with(|| (observation.version(), seen.clone()));
        if observation.version() > row.0 {
            (row.0, row.1.name) = (observation.version(), seen.name.clone());
        }
        row.1.percent = greatest(row.1.percent, seen.percent);
        row.1.time_spent_secs = greatest(row.1.time_spent_secs, seen.time_spent_secs);
    }
    if merged.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = merged.into_iter().collect();
    let shown = sqlx::query!(
        r#"
        insert into sluice.learner_progress as t (company_id, user_id, module_id, module_name, percent, time_spent_secs, as_of, as_of_seq)
        select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::float8[], $6::float8[], $7::timestamptz[], $8::bigint[])
        on conflict (company_id, user_id, module_id) do update
           set module_name = case when (excluded.as_of, excluded.as_of_seq) > (t.as_of, t.as_of_seq) then excluded.module_name else t.module_name end,
               percent = greatest(t.percent, excluded.percent),
               time_spent_secs = greatest(t.time_spent_secs, excluded.time_spent_secs),
               as_of = greatest(t.as_of, excluded.as_of),
               as_of_seq = case when (excluded.as_of, excluded.as_of_seq) > (t.as_of, t.as_of_seq) then excluded.as_of_seq else t.as_of_seq end
        returning company_id, user_id, module_id, percent, time_spent_secs, as_of, as_of_seq
        "#,
        &column(&rows, |(key, _)| key.0) as &[&str],
        &column(&rows, |(key, _)| key.1) as &[&str],
        &column(&rows, |(key, _)| key.2) as &[&str],
        &column(&rows, |(_, row)| row.1.name.as_deref()) as &[Option<&str>],
        &column(&rows, |(_, row)| row.1.percent) as &[Option<f64>],
        &column(&rows, |(_, row)| row.1.time_spent_secs) as &[Option<f64>],
        &column(&rows, |(_, row)| row.0.0) as &[DateTime<Utc>],
        &column(&rows, |(_, row)| row.0.1),
    )
    .fetch_all(conn)
    .await?;
    let shown: BTreeMap<Key, _> = shown.iter().map(|row| ((&*row.company_id, &*row.user_id, &*row.module_id), row)).collect();
    for (observation, applied) in observations.iter().zip(applied) {
        let Figure::Progress(seen) = &observation.figure else { continue };
        let Some(row) = shown.get(&observation.key(&seen.module)) else { continue };
        let adds = |seen: Option<f64>, shown: Option<f64>| seen.is_some() && seen == shown;
        let older = observation.seq != row.as_of_seq;
        if older && !adds(seen.percent, row.percent) && !adds(seen.time_spent_secs, row.time_spent_secs) {
            *applied = Applied::Superseded;
        }
    }
    Ok(())
}

async fn completions(conn: &mut PgConnection, observations: &[Observation], applied: &mut [Applied]) -> Result<(), sqlx::Error> {
    let mut merged: BTreeMap<Key, (Version, DateTime<Utc>, &Completion)> = BTreeMap::new();
    for observation in observations {
        let Figure::Completion(seen) = &observation.figure else { continue };
        let row = merged.entry(observation.key(&seen.course)).or_insert((observation.version(), observation.at, seen));
        if observation.version() > row.0 {
            (row.0, row.2) = (observation.version(), seen);
        }
        row.1 = row.1.min(observation.at);
    }
    if merged.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = merged.into_iter().collect();
    let shown = sqlx::query!(
        r#"
        insert into sluice.course_completions as t (company_id, user_id, course_id, course_name, score, first_completed_at, as_of, as_of_seq)
        select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::float8[], $6::timestamptz[], $7::timestamptz[], $8::bigint[])
        on conflict (company_id, user_id, course_id) do update
           set course_name = case when (excluded.as_of, excluded.as_of_seq) > (t.as_of, t.as_of_seq) then excluded.course_name else t.course_name end,
               score = case when (excluded.as_of, excluded.as_of_seq) > (t.as_of, t.as_of_seq) then excluded.score else t.score end,
               first_completed_at = least(t.first_completed_at, excluded.first_completed_at),
               as_of = greatest(t.as_of, excluded.as_of),
               as_of_seq = case when (excluded.as_of, excluded.as_of_seq) > (t.as_of, t.as_of_seq) then excluded.as_of_seq else t.as_of_seq end
        returning company_id, user_id, course_id, first_completed_at, as_of_seq
        "#,
        &column(&rows, |(key, _)| key.0) as &[&str],
        &column(&rows, |(key, _)| key.1) as &[&str],
        &column(&rows, |(key, _)| key.2) as &[&str],
        &column(&rows, |(_, row)| row.2.name.as_deref()) as &[Option<&str>],
        &column(&rows, |(_, row)| row.2.score) as &[Option<f64>],
        &column(&rows, |(_, row)| row.1) as &[DateTime<Utc>],
        &column(&rows, |(_, row)| row.0.0) as &[DateTime<Utc>],
        &column(&rows, |(_, row)| row.0.1),
    )
    .fetch_all(conn)
    .await?;
    let shown: BTreeMap<Key, _> = shown.iter().map(|row| ((&*row.company_id, &*row.user_id, &*row.course_id), row)).collect();
    for (observation, applied) in observations.iter().zip(applied) {
        let Figure::Completion(seen) = &observation.figure else { continue };
        let Some(row) = shown.get(&observation.key(&seen.course)) else { continue };
        if observation.seq != row.as_of_seq && observation.at > row.first_completed_at {
            *applied = Applied::Superseded;
        }
    }
    Ok(())
}

/// An attempt is an event: what is there already is the same.
async fn quizzes(conn: &mut PgConnection, observations: &[Observation]) -> Result<(), sqlx::Error> {
    let mut merged: BTreeMap<i64, (&Observation, &Quiz)> = BTreeMap::new();
    for observation in observations {
        let Figure::Quiz(seen) = &observation.figure else { continue };
        merged.insert(observation.seq, (observation, seen));
    }
    if merged.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = merged.into_values().collect();
    sqlx::query!(
        r#"
        insert into sluice.quiz_results
               (event_seq, company_id, user_id, quiz_id, quiz_name, score, score_max, percent, passed, practice, submitted_at)
        select * from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::float8[], $7::float8[], $8::float8[],
                             $9::boolean[], $10::boolean[], $11::timestamptz[])
        on conflict do nothing
        "#,
        &column(&rows, |(event, _)| event.seq),
        &column(&rows, |(event, _)| event.company.as_str()) as &[&str],
        &column(&rows, |(event, _)| event.user.as_str()) as &[&str],
        &column(&rows, |(_, quiz)| quiz.quiz.as_str()) as &[&str],
        &column(&rows, |(_, quiz)| quiz.name.as_deref()) as &[Option<&str>],
        &column(&rows, |(_, quiz)| quiz.score) as &[Option<f64>],
        &column(&rows, |(_, quiz)| quiz.score_max) as &[Option<f64>],
        &column(&rows, |(_, quiz)| quiz.percent) as &[Option<f64>],
        &column(&rows, |(_, quiz)| quiz.passed) as &[Option<bool>],
        &column(&rows, |(_, quiz)| quiz.practice),
        &column(&rows, |(event, _)| event.at) as &[DateTime<Utc>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// When a certification expired, and until when it can be renewed.
type Expiry = (Option<DateTime<Utc>>, Option<DateTime<Utc>>);

async fn expiries(conn: &mut PgConnection, observations: &[Observation], applied: &mut [Applied]) -> Result<(), sqlx::Error> {
    let mut merged: BTreeMap<Key, (Version, Expiry)> = BTreeMap::new();
    for observation in observations {
        let Figure::Expiry { name, expired_at, deadline } = &observation.figure else { continue };
        let seen = (observation.version(), (*expired_at, *deadline));
        let row = merged.entry(observation.key(name)).or_insert(seen);
        if seen.0 > row.0 {
            *row = seen;
        }
    }
    if merged.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = merged.into_iter().collect();
    let shown = sqlx::query!(
        r#"
        insert into sluice.certifications as t (company_id, user_id, name, expired_at, renewal_deadline, as_of, as_of_seq)
        select * from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[], $7::bigint[])
        on conflict (company_id, user_id, name) do update
           set (expired_at, renewal_deadline, as_of, as_of_seq) = (
               select n.expired_at, n.renewal_deadline, n.as_of, n.as_of_seq
                 from (values (t.expired_at, t.renewal_deadline, t.as_of, t.as_of_seq),
                              (excluded.expired_at, excluded.renewal_deadline, excluded.as_of, excluded.as_of_seq))
                      as n(expired_at, renewal_deadline, as_of, as_of_seq)
                order by n.as_of desc, n.as_of_seq desc limit 1)
        returning company_id, user_id, name, as_of_seq
        "#,
        &column(&rows, |(key, _)| key.0) as &[&str],
        &column(&rows, |(key, _)| key.1) as &[&str],
        &column(&rows, |(key, _)| key.2) as &[&str],
        &column(&rows, |(_, row)| row.1.0) as &[Option<DateTime<Utc>>],
        &column(&rows, |(_, row)| row.1.1) as &[Option<DateTime<Utc>>],
        &column(&rows, |(_, row)| row.0.0) as &[DateTime<Utc>],
        &column(&rows, |(_, row)| row.0.1),
    )
    .fetch_all(conn)
    .await?;
    let shown: BTreeMap<Key, i64> = shown.iter().map(|row| ((&*row.company_id, &*row.user_id, &*row.name), row.as_of_seq)).collect();
    for (observation, applied) in observations.iter().zip(applied) {
        let Figure::Expiry { name, .. } = &observation.figure else { continue };
        if shown.get(&observation.key(name)).is_some_and(|seq| *seq != observation.seq) {
            *applied = Applied::Superseded;
        }
    }
    Ok(())
}

/// The newest of each of the two events about a person.
#[derive(Default, Clone, Copy)]
struct Learner<'a> {
    provisioned: Option<(i64, &'a Figure)>,
    deprovisioned: Option<(i64, DateTime<Utc>)>,
}

impl<'a> Learner<'a> {
    /// A field of the newest `user.provisioned`.
    fn field(&self, of: impl Fn(&'a Figure) -> Option<&'a str>) -> Option<&'a str> {
        self.provisioned.and_then(|(_, figure)| of(figure))
    }
}

fn newest_of_learners(observations: &[Observation]) -> Vec<((&str, &str), Learner<'_>)> {
    let mut merged: BTreeMap<(&str, &str), Learner> = BTreeMap::new();
    for observation in observations {
        let key = (observation.company.as_str(), observation.user.as_str());
        match &observation.figure {
            Figure::Provisioned { .. } => {
                let row = merged.entry(key).or_default();
                if row.provisioned.is_none_or(|(seq, _)| seq < observation.seq) {
                    row.provisioned = Some((observation.seq, &observation.figure));
                }
            }
            Figure::Deprovisioned { at } => {
                let row = merged.entry(key).or_default();
                row.deprovisioned = row.deprovisioned.max(Some((observation.seq, *at)));
            }
            _ => {}
        }
    }
    merged.into_iter().collect()
}

async fn learners(conn: &mut PgConnection, observations: &[Observation], applied: &mut [Applied]) -> Result<(), sqlx::Error> {
    let rows = newest_of_learners(observations);
    if rows.is_empty() {
        return Ok(());
    }
    let field = |pick: fn(&Figure) -> Option<&str>| column(&rows, |(_, row)| row.field(pick));
    let shown = sqlx::query!(
        r#"
        insert into sluice.learners as t (company_id, user_id, email, role, team_id, provisioned_seq, deprovisioned_at, deprovisioned_seq)
        select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[], $8::bigint[])
        on conflict (company_id, user_id) do update
           set email = case when excluded.provisioned_seq > coalesce(t.provisioned_seq, -1) then excluded.email else t.email end,
               role = case when excluded.provisioned_seq > coalesce(t.provisioned_seq, -1) then excluded.role else t.role end,
               team_id = case when excluded.provisioned_seq > coalesce(t.provisioned_seq, -1) then excluded.team_id else t.team_id end,
               provisioned_seq = greatest(t.provisioned_seq, excluded.provisioned_seq),
               deprovisioned_at = case when excluded.deprovisioned_seq > coalesce(t.deprovisioned_seq, -1) then excluded.deprovisioned_at
                                       else t.deprovisioned_at end,
               deprovisioned_seq = greatest(t.deprovisioned_seq, excluded.deprovisioned_seq)
        returning company_id, user_id, provisioned_seq, deprovisioned_seq
        "#,
        &column(&rows, |(key, _)| key.0) as &[&str],
        &column(&rows, |(key, _)| key.1) as &[&str],
        &field(|figure| if let Figure::Provisioned { email, .. } = figure { email.as_deref() } else { None }) as &[Option<&str>],
        &field(|figure| if let Figure::Provisioned { role, .. } = figure { role.as_deref() } else { None }) as &[Option<&str>],
        &field(|figure| if let Figure::Provisioned { team, .. } = figure { team.as_deref() } else { None }) as &[Option<&str>],
        &column(&rows, |(_, row)| row.provisioned.map(|(seq, _)| seq)) as &[Option<i64>],
        &column(&rows, |(_, row)| row.deprovisioned.map(|(_, at)| at)) as &[Option<DateTime<Utc>>],
        &column(&rows, |(_, row)| row.deprovisioned.map(|(seq, _)| seq)) as &[Option<i64>],
    )
    .fetch_all(conn)
    .await?;
    let shown: BTreeMap<_, _> = shown.iter().map(|row| ((&*row.company_id, &*row.user_id), row)).collect();
    for (observation, applied) in observations.iter().zip(applied) {
        let Some(row) = shown.get(&(&*observation.company, &*observation.user)) else { continue };
        let newest = match observation.figure {
            Figure::Provisioned { .. } => row.provisioned_seq,
            Figure::Deprovisioned { .. } => row.deprovisioned_seq,
            _ => continue,
        };
        if newest != Some(observation.seq) {
            *applied = Applied::Superseded;
        }
    }
    Ok(())
}

/// A stored event, for a rebuild.
#[derive(Debug)]
pub struct StoredEvent {
    pub seq: i64,
    pub received_at: DateTime<Utc>,
    pub payload: Vec<u8>,
}

/// Events read in one statement.
const READ_EVENTS: i64 = 5_000;

/// The next events after a position whose payloads are still stored, in the order of `seq`. Empty: there are no more.
pub async fn stored_events(conn: &mut PgConnection, after: i64) -> Result<Vec<StoredEvent>, sqlx::Error> {
    sqlx::query_as!(
        StoredEvent,
        r#"
        select e.seq, e.received_at, p.payload
          from sluice.log e join sluice.payloads p on p.event_seq = e.seq
         where e.seq > $1 and e.quarantine is null
         order by e.seq limit $2
        "#,
        after,
        READ_EVENTS,
    )
    .fetch_all(conn)
    .await
}

/// Empties the tables. From here to [`end_rebuild`] no other rebuild runs, and no person is erased.
pub async fn begin_rebuild(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("select pg_advisory_lock(hashtext('sluice.projections'))").fetch_one(&mut *conn).await?;
    sqlx::query!(
        "truncate sluice.learners, sluice.learner_progress, sluice.course_completions, sluice.quiz_results, sluice.certifications"
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// See [`begin_rebuild`]; closing the connection does the same.
pub async fn end_rebuild(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("select pg_advisory_unlock(hashtext('sluice.projections'))").fetch_one(conn).await?;
    Ok(())
}
