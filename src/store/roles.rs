//! The roles, each with the least rights that its work needs: see `roles.sql`.

use super::migrate::Error;
use super::servers::Servers;
use sqlx::{Connection, Executor};

/// The roles, as `sluice migrate --roles` makes them.
pub const ROLES: [&str; 4] = ["sluice_ingest", "sluice_worker", "sluice_operator", "sluice_reader"];

/// What [`grant`] runs, for reading it first.
pub const SQL: &str = include_str!("roles.sql");

/// Makes the roles that are missing, and gives each exactly its rights on this database. In one transaction.
///
/// # Errors
/// A server that cannot be reached, or a caller that may not create roles or does not own the schema.
pub async fn grant(url: &str) -> Result<(), Error> {
    let mut conn = Servers::parse(url)?.session("sluice migrate", &[]).connect().await.map_err(Error::Connect)?;
    let granted = async {
        let mut tx = conn.begin().await?;
        tx.execute(SQL).await?;
        tx.commit().await
    };
    granted.await.map_err(Error::Roles)?;
    // Everything is committed; a connection that fails to say goodbye changes nothing.
    let _ = conn.into_inner().close().await;
    Ok(())
}

/// Whether all the roles are there, and used in this database.
///
/// # Errors
/// A server that cannot be reached.
pub async fn are_used(url: &str) -> Result<bool, Error> {
    let mut conn = Servers::parse(url)?.session("sluice migrate", &[]).connect().await.map_err(Error::Connect)?;
    let used = sqlx::query_scalar!(
        r#"select count(*) = 4 as "used!" from pg_roles where rolname = any ($1) and has_schema_privilege(oid, 'sluice', 'usage')"#,
        &ROLES.map(String::from)[..]
    );
    used.fetch_one(&mut *conn).await.map_err(Error::Roles)
}
