//! `sluice.refusals`: what ingest refused, by minute.

use sqlx::PgConnection;
use std::sync::Arc;

/// Session settings of the connection that writes them: figures, which nobody needs on disk at once.
pub const SETTINGS: &[(&str, &str)] = &[("synchronous_commit", "off"), ("statement_timeout", "5s"), ("lock_timeout", "5s")];

/// What one process adds to a source's current minute.
#[derive(Debug, Clone)]
pub struct Refused {
    pub source: Arc<str>,
    pub forbidden: i64,
    pub unsigned: i64,
}

/// Adds to the current minute, and drops what is older than two days.
pub async fn count(conn: &mut PgConnection, refused: &[Refused]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        with old as (delete from sluice.refusals where minute < now() - interval '2 days')
        insert into sluice.refusals as r (source, minute, forbidden, unsigned)
        select u.source, date_trunc('minute', now()), u.forbidden, u.unsigned
          from unnest($1::text[], $2::bigint[], $3::bigint[]) as u(source, forbidden, unsigned)
         order by u.source
        on conflict (source, minute) do update
           set forbidden = r.forbidden + excluded.forbidden, unsigned = r.unsigned + excluded.unsigned
        "#,
        &refused.iter().map(|refused| &*refused.source).collect::<Vec<_>>() as &[&str],
        &refused.iter().map(|refused| refused.forbidden).collect::<Vec<_>>(),
        &refused.iter().map(|refused| refused.unsigned).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}
