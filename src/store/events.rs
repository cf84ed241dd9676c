//! Storing events: one statement a batch, on the fastest path of the product.

use crate::event::NewEvent;
use sqlx::PgConnection;

/// Session settings of a connection that stores events, besides its timeouts.
///
/// The statements here are prepared once, often while the tables are still empty, and their plans must stay good as the tables
/// grow. So the plan is made once, for any number of rows, and leaves no choice: CTEs are joined by hash, tables are read by index
/// (only `sinks`, joined by a condition that cannot be hashed, stays a nested loop over its few rows). JIT would compile each of them,
/// because of the costs that a forbidden plan node is charged with. `work_mem` holds a whole batch.
pub const SETTINGS: &[(&str, &str)] = &[
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_nestloop", "off"),
    ("enable_mergejoin", "off"),
    ("enable_seqscan", "off"),
    ("jit", "off"),
    ("work_mem", "32MB"),
];

/// One value of each event.
fn column<'a, T>(events: &[&'a NewEvent], value: impl Fn(&'a NewEvent) -> T) -> Vec<T> {
    events.iter().map(|event| value(event)).collect()
}

/// [`insert_batch`] for events that are not quarantined, a fifth cheaper; `false`: an id is taken, or comes twice, and nothing is stored.
pub async fn insert_new_batch(conn: &mut PgConnection, events: &[&NewEvent]) -> Result<bool, sqlx::Error> {
    debug_assert!(events.iter().all(|event| event.quarantine.is_none()), "a quarantined event is stored beside the one that has its id");
    sqlx::query_scalar!(
        r#"select sluice.store_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) as "stored!""#,
        &column(events, |event| event.source.as_ref()) as &[&str],   // $1 source
        &column(events, |event| event.event_id.as_str()) as &[&str], // $2 event_id
        &column(events, |event| event.derived_id) as &[bool],        // $3 derived_id
        &column(events, |event| event.event_type.as_deref()) as &[Option<&str>], // $4 type
        &column(events, |event| event.company_id.as_deref()) as &[Option<&str>], // $5 company_id
        &column(events, |event| event.order_key.as_deref()) as &[Option<&str>], // $6 order_key
        &column(events, |event| event.lane) as &[i16],               // $7 lane
        &column(events, |event| event.payload_hash.as_slice()) as &[&[u8]], // $8 payload_hash
        &column(events, |event| event.payload.as_ref()) as &[&[u8]], // $9 payload
        &column(events, |event| event.headers.as_str()) as &[&str],  // $10 headers
    )
    .fetch_one(conn)
    .await
}

/// Stores a batch, with payloads, in one statement: when this returns, it is committed. `seq` follows the batch's order. Says of each
/// event, in that order, whether it was stored; where not, its id, or its quarantined request, is there already.
pub async fn insert_batch(conn: &mut PgConnection, events: &[&NewEvent]) -> Result<Vec<bool>, sqlx::Error> {
    // `fetch_one` reads up to ReadyForQuery, which the server sends after its commit: rows alone prove nothing.
    let numbers = sqlx::query_scalar!(
        r#"
        with input as materialized (
            -- Numbered here, in the order of arrival.
            select nextval('sluice.event_seq') as seq, i.*
              from unnest($1::text[], $2::text[], $3::boolean[], $4::text[], $5::text[], $6::text[], $7::smallint[], $8::text[],
                          $9::bytea[], $10::bytea[], $11::bytea[], $12::text[]) with ordinality
                   as i(source, event_id, derived_id, type, company_id, order_key, lane, quarantine,
                        payload_hash, request_hash, payload, headers, n)
        ), named as (
            -- A materialized CTE is read as it was made, in the order of arrival: of two rows with one id the first wins, and the
            -- primary keys grow at their right edge. (A sort by id, in which no two writers could deadlock, costs a tenth more;
            -- one by n, which would say this in SQL, a twentieth.)
            insert into sluice.event_ids (seq, lane, event_id, source, payload_hash)
            select i.seq, i.lane, i.event_id, i.source, i.payload_hash from input i where i.quarantine is null
            on conflict do nothing
            returning seq
        ), held_back as (
            insert into sluice.quarantined_ids (seq, source, event_id, request_hash, payload_hash)
            select i.seq, i.source, i.event_id, i.request_hash, i.payload_hash from input i where i.quarantine is not null
            on conflict do nothing
            returning seq
        ), new as materialized (
            select seq from named union all select seq from held_back
        ), findable as (
            insert into sluice.event_ids (seq, quarantined_seq, lane, event_id, source, payload_hash)
            select i.seq, i.seq, i.lane, i.event_id, i.source, i.payload_hash from input i join held_back using (seq)
        ), logged as (
            insert into sluice.log (seq, source, event_id, derived_id, type, company_id, order_key, lane, quarantine)
            select i.seq, i.source, i.event_id, i.derived_id, i.type, i.company_id, i.order_key, i.lane, i.quarantine
              from input i join new using (seq)
        ), kept as (
            insert into sluice.payloads (event_seq, payload, headers)
            select i.seq, i.payload, i.headers::jsonb from input i join new using (seq)
        )
        select array(select i.n from input i join new using (seq)) as "stored!"
        "#,
        &column(events, |event| event.source.as_ref()) as &[&str],   // $1 source
        &column(events, |event| event.event_id.as_str()) as &[&str], // $2 event_id
        &column(events, |event| event.derived_id) as &[bool],        // $3 derived_id
        &column(events, |event| event.event_type.as_deref()) as &[Option<&str>], // $4 type
        &column(events, |event| event.company_id.as_deref()) as &[Option<&str>], // $5 company_id
        &column(events, |event| event.order_key.as_deref()) as &[Option<&str>], // $6 order_key
        &column(events, |event| event.lane) as &[i16],               // $7 lane
        &column(events, |event| event.quarantine.as_deref()) as &[Option<&str>], // $8 quarantine
        &column(events, |event| event.payload_hash.as_slice()) as &[&[u8]], // $9 payload_hash
        &column(events, |event| event.request_hash.as_slice()) as &[&[u8]], // $10 request_hash
        &column(events, |event| event.payload.as_ref()) as &[&[u8]], // $11 payload
        &column(events, |event| event.headers.as_str()) as &[&str],  // $12 headers
    )
    .fetch_one(conn)
    .await?;
    let mut stored = vec![false; events.len()];
    for n in numbers {
        // Ordinality counts from 1.
        stored[n as usize - 1] = true;
    }
    Ok(stored)
}

/// Whether an insert failed because the log has no range for its numbers (SQLSTATE 23514: no table that is stored to has a check of its own).
pub fn lacks_range(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "23514")
}

/// Whether an insert failed because its numbers are taken: the sequence is behind its tables.
pub fn numbers_are_taken(error: &sqlx::Error) -> bool {
    let constraint = error.as_database_error().filter(|error| error.is_unique_violation()).and_then(|error| error.constraint());
    constraint.is_some_and(|name| (name.starts_with("log_") || name.starts_with("payloads_")) && name.ends_with("_pkey"))
}

/// The payload hashes under which these events' ids are stored, in the batch's order; `None`: the id is not stored (any more).
///
/// To be asked after [`insert_batch`], as a statement of its own: its snapshot sees what the insert ran into. When this returns, that is safe: a row can be
/// seen although no synchronous standby has it (its commit's wait was cut short), so this writes something too, and waits for its own commit, which
/// comes later in the log.
pub async fn stored_hashes(conn: &mut PgConnection, events: &[&NewEvent]) -> Result<Vec<Option<Vec<u8>>>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        with written as materialized (select pg_logical_emit_message(true, 'sluice', '') as at)
        select i.n as "n!", e.payload_hash as "payload_hash!"
          from written
         cross join unnest($1::text[], $2::text[]) with ordinality as i(source, event_id, n)
         cross join lateral (
               select e.payload_hash from sluice.event_ids e
                where e.event_id = i.event_id and e.source = i.source and e.quarantined_seq = 0
               -- Keeps the lookup a lookup: one index probe for each id.
               offset 0) e
        "#,
        &events.iter().map(|event| event.source.as_ref()).collect::<Vec<_>>() as &[&str], // $1 source
        &events.iter().map(|event| event.event_id.as_str()).collect::<Vec<_>>() as &[&str], // $2 event_id
    )
    .fetch_all(conn)
    .await?;
    let mut hashes = vec![None; events.len()];
    for row in rows {
        hashes[row.n as usize - 1] = Some(row.payload_hash);
    }
    Ok(hashes)
}

/// What an error means for the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// A row of the batch cannot be stored: SQLSTATE class 22, 23 or 54.
    Data { code: String },
    /// Another transaction was in the way (deadlock, serialization): try again.
    Again,
    /// The database cannot commit now, for this reason.
    Unavailable { reason: String },
}

impl From<&sqlx::Error> for Trouble {
    fn from(error: &sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
        match code.as_str() {
            "40P01" | "40001" => Self::Again,
            _ if ["22", "23", "54"].iter().any(|class| code.starts_with(class)) => Self::Data { code },
            // The message of any other class names objects and limits, not values.
            _ => Self::Unavailable { reason: error.to_string() },
        }
    }
}
