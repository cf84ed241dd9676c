//! The database of 0.1.0 is migrated under a backlog, and the new version's processes go on with it.

use crate::checker::Checker;
use crate::client::Event;
use crate::provider::Acknowledged;
use crate::sink::Sink;
use crate::system::{System, eventually};
use crate::version_0_1::{as_worker, migrated, register, store};

const USERS: u64 = 12;
const EVENTS: u64 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn what_0_1_0_owed_is_delivered_in_order_after_the_upgrade() {
    let system = System::empty("upgrade").await;
    let mut conn = migrated(&system.url).await;
    register(&mut conn, "lms", true, None).await;
    register(&mut conn, "crm", false, Some(&["course.completed"])).await;
    let mut acknowledged = Acknowledged::new();
    for n in 0..EVENTS {
        for user in 0..USERS {
            let (user, event) = (format!("u-{user}"), Event::of(&format!("u-{user}"), n));
            store(&mut conn, &event.id, "course.completed", Some(&user), &event.body).await;
            acknowledged.insert(event.id, event.body);
        }
    }
    // Of one user in four all is fresh. Of the others the first waits for its retry, and then: nothing is known of the rest, or it is
    // known to wait, or the first two of it alone. What lies behind is due sooner than its head.
    as_worker(
        &mut conn,
        "update sluice.deliveries d
            set attempts = case when i.n = 0 then 1 else 0 end, last_status = case when i.n = 0 then 503 end,
                due_at = now() + case when i.n = 0 then interval '6 seconds' else interval '1 second' end
           from (select seq, substring(event_id from '-([0-9]+):')::int as u, split_part(event_id, ':', 2)::int as n from sluice.events) i
          where i.seq = d.event_seq and (i.n = 0 and u % 4 <> 0 or u % 4 = 2 or n <= 2 and u % 4 = 3)",
    )
    .await;
    // One user's are done in one sink, and were asked for again.
    as_worker(
        &mut conn,
        "update sluice.deliveries d set status = 'delivered', attempts = 1, delivered_at = now(), due_at = null
           from sluice.events e where e.seq = d.event_seq and d.sink = 'crm' and e.order_key = 'acme/u-4'",
    )
    .await;
    let again = "update sluice.deliveries d set status = 'pending'
                   from sluice.events e where e.seq = d.event_seq and d.sink = 'crm' and e.order_key = 'acme/u-4'";
    sqlx::query(again).execute(&mut conn).await.unwrap();
    let lease = "insert into sluice.workers (name, epoch, sinks, expires_at) values ('gone:1', 1, '{lms,crm}', now() + interval '1 hour')";
    sqlx::query(lease).execute(&mut conn).await.unwrap();
    sqlx::query("update sluice.lanes set worker = (select max(id) from sluice.workers)").execute(&mut conn).await.unwrap();
    drop(conn);

    system.migrate().await;
    let sinks = [Sink::answering(200).await, Sink::answering(200).await];
    let config =
        system.config(&(sinks[0].config("lms", "") + &sinks[1].config("crm", "order = \"none\"\nevents = [\"course.completed\"]")));
    let mut worker = system.working(&config).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    // What comes now waits behind what 0.1.0 had.
    for user in 0..USERS {
        let event = Event::of(&format!("u-{user}"), EVENTS);
        client.store(&event).await;
        acknowledged.insert(event.id, event.body);
    }
    let again = Event::of("u-1", 0);
    assert_eq!(client.post(&again).await.text(), r#"{"duplicate":true}"#, "a redelivery of what 0.1.0 stored");

    let all = USERS * (EVENTS + 1);
    system.drained(2 * all as i64).await;
    for sink in &sinks {
        sink.assert_each_once(all as usize);
    }
    sinks[0].assert_in_order();
    // Settled, the rows of 0.1.0 are as good as those of the new version.
    let all_settled = "select bool_and(settled_to >= (select max(seq) from sluice.log)) from sluice.lanes";
    eventually("all is settled", async || system.value::<bool>(all_settled).await).await;
    worker.stop().await;
    let checker = Checker {
        system: &system,
        acknowledged: &acknowledged,
        sinks: vec![("lms", &sinks[0]), ("crm", &sinks[1])],
        again_max: 0,
        attempts_max: 2,
    };
    let findings = checker.check().await;
    assert_eq!((findings.stored, findings.delivered), (all as usize, 2 * all as usize));
    assert!(findings.broken.is_empty(), "{:?}", findings.broken);
}
