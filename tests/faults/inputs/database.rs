//! A database that is there, and cannot commit.

use crate::client::Event;
use crate::system::{System, eventually};
use sluice::clock;
use std::time::Duration;

/// Ends what ingest has open, so that it meets the change with its next connection.
const DISCONNECT: &str =
    "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and usename = 'sluice_ingest'";

#[tokio::test]
async fn whatever_keeps_the_database_from_committing_is_answered_503_in_time_and_ends_by_itself() {
    let system = System::new("unable").await;
    system.use_roles().await;
    let database: String = system.value("select current_database()::text").await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    client.store(&Event::of("u-1", 0)).await;
    let mut stored = 1;
    for (name, breaks, heals) in [
        (
            "read-only",
            format!("alter database {database} set default_transaction_read_only = on"),
            format!("alter database {database} reset default_transaction_read_only"),
        ),
        (
            "out of connections",
            format!("alter database {database} connection limit 0"),
            format!("alter database {database} connection limit -1"),
        ),
        (
            "no connections allowed",
            format!("revoke connect on database {database} from sluice_ingest, public"),
            format!("grant connect on database {database} to sluice_ingest, public"),
        ),
        (
            "no right to insert",
            "revoke insert on sluice.log from sluice_ingest".into(),
            "grant insert on sluice.log to sluice_ingest".into(),
        ),
        (
            "a column that refuses",
            "alter table sluice.log add constraint refuses check (seq < 0) not valid".into(),
            "alter table sluice.log drop constraint refuses".into(),
        ),
    ] {
        system.execute(&breaks).await;
        system.execute(DISCONNECT).await;
        let event = Event::of("u-1", stored);
        // More than once: it must not come to take longer, and be no matter of the first try.
        for _ in 0..2 {
            let began = clock::instant();
            let answer = client.post(&event).await;
            let took = clock::instant().saturating_duration_since(began);
            assert_eq!((answer.status(), answer.header("retry-after")), (503, Some("1")), "{name}");
            // 2.5 s is the promise; the rest is what a busy machine may take to wake the tasks up.
            assert!(took < Duration::from_millis(3500), "{name}: {took:?}");
        }
        let count: i64 = sqlx::query_scalar("select count(*) from sluice.events").fetch_one(&system.db).await.unwrap();
        assert_eq!(count as u64, stored, "{name}: an error answer to what cannot have been committed");
        system.execute(&heals).await;
        system.execute(DISCONNECT).await;
        eventually("it stores again", async || client.post(&event).await.status() == 200).await;
        stored += 1;
    }
    assert_eq!(system.value::<i64>("select count(*) from sluice.events where quarantine is null").await as u64, stored);
}
