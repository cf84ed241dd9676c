//! The checker: what was acknowledged and what each sink has seen, against what the tables say. Both ledgers are the test's own.

use crate::provider::Acknowledged;
use crate::sink::{Receipt, Sink};
use crate::system::System;
use sqlx::Row;
use std::collections::{BTreeSet, HashMap};

/// What the provider was told, what each sink has seen, and what is allowed.
pub struct Checker<'a> {
    pub system: &'a System,
    /// Events that were answered 2xx, by id, with the bytes that were signed.
    pub acknowledged: &'a Acknowledged,
    /// By name: every event goes to each.
    pub sinks: Vec<(&'static str, &'a Sink)>,
    /// How often events may come to a sink again.
    pub again_max: usize,
    pub attempts_max: i32,
}

/// What was found to be so.
#[derive(Debug, Default)]
pub struct Findings {
    pub stored: usize,
    pub delivered: usize,
    /// Receipts beyond the first.
    pub again: usize,
    /// Promises that were broken, each with its letter (shared/battery.md) and an example.
    pub broken: Vec<String>,
}

impl Checker<'_> {
    /// After healing, and when nothing is owed any more.
    pub async fn check(&self) -> Findings {
        let mut findings = Findings::default();
        self.acknowledged_is_stored(&mut findings).await;
        self.every_delivery_is_terminal(&mut findings).await;
        self.what_is_settled_is_recorded(&mut findings).await;
        for (name, sink) in &self.sinks {
            self.sink_has_seen_what_is_delivered(name, &sink.ledger(), &mut findings).await;
        }
        findings
    }

    /// A: acknowledged ⊆ stored, byte for byte.
    async fn acknowledged_is_stored(&self, findings: &mut Findings) {
        let rows = sqlx::query(
            "select e.event_id, p.payload from sluice.events e join sluice.payloads p on p.event_seq = e.seq where e.quarantine is null",
        );
        let rows = rows.fetch_all(&self.system.db).await.expect("the events");
        let stored: HashMap<String, Vec<u8>> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        findings.stored = stored.len();
        for (id, body) in self.acknowledged {
            match stored.get(id) {
                None => findings.broken.push(format!("A: {id} was acknowledged, and is not stored")),
                Some(kept) if kept != body => findings.broken.push(format!("A: {id} is not stored as it was signed")),
                Some(_) => {}
            }
        }
    }

    /// B: no delivery is left; E: none took too many attempts, and none is dead without a reason.
    async fn every_delivery_is_terminal(&self, findings: &mut Findings) {
        let (system, broken) = (self.system, &mut findings.broken);
        let mut count = async |what: &str, sql: String| {
            let rows: i64 = system.value(&sql).await;
            if rows > 0 {
                broken.push(format!("{what}: {rows}"));
            }
        };
        let deliveries = "select count(*) from sluice.deliveries where";
        count("B: deliveries are still owed", format!("{deliveries} status = 'pending'")).await;
        count("E: deliveries took too many attempts", format!("{deliveries} attempts > {}", self.attempts_max)).await;
        count("E: deliveries are dead without a reason", format!("{deliveries} status = 'dead' and coalesce(last_error, '') = ''")).await;
        for (name, _) in &self.sinks {
            let missing = "select count(*) from sluice.events e where quarantine is null and not exists";
            let of_sink = format!("{missing} (select from sluice.deliveries d where d.event_seq = e.seq and d.sink = '{name}')");
            count(&format!("B: events were never owed to {name}"), of_sink).await;
        }
    }

    /// B: up to `settled_to` each event of a lane that a subscription of its sink covers has a row. Nobody reads there again, and the
    /// views do not look there: without a row an event would be neither delivered nor owed.
    async fn what_is_settled_is_recorded(&self, findings: &mut Findings) {
        let passed: i64 = self
            .system
            .value(
                "select count(*)
                   from sluice.lanes l join sluice.log e on e.lane = l.lane and e.seq <= l.settled_to
                  where e.quarantine is null
                    and exists (select from sluice.subscriptions u
                                 where u.sink = l.sink and e.seq >= u.from_seq and e.seq < u.until_seq
                                   and (u.types is null or e.type = any (u.types)))
                    and not exists (select from sluice.delivery_state d where d.event_seq = e.seq and d.sink = l.sink)",
            )
            .await;
        if passed > 0 {
            findings.broken.push(format!("B: settled_to has passed deliveries that have no row: {passed}"));
        }
    }

    /// C: each event at least once, and few again; D: nothing is `delivered` that the sink has not answered with 2xx.
    async fn sink_has_seen_what_is_delivered(&self, name: &str, ledger: &[Receipt], findings: &mut Findings) {
        let rows = sqlx::query(
            "select e.event_id from sluice.deliveries d join sluice.events e on e.seq = d.event_seq where d.sink = $1 and d.status = 'delivered'",
        );
        let delivered: BTreeSet<String> =
            rows.bind(name).fetch_all(&self.system.db).await.expect("the deliveries").iter().map(|row| row.get(0)).collect();
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for receipt in ledger.iter().filter(|receipt| receipt.is_success()) {
            *seen.entry(&receipt.event_id).or_default() += 1;
        }
        findings.delivered += delivered.len();
        findings.broken.extend(
            delivered
                .iter()
                .filter(|id| !seen.contains_key(id.as_str()))
                .map(|id| format!("D: {id} is delivered, and {name} has not taken it")),
        );
        let lost = self.acknowledged.keys().filter(|id| !seen.contains_key(id.as_str()));
        findings.broken.extend(lost.map(|id| format!("C: {id} was acknowledged, and {name} has not seen it")));
        let again = seen.values().map(|times| times - 1).sum::<usize>();
        findings.again += again;
        if again > self.again_max {
            findings.broken.push(format!("C: {again} came to {name} again, and at most {} may", self.again_max));
        }
    }
}
