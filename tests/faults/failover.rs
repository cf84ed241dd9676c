//! The primary dies and a standby takes its place: both processes follow by themselves, and what is lost is what the standby lacked.

use crate::client::{Client, Event};
use crate::cluster::Cluster;
use crate::private;
use crate::provider::{Provider, missing};
use crate::sink::Sink;
use crate::system::{System, eventually, free_port, pool, within};
use sluice::clock;
use sqlx::AssertSqlSafe;
use std::time::Duration;

/// From the standby's promotion until events are acknowledged and delivered again.
const RECOVERY_MAX: Duration = Duration::from_secs(10);

/// What a user of libpq writes.
fn url_of(servers: [&Cluster; 2]) -> String {
    let [first, second] = servers.map(|server| format!("127.0.0.1:{}", server.port));
    format!("postgres://sluice@{first},{second}/sluice?target_session_attrs=read-write")
}

async fn execute(server: &Cluster, sql: &str) {
    sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&pool(&server.url())).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_synchronous_standby_takes_over_nothing_acknowledged_is_lost_and_both_processes_follow() {
    let dir = private::folder();
    let mut first = Cluster::primary(dir.path()).await;
    let second = Cluster::standby_of(&first, dir.path(), free_port()).await;
    execute(&first, "alter system set synchronous_standby_names = '*'").await;
    execute(&first, "select pg_reload_conf()").await;
    let mut system = System::between(&url_of([&first, &second]), &first.url()).await;
    eventually("commits wait for the standby", async || {
        system.value::<i64>("select count(*) from pg_stat_replication where sync_state = 'sync'").await == 1
    })
    .await;
    system.migrate().await;
    let sink = Sink::answering(200).await;
    let config = system.config(&sink.config("lms", "retry = { initial = \"50ms\", cap = \"1s\" }"));
    let _worker = system.working(&config).await;
    let ingest = system.ingest().await;
    let provider = Provider::new(ingest.address);
    let learners = provider.learners(8);
    provider.more(300).await;

    first.kill();
    second.promote();
    system.db = pool(&second.url());
    let (promoted, delivered) = (clock::instant(), sink.successes().len());
    let acknowledged = provider.count();
    within(RECOVERY_MAX, "events are acknowledged again", async || provider.count() > acknowledged + 8).await;
    let stored_again = clock::instant().saturating_duration_since(promoted);
    within(RECOVERY_MAX, "events are delivered again", async || sink.successes().len() > delivered + 8).await;
    let delivered_again = clock::instant().saturating_duration_since(promoted);
    eprintln!("after the promotion: acknowledged again within {stored_again:?}, delivered again within {delivered_again:?}");

    // The old primary comes back as a standby, and is named first.
    let _back = Cluster::standby_of(&second, dir.path(), first.port).await;
    let late = system.ingest().await;
    late.client().store(&Event::of("late", 0)).await;
    system.value::<i64>("select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name like 'sluice %'").await;
    provider.more(300).await;

    let acknowledged: Vec<String> = provider.end(learners).await.into_keys().collect();
    assert_eq!(missing(&system, &acknowledged).await, [""; 0], "acknowledged, and not stored");
    let all: i64 = system.value("select count(*) from sluice.events").await;
    system.drained(all).await;
    let successes = sink.successes();
    assert_eq!(acknowledged.iter().find(|id| !successes.contains_key(*id)), None, "acknowledged, and never delivered");
    sink.assert_in_order();
    // The listener's last statement is one of these: the other is its question for a sign of life.
    let listeners = "select count(*) from pg_stat_activity
                      where application_name = 'sluice worker' and (query like 'LISTEN%' or query = 'select 1')";
    eventually("hints come from the server that takes the writes", async || system.value::<i64>(listeners).await == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_turns_read_only_is_left_by_every_connection_although_it_answers() {
    let dir = private::folder();
    let first = Cluster::primary(dir.path()).await;
    let second = Cluster::standby_of(&first, dir.path(), free_port()).await;
    let mut system = System::between(&url_of([&first, &second]), &first.url()).await;
    system.migrate().await;
    let sink = Sink::answering(200).await;
    let _worker = system.working(&system.config(&sink.config("lms", ""))).await;
    let ingest = system.ingest().await;
    store(&mut ingest.client(), &[Event::of("u-1", 0)]).await;
    system.drained(1).await;
    let standby = pool(&second.url());
    eventually("the standby has it", async || {
        sqlx::query_scalar("select count(*) from sluice.deliveries where status = 'delivered'").fetch_one(&standby).await.ok()
            == Some(1_i64)
    })
    .await;

    execute(&first, "alter system set default_transaction_read_only = on").await;
    execute(&first, "select pg_reload_conf()").await;
    let mut client = ingest.client();
    eventually("nothing is stored here any more", async || client.post(&Event::of("u-1", 0)).await.status() == 503).await;
    second.promote();
    let old = std::mem::replace(&mut system.db, standby);
    within(RECOVERY_MAX, "events are stored again", async || client.post(&Event::of("u-1", 1)).await.status() == 200).await;
    system.drained(2).await;
    within(RECOVERY_MAX, "every connection has left", async || {
        let left = "select count(*) from pg_stat_activity where application_name like 'sluice %'";
        sqlx::query_scalar(left).fetch_one(&old).await.ok() == Some(0_i64)
    })
    .await;
}

/// The contrast, and what shows that the check above can fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_lagged_behind_lacks_what_was_acknowledged_since_and_the_rest_goes_on() {
    let dir = private::folder();
    let mut first = Cluster::primary(dir.path()).await;
    let mut second = Cluster::standby_of(&first, dir.path(), free_port()).await;
    let mut system = System::between(&url_of([&first, &second]), &first.url()).await;
    system.migrate().await;
    let sink = Sink::answering(200).await;
    let _worker = system.working(&system.config(&sink.config("lms", ""))).await;
    let ingest = system.ingest().await;
    let events: Vec<Event> = (0..40).map(|n| Event::of(&format!("u-{n}"), 0)).collect();
    let (early, late) = events.split_at(20);
    store(&mut ingest.client(), early).await;
    system.drained(20).await;
    let standby = pool(&second.url());
    eventually("the standby has them", async || {
        sqlx::query_scalar("select count(*) from sluice.deliveries where status = 'delivered'").fetch_one(&standby).await.ok()
            == Some(20_i64)
    })
    .await;
    standby.close().await;
    second.stop();
    store(&mut ingest.client(), late).await;

    first.kill();
    second.start().await;
    second.promote();
    system.db = pool(&second.url());
    let acknowledged: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
    assert_eq!(missing(&system, &acknowledged).await, acknowledged[20..], "what an asynchronous standby lacks is lost");
    // The provider, told that it was lost, sends it again.
    let mut client = ingest.client();
    eventually("it stores again", async || client.post(&late[0]).await.status() == 200).await;
    system.drained(21).await;
}

async fn store(client: &mut Client, events: &[Event]) {
    for event in events {
        client.store(event).await;
    }
}
