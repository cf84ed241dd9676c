//! The hint that new deliveries are there. Only a hint: workers poll, and that is the truth.

use sqlx::PgConnection;

/// Session settings of the connection that sends hints: a NOTIFY is a transaction, but nobody needs it on disk.
pub const SETTINGS: &[(&str, &str)] = &[("synchronous_commit", "off"), ("statement_timeout", "1s"), ("lock_timeout", "1s")];

/// Wakes the workers that listen on `sluice_wake`.
pub async fn wake_workers(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("select pg_notify('sluice_wake', '')").execute(conn).await?;
    Ok(())
}
