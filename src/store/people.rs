//! `sluice.erase`.

use serde::Serialize;
use sqlx::PgConnection;

/// What an erasure comes to, in events.
#[derive(Debug, Serialize)]
pub struct Erasure {
    /// All sinks are done with them.
    pub erased: i64,
    /// Still owed to a sink, and therefore kept.
    pub owed: i64,
}

/// Removes what is stored of a person; with `dry_run` it only counts. Reads every event.
pub async fn erase(conn: &mut PgConnection, user: &str, company: Option<&str>, dry_run: bool) -> Result<Erasure, sqlx::Error> {
    sqlx::query_as!(
        Erasure,
        r#"select erased as "erased!", owed as "owed!" from sluice.erase(person => $1, company => $2, dry_run => $3)"#,
        user,
        company,
        dry_run
    )
    .fetch_one(conn)
    .await
}
