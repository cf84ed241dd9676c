//! Lets in what was kept unverified and verifies with the secrets of today.

use super::committer::CONFLICT;
use super::verify::KeptHeaders;
use crate::config::Config;
use crate::event::NewEvent;
use crate::store::unverified::Row;
use crate::store::{events, unverified, wake};
use bytes::Bytes;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

/// Requests looked at in one transaction.
const BATCH: i64 = 200;

/// What became of the requests that were kept.
#[derive(Debug, Default, Serialize)]
pub struct Reverified {
    /// They verify now, and are events.
    pub stored: usize,
    /// They verify now, and were stored already: the provider sent them again in time.
    pub duplicates: usize,
    /// They verify now, under the id of another event: quarantined.
    pub conflicts: usize,
    /// They verify with no secret of their source, and stay until their time is over.
    pub left: usize,
}

/// Goes through all of them. With `dry_run` nothing is changed: then `stored` counts all that verify.
pub async fn run(conn: &mut PgConnection, config: &Config, dry_run: bool) -> Result<Reverified, sqlx::Error> {
    let mut sum = Reverified::default();
    let mut last = 0;
    loop {
        let mut tx = conn.begin().await?;
        let rows = unverified::next(&mut tx, last, BATCH).await?;
        let Some(row) = rows.last() else { break };
        last = row.id;
        let looked_at = rows.len();
        let (ids, batch): (Vec<i64>, Vec<NewEvent>) = rows.into_iter().filter_map(|row| Some((row.id, verified(config, row)?))).unzip();
        sum.left += looked_at - ids.len();
        if dry_run {
            sum.stored += ids.len();
            continue;
        }
        store(&mut tx, batch, &mut sum).await?;
        unverified::remove(&mut tx, &ids).await?;
        if !ids.is_empty() {
            unverified::note(&mut tx, ids.len() as i64).await?;
        }
        tx.commit().await?;
    }
    if sum.stored > 0 && !dry_run {
        wake::wake_workers(conn).await?;
    }
    Ok(sum)
}

/// The event that a request is, if it verifies. Its age is what it was when it came.
fn verified(config: &Config, row: Row) -> Option<NewEvent> {
    let source = config.sources.iter().find(|source| *source.name == *row.source)?;
    let headers: KeptHeaders = serde_json::from_value(row.headers).ok()?;
    headers.claim(&source.profile)?.verify(source, &source.secrets, Bytes::from(row.payload), row.received_at).ok()
}

async fn store(conn: &mut PgConnection, batch: Vec<NewEvent>, sum: &mut Reverified) -> Result<(), sqlx::Error> {
    // One by one where it matters: of two with one id the first is stored, and the second finds it.
    let stored = events::insert_batch(conn, &batch.iter().collect::<Vec<_>>()).await?;
    sum.stored += stored.iter().filter(|stored| **stored).count();
    let taken: Vec<NewEvent> = batch.into_iter().zip(stored).filter(|(_, stored)| !stored).map(|(event, _)| event).collect();
    if taken.is_empty() {
        return Ok(());
    }
    let hashes = events::stored_hashes(conn, &taken.iter().collect::<Vec<_>>()).await?;
    let mut others = Vec::new();
    for (mut event, hash) in taken.into_iter().zip(hashes) {
        if event.quarantine.is_some() || hash == Some(event.payload_hash.to_vec()) {
            sum.duplicates += 1;
        } else {
            event.quarantine = Some(CONFLICT.into());
            others.push(event);
        }
    }
    if !others.is_empty() {
        let stored = events::insert_batch(conn, &others.iter().collect::<Vec<_>>()).await?;
        let conflicts = stored.iter().filter(|stored| **stored).count();
        sum.conflicts += conflicts;
        sum.duplicates += others.len() - conflicts;
    }
    Ok(())
}
