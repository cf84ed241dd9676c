//! One of three sinks is down for a day. The day passes in the database, whose clock is the one that counts: every time that is
//! stored there is moved back by an hour, as often as a day has hours.

use crate::client::Event;
use crate::sink::{Reply, Sink};
use crate::system::{System, eventually};

/// So few attempts that each one that is burnt would tell.
const KEYS: &str = "concurrency = 4\nretry = { max_attempts = 3, initial = \"50ms\", cap = \"1s\" }\nbreaker = { failures = 2, rest = \"50ms\", cap = \"200ms\" }";

const AN_HOUR_PASSES: [&str; 2] = [
    "update sluice.sinks set breaker_until = breaker_until - interval '1 hour' where breaker_until is not null",
    "update sluice.delivery_state set due_at = due_at - interval '1 hour' where due_at is not null",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_down_for_a_day_buries_nothing_and_gets_everything_in_order_when_it_is_back() {
    let system = System::new("day_down").await;
    let (crm, lms, idp) = (Sink::answering(200).await, Sink::answering(200).await, Sink::answering(503).await);
    let config = crm.config("crm", "") + &lms.config("lms", "") + &idp.config("idp", KEYS);
    let _worker = system.working(&system.config(&config)).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();

    let mut stored = 0;
    for hour in 0..24 {
        for user in 0..10 {
            client.store(&Event::of(&format!("u-{user}"), hour)).await;
            stored += 1;
        }
        eventually("the others have them", async || [&crm, &lms].iter().all(|sink| sink.successes().len() == stored)).await;
        let tries = idp.tries();
        for passes in AN_HOUR_PASSES {
            system.execute(passes).await;
        }
        eventually("it is probed again", async || idp.tries() > tries).await;
    }
    assert_eq!(system.count("dead").await, 0, "nothing is buried");
    let most: i32 = system.value("select max(attempts) from sluice.deliveries where sink = 'idp'").await;
    assert!(most < 3, "{most} of 3 attempts were burnt");

    idp.script(|_| Reply::Status(200));
    system.drained(3 * stored as i64).await;
    for sink in [&crm, &lms, &idp] {
        assert_eq!(sink.successes().len(), stored);
        sink.assert_in_order();
    }
}
