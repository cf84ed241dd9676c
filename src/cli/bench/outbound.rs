//! What goes out: a backlog drained by a worker, what reading it costs, and what an operator's forgotten transaction does to it.

use super::events::Events;
use super::lab::{Database, Lab};
use super::meter::{Meter, fetch_cost};
use super::processes::{self, Destination, Process};
use super::report::{Figures, Unit};
use super::sink::Sink;
use super::{Plan, drain_patience, no_sink, yardstick};
use crate::cli::Failure;
use crate::clock;
use crate::store::bench;
use crate::store::servers::Connection;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Drains a backlog to an HTTP sink, then another to `null`: payloads read and sent, and every outcome committed.
pub async fn drain(lab: &Lab, plan: &Plan, figures: &mut Figures) -> Result<(), Failure> {
    let sink = Sink::start(0).await.map_err(no_sink)?;
    for to in [Destination::Http(sink.address()), Destination::Null] {
        yardstick::again(lab, plan.seconds, figures).await?;
        let mut database = filled(lab, to, plan.drain_events).await?;
        let meter = Meter::start(&mut database.conn).await?;
        let mut worker = processes::worker(lab.folder(), database.url(), to).await?;
        database.wait_until_done(drain_patience(plan.drain_events), || worker.check()).await?;
        let kind = to.kind();
        figures.rate(format!("delivered to {kind}"), delivered_per_second(&mut database).await?);
        meter.report(&mut database.conn, plan.drain_events, &format!(", to {kind}"), figures).await?;
        peak(&worker, &format!("worker to {kind}"), figures);
        worker.stop().await?;
        lab.clean().await;
    }
    Ok(())
}

/// What reading due rows costs, in the middle of a drain and after a takeover from a worker that was killed there: the new owner has no
/// cursor and must get past what its predecessor delivered.
pub async fn fetch(lab: &Lab, plan: &Plan, figures: &mut Figures) -> Result<(), Failure> {
    for events in [plan.backlog_small, plan.backlog_large] {
        let sink = Sink::start(0).await.map_err(no_sink)?;
        let to = Destination::Http(sink.address());
        let mut database = filled(lab, to, events).await?;
        let mut first = processes::worker(lab.folder(), database.url(), to).await?;
        watch(&sink, events / 4, &mut first, events).await?;
        let meter = Meter::start(&mut database.conn).await?;
        watch(&sink, events / 2, &mut first, events).await?;
        report_fetch(&meter, &mut database, &format!("{events} pending, mid-drain"), figures).await?;
        first.kill().await;
        let left = events.saturating_sub(sink.requests());
        if left < events / 8 {
            return Err(Failure::failed(format!(
                "of {events} deliveries {left} were left when their worker was killed: too few to go on with"
            )));
        }
        let mut second = processes::worker(lab.folder(), database.url(), to).await?;
        let meter = Meter::start(&mut database.conn).await?;
        watch(&sink, sink.requests() + events / 8, &mut second, events).await?;
        report_fetch(&meter, &mut database, &format!("{events} pending, after a takeover"), figures).await?;
        second.stop().await?;
        lab.clean().await;
    }
    Ok(())
}

/// Drains a large backlog without and with a transaction held open that pins vacuum's horizon.
pub async fn backlog(lab: &Lab, plan: &Plan, figures: &mut Figures) -> Result<(), Failure> {
    let events = plan.backlog_large;
    for pinned in [false, true] {
        let sink = Sink::start(0).await.map_err(no_sink)?;
        let to = Destination::Http(sink.address());
        let mut database = filled(lab, to, events).await?;
        let holder = if pinned { Some(hold_horizon(&database).await?) } else { None };
        let mut worker = processes::worker(lab.folder(), database.url(), to).await?;
        let timeline = watch(&sink, events, &mut worker, events).await?;
        database.wait_until_done(drain_patience(events), || worker.check()).await?;
        let of = if pinned { ", with an open transaction" } else { "" };
        figures.rate(format!("delivered{of}"), delivered_per_second(&mut database).await?);
        figures.rate(format!("its first fifth{of}"), rate_between(&timeline, 0, events / 5));
        figures.rate(format!("its last fifth{of}"), rate_between(&timeline, events * 4 / 5, events));
        peak(&worker, &format!("worker with {events} pending{of}"), figures);
        worker.stop().await?;
        drop(holder);
        lab.clean().await;
    }
    Ok(())
}

async fn filled(lab: &Lab, to: Destination, events: u64) -> Result<Database, Failure> {
    let mut database = lab.database("drain").await?;
    database.register(to).await?;
    let made = Events::new();
    database.fill(events, move |i| made.event(i)).await?;
    Ok(database)
}

async fn hold_horizon(database: &Database) -> Result<Connection, Failure> {
    bench::hold_horizon(database.url()).await.map_err(|error| Failure::database("cannot hold a transaction open", &error))
}

/// By the commits that recorded the deliveries.
async fn delivered_per_second(database: &mut Database) -> Result<f64, Failure> {
    let delivered = bench::delivered(&mut database.conn).await;
    let delivered = delivered.map_err(|error| Failure::database("cannot count what was delivered", &error))?;
    if delivered.after_first == 0 || delivered.seconds <= 0.0 {
        return Err(Failure::failed(format!("{} deliveries were recorded at once: too few to tell a rate", delivered.deliveries)));
    }
    Ok(delivered.after_first as f64 / delivered.seconds)
}

async fn report_fetch(meter: &Meter, database: &mut Database, when: &str, figures: &mut Figures) -> Result<(), Failure> {
    let statements = meter.statements(&mut database.conn).await?.ok_or_else(|| {
        Failure::failed("the cost of a read is told by pg_stat_statements, which this server lacks: add it to shared_preload_libraries")
    })?;
    fetch_cost(&statements, when, figures);
    Ok(())
}

/// Short beside the time that a small backlog takes.
const LOOK_EVERY: Duration = Duration::from_millis(4);

/// How many requests the sink had had, and when.
type Timeline = Vec<(Instant, u64)>;

/// Waits until the sink has had this many requests. `events` is the size of the backlog, which the patience follows.
async fn watch(sink: &Sink, requests: u64, worker: &mut Process, events: u64) -> Result<Timeline, Failure> {
    let gives_up_at = clock::instant() + drain_patience(events);
    let mut timeline = Timeline::new();
    loop {
        let now = (clock::instant(), sink.requests());
        timeline.push(now);
        if now.1 >= requests {
            return Ok(timeline);
        }
        worker.check()?;
        if now.0 >= gives_up_at {
            return Err(Failure::failed(format!("the sink got {} of {requests} requests, and then no more in time", now.1)));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// From the first look that found more than `from` requests to the first that found `to`.
fn rate_between(timeline: &[(Instant, u64)], from: u64, to: u64) -> f64 {
    let first = timeline.iter().find(|(_, requests)| *requests > from);
    let last = timeline.iter().find(|(_, requests)| *requests >= to);
    let (Some(first), Some(last)) = (first, last) else { return 0.0 };
    let seconds = last.0.saturating_duration_since(first.0).as_secs_f64();
    if seconds > 0.0 { (last.1 - first.1) as f64 / seconds } else { 0.0 }
}

fn peak(worker: &Process, of: &str, figures: &mut Figures) {
    if let Some(mib) = worker.peak_mib() {
        figures.add(format!("peak memory, {of}"), mib, Unit::Mebibytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_taken_between_two_counts_and_is_zero_where_there_is_no_time_between() {
        let start = clock::instant();
        let timeline: Timeline = [0, 0, 100, 200, 500].iter().zip(0..).map(|(&n, s)| (start + Duration::from_secs(s), n)).collect();
        assert_eq!(rate_between(&timeline, 0, 500), 200.0);
        assert_eq!(rate_between(&timeline, 100, 200), 0.0);
        assert_eq!(rate_between(&timeline, 0, 900), 0.0);
    }
}
