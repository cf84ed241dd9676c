//! Whether a commit survives a crash of the server: what an answer 2xx rests on.

use sqlx::PgConnection;

/// Why a commit may be lost although it was reported.
#[derive(Debug, thiserror::Error)]
pub enum NotDurable {
    #[error(
        "synchronous_commit is off for this role, database or server: an acknowledged event could be lost in a crash. \
         Turn it on (alter role … reset synchronous_commit), or set [ingest] asynchronous_commit = \"allow\" to take that risk"
    )]
    Asynchronous,
    #[error("cannot ask for synchronous_commit: {0}")]
    Database(#[from] sqlx::Error),
}

/// Passes where this connection's commits are on disk when they are reported.
pub async fn check(conn: &mut PgConnection) -> Result<(), NotDurable> {
    let setting = sqlx::query_scalar!(r#"select current_setting('synchronous_commit') as "setting!""#).fetch_one(conn).await?;
    if setting == "off" { Err(NotDurable::Asynchronous) } else { Ok(()) }
}
