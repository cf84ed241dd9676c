//! `sluice.applied`: the newest event that was applied to each object of a sink.

use sqlx::PgConnection;
use std::collections::HashMap;

/// Of these objects of a sink, the newest event that was applied to each; none where nothing was.
pub async fn newest(conn: &mut PgConnection, sink: &str, objects: &[&str]) -> Result<HashMap<String, i64>, sqlx::Error> {
    let rows = sqlx::query!("select object, event_seq from sluice.applied where sink = $1 and object = any ($2)", sink, objects as &[&str])
        .fetch_all(conn)
        .await?;
    Ok(rows.into_iter().map(|row| (row.object, row.event_seq)).collect())
}

/// Records that these events were applied, each to its object; no object comes twice. What is newer already stays.
pub async fn record(conn: &mut PgConnection, sink: &str, objects: &[&str], seqs: &[i64]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        insert into sluice.applied as a (sink, object, event_seq)
        -- In one order, so that two workers cannot wait for each other.
        select $1, u.object, u.seq from unnest($2::text[], $3::bigint[]) as u(object, seq) order by u.object
        on conflict (sink, object) do update set event_seq = excluded.event_seq, applied_at = now()
         where a.event_seq < excluded.event_seq
        "#,
        sink,
        objects as &[&str],
        seqs,
    )
    .execute(conn)
    .await?;
    Ok(())
}
