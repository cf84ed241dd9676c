//! `sluice.watchdog`: which worker asks the provider about its webhooks, and what it saw.

use sqlx::PgConnection;

/// Whose turn it is.
#[derive(Debug)]
pub struct Turn {
    /// This worker took the round on; nobody else will for one interval.
    pub is_ours: bool,
    /// Seconds until the next round, where it is not ours. Not positive: another worker is taking it just now.
    pub seconds_left: Option<f64>,
}

/// How long a round may take, in seconds: after that its worker counts as dead.
pub const ROUND_SECONDS_MAX: f64 = 300.0;

/// Takes the next round on, if it is due: `every` seconds after the last one ended. Of several workers one succeeds, and none as long as
/// a round is under way.
pub async fn claim(conn: &mut PgConnection, worker: &str, every: f64) -> Result<Turn, sqlx::Error> {
    sqlx::query_as!(
        Turn,
        r#"
        with ours as (
            update sluice.watchdog set claimed_at = now(), ended_at = null, worker = $1
             where claimed_at is null
                or coalesce(ended_at, claimed_at + $3 * interval '1 second') <= now() - $2 * interval '1 second'
            returning 1)
        select exists (select from ours) as "is_ours!",
               extract(epoch from coalesce(ended_at, claimed_at + $3 * interval '1 second') + $2 * interval '1 second' - now())::float8
                   as seconds_left
          from sluice.watchdog
        "#,
        worker,
        every,
        ROUND_SECONDS_MAX,
    )
    .fetch_one(conn)
    .await
}

/// What a round saw and did.
#[derive(Debug, Default)]
pub struct Round {
    /// Webhooks that are watched, and how many of them were suspended; `None`: the provider did not say.
    pub seen: Option<(i32, i32)>,
    /// Ids of those that were re-activated.
    pub reactivated: Vec<String>,
    /// Why it did not do all of its work.
    pub error: Option<String>,
    /// Its worker ends: the rest of it is for the next worker that looks, at once.
    pub is_cut_short: bool,
}

/// Ends a round, and writes down what it saw.
pub async fn record(conn: &mut PgConnection, round: &Round) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        update sluice.watchdog
           set ended_at = now(), claimed_at = case when $5 then null else claimed_at end, checked_at = case when $1::int is null then checked_at else now() end,
               webhooks = coalesce($1, webhooks), suspended = coalesce($2, suspended), error = case when $5 then coalesce($3, error) else $3 end,
               reactivations = reactivations + cardinality($4::text[]),
               reactivated_at = case when cardinality($4::text[]) = 0 then reactivated_at else now() end,
               reactivated = case when cardinality($4::text[]) = 0 then reactivated else $4 end
        "#,
        round.seen.map(|(webhooks, _)| webhooks),
        round.seen.map(|(_, suspended)| suspended),
        round.error,
        &round.reactivated,
        round.is_cut_short,
    )
    .execute(conn)
    .await?;
    Ok(())
}
