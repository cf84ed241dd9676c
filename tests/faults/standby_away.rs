//! Commits wait for a synchronous standby, and there is none.

use crate::client::Event;
use crate::cluster::Cluster;
use crate::private;
use crate::sink::Sink;
use crate::system::{System, eventually, free_port};

/// Sets what commits wait for: `*`, any standby; empty, none.
async fn wait_for(system: &System, standbys: &str) {
    system.execute(&format!("alter system set synchronous_standby_names = '{standbys}'")).await;
    system.execute("select pg_reload_conf()").await;
    eventually("the setting is there", async || system.value::<String>("show synchronous_standby_names").await == standbys).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_standby_has_confirmed_is_not_acknowledged_as_a_duplicate_either() {
    let dir = private::folder();
    let server = Cluster::primary(dir.path()).await;
    let system = System::on(&server.url()).await;
    system.migrate().await;
    let sink = Sink::answering(200).await;
    let _worker = system.working(&system.config(&sink.config("lms", ""))).await;
    let ingest = system.ingest().await;
    let (mut client, event) = (ingest.client(), Event::of("u-1", 0));
    wait_for(&system, "*").await;
    assert_eq!(client.post(&event).await.status(), 503);
    // Whoever ends the wait, by a restart for example, makes visible what no standby has.
    eventually("it is visible", async || {
        system.value::<i64>("select count(pg_terminate_backend(pid)) from pg_stat_activity where wait_event = 'SyncRep'").await;
        system.value::<i64>("select count(*) from sluice.events").await == 1
    })
    .await;
    assert_eq!(client.post(&event).await.status(), 503, "it would be lost if a standby took over now");

    let _standby = Cluster::standby_of(&server, dir.path(), free_port()).await;
    eventually("it is acknowledged", async || {
        let answer = client.post(&event).await;
        answer.status() == 200 && answer.text() == r#"{"duplicate":true}"#
    })
    .await;
    system.drained(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_standby_confirms_connections_stay_bounded() {
    let dir = private::folder();
    let server = Cluster::primary(dir.path()).await;
    let system = System::on(&server.url()).await;
    system.migrate().await;
    let sink = Sink::answering(200).await;
    let _worker = system.working(&system.config(&sink.config("lms", ""))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    wait_for(&system, "*").await;
    let mut most = 0;
    for n in 0..16 {
        assert_eq!(client.post(&Event::of(&format!("u-{n}"), 0)).await.status(), 503);
        let now = system.value::<i64>("select count(*) from pg_stat_activity where application_name like 'sluice %'").await;
        most = most.max(now);
    }
    // Ingest's two and the worker's six; and some that are just being ended.
    assert!(most <= 12, "{most} connections");
    eprintln!("{most} connections at most");
    wait_for(&system, "").await;
    eventually("it stores again", async || client.post(&Event::of("u-0", 1)).await.status() == 200).await;
}
