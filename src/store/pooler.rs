//! Whether a connection is a session of Sluice's own. Through a connection pooler it is not: settings get lost or land in other clients'
//! sessions, prepared statements are not found again, LISTEN hears nothing, and advisory locks are held by nobody in particular.

use sqlx::{PgConnection, Row};

/// Why there is no session of our own.
#[derive(Debug, thiserror::Error)]
pub enum NotOurs {
    #[error(
        "a connection pooler (such as pgbouncer) stands between Sluice and Postgres, and session settings do not come through it ({what}): \
         name Postgres' own address in DATABASE_URL. Sluice holds a few connections only, and keeps them"
    )]
    Pooled { what: String },
    #[error("cannot ask for the session's settings: {0}")]
    Database(#[from] sqlx::Error),
}

/// What a pooler says of the settings that every connection of ours begins with, where it does not drop them silently.
pub fn refusal(error: &sqlx::Error) -> Option<NotOurs> {
    let what = error.to_string();
    what.contains("unsupported startup parameter").then_some(NotOurs::Pooled { what })
}

/// Passes where the settings that the connection was opened with are in force: see [`super::servers::SETTINGS`].
pub async fn check(conn: &mut PgConnection) -> Result<(), NotOurs> {
    // Not prepared: the name of a prepared statement may be taken by another client in the session that is lent to us.
    let row = sqlx::raw_sql("select current_setting('sluice.session', true)").fetch_one(conn).await?;
    match row.try_get::<Option<String>, _>(0)?.as_deref() {
        Some("on") => Ok(()),
        _ => Err(NotOurs::Pooled { what: "they were dropped".into() }),
    }
}
