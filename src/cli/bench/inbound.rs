//! What comes in: ingest alone, ingest and a worker at once, the way from one to the other, and what they do when nothing happens.

use super::Plan;
use super::events::Requests;
use super::lab::{Database, Lab};
use super::load::{Load, Sent};
use super::meter::Meter;
use super::processes::{self, Destination, Process};
use super::report::{Figures, Unit, quantile};
use super::sink::Sink;
use super::{drain_patience, no_sink, yardstick};
use crate::cli::Failure;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// More a second than is sent on any machine of today: requests are signed beforehand, and this many for each second.
const SIGNED_PER_SECOND: u64 = 60_000;
/// What the received-to-sink time is measured at.
const LATENCY_RATE: u64 = 500;
const CONNECTIONS: usize = 64;

/// Ingest with verification; one sink subscribes, and no worker runs.
pub async fn ingest(lab: &Lab, plan: &Plan, figures: &mut Figures) -> Result<(), Failure> {
    let requests = sign(plan.seconds * SIGNED_PER_SECOND).await?;
    for connections in [64, 256] {
        yardstick::again(lab, plan.seconds, figures).await?;
        let mut database = lab.database("ingest").await?;
        database.register(Destination::Null).await?;
        let (mut ingest, address) = processes::ingest(lab.folder(), database.url()).await?;
        let meter = Meter::start(&mut database.conn).await?;
        let load = Load { connections, time: Duration::from_secs(plan.seconds), ..load(address, &requests) };
        let sent = load.run().await;
        ingest.check()?;
        let of = format!(", {connections} connections");
        figures.rate(format!("received{of}"), sent.per_second());
        answers(&sent, &of, figures)?;
        meter.report(&mut database.conn, sent.taken, &of, figures).await?;
        peak(&ingest, &format!("ingest{of}"), figures);
        ingest.stop().await?;
        lab.clean().await;
    }
    Ok(())
}

/// Ingest, a worker and an HTTP sink at once, from a fresh database; `per_second` as in [`Load`].
pub async fn together(lab: &Lab, plan: &Plan, per_second: Option<u64>, figures: &mut Figures) -> Result<(), Failure> {
    let requests = sign(plan.together_seconds * per_second.unwrap_or(SIGNED_PER_SECOND)).await?;
    yardstick::again(lab, plan.seconds, figures).await?;
    let sink = Sink::start(0).await.map_err(no_sink)?;
    let mut both = Both::start(lab, Destination::Http(sink.address())).await?;
    let meter = Meter::start(&mut both.database.conn).await?;
    let time = Duration::from_secs(plan.together_seconds);
    let load = Load { time, per_second: per_second.map(|rate| rate as f64), ..load(both.address, &requests) };
    let (sent, backlog) = watch_backlog(&load, &sink).await;
    both.check()?;
    let delivered = sink.requests();
    figures.rate("received", sent.per_second());
    figures.rate("delivered meanwhile", delivered as f64 / sent.seconds);
    figures.add("backlog at half time", backlog.get(backlog.len() / 2).copied().unwrap_or(0) as f64, Unit::Count);
    figures.add("backlog at the end", sent.taken.saturating_sub(delivered) as f64, Unit::Count);
    let growth = growth_per_second(&backlog[backlog.len() / 2..]) / sent.per_second() * 100.0;
    figures.add("backlog's growth in the second half, of what came in (level: under 2)", growth, Unit::Percent);
    answers(&sent, "", figures)?;
    both.finish(sent.taken).await?;
    figures.add("delivered twice", sink.requests() as f64 - sent.taken as f64, Unit::Count);
    meter.report(&mut both.database.conn, sent.taken, "", figures).await?;
    both.stop(figures).await?;
    lab.clean().await;
    Ok(())
}

/// From when a request is due to when its event reaches the sink: the sender's timer, with its millisecond, is part of it.
pub async fn latency(lab: &Lab, plan: &Plan, figures: &mut Figures) -> Result<(), Failure> {
    // The first second opens connections and prepares statements, and does not count.
    let (warm_up, all) = (LATENCY_RATE as usize, (LATENCY_RATE * (plan.seconds + 1)) as usize);
    let requests = sign(all as u64).await?;
    let sink = Sink::start(all).await.map_err(no_sink)?;
    let mut both = Both::start(lab, Destination::Http(sink.address())).await?;
    let part = |range: Range<usize>| Load { per_second: Some(LATENCY_RATE as f64), range, ..load(both.address, &requests) };
    let (first, second) = (part(0..warm_up), part(warm_up..all));
    let before = first.run().await;
    let sent = second.run().await;
    both.check()?;
    both.finish(before.taken + sent.taken).await?;
    let reached_us = |i| Some(sink.first_at(i)?.saturating_duration_since(second.due(sent.started_at, i)?).as_micros() as u64);
    let mut reached: Vec<u64> = (warm_up..all).filter_map(reached_us).collect();
    reached.sort_unstable();
    for (what, part) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        figures.add(format!("sent to sink at {LATENCY_RATE}/s, {what}"), quantile(&reached, part) as f64 / 1000.0, Unit::Milliseconds);
    }
    answers(&sent, "", figures)?;
    both.stop(figures).await?;
    lab.clean().await;
    Ok(())
}

/// What is asked of the database when all is delivered and nothing comes in.
pub async fn idle(lab: &Lab, plan: &Plan, figures: &mut Figures) -> Result<(), Failure> {
    let requests = sign(1000).await?;
    let mut both = Both::start(lab, Destination::Null).await?;
    let sent = load(both.address, &requests).run().await;
    both.finish(sent.taken).await?;
    // What follows the last delivery (counters, hints) is not idleness yet.
    sleep(Duration::from_secs(3)).await;
    let meter = Meter::start(&mut both.database.conn).await?;
    sleep(Duration::from_secs(plan.idle_seconds)).await;
    both.check()?;
    match meter.statements(&mut both.database.conn).await? {
        Some(statements) => figures.add("statements a second", statements.calls as f64 / plan.idle_seconds as f64, Unit::Count),
        None => eprintln!("statements are not counted on this server: it needs pg_stat_statements in shared_preload_libraries"),
    }
    both.stop(figures).await?;
    lab.clean().await;
    Ok(())
}

/// Ingest and a worker on one database.
struct Both {
    database: Database,
    ingest: Process,
    worker: Process,
    address: SocketAddr,
}

impl Both {
    async fn start(lab: &Lab, to: Destination) -> Result<Self, Failure> {
        let mut database = lab.database("both").await?;
        database.register(to).await?;
        let worker = processes::worker(lab.folder(), database.url(), to).await?;
        let (ingest, address) = processes::ingest(lab.folder(), database.url()).await?;
        Ok(Self { database, ingest, worker, address })
    }

    fn check(&mut self) -> Result<(), Failure> {
        self.ingest.check()?;
        self.worker.check()
    }

    /// Waits until all of `events` are delivered.
    async fn finish(&mut self, events: u64) -> Result<(), Failure> {
        let worker = &mut self.worker;
        self.database.wait_until_done(drain_patience(events), || worker.check()).await
    }

    async fn stop(self, figures: &mut Figures) -> Result<(), Failure> {
        peak(&self.ingest, "ingest", figures);
        peak(&self.worker, "worker", figures);
        self.ingest.stop().await?;
        self.worker.stop().await
    }
}

/// Runs the load; returns also how many events were received and not yet with the sink, four times a second.
async fn watch_backlog(load: &Load, sink: &Sink) -> (Sent, Vec<u64>) {
    let run = load.run();
    tokio::pin!(run);
    let mut ticks = interval(BACKLOG_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut backlog = Vec::new();
    loop {
        tokio::select! {
            sent = &mut run => return (sent, backlog),
            _ = ticks.tick() => backlog.push(load.taken.load(Relaxed).saturating_sub(sink.requests())),
        }
    }
}

const BACKLOG_EVERY: Duration = Duration::from_millis(250);

/// The slope of the line that fits these best, by least squares.
fn growth_per_second(backlog: &[u64]) -> f64 {
    let n = backlog.len() as f64;
    let mean_x = (n - 1.0) / 2.0;
    let mean_y = backlog.iter().sum::<u64>() as f64 / n.max(1.0);
    let (mut products, mut squares) = (0.0, 0.0);
    for (x, &y) in backlog.iter().enumerate() {
        let from_mean = x as f64 - mean_x;
        products += from_mean * (y as f64 - mean_y);
        squares += from_mean * from_mean;
    }
    if squares > 0.0 { products / squares / BACKLOG_EVERY.as_secs_f64() } else { 0.0 }
}

fn load(address: SocketAddr, requests: &Arc<Requests>) -> Load {
    Load {
        address,
        requests: Arc::clone(requests),
        range: 0..requests.len(),
        connections: CONNECTIONS,
        per_second: None,
        time: Duration::from_secs(3600),
        taken: Arc::new(AtomicU64::new(0)),
    }
}

async fn sign(count: u64) -> Result<Arc<Requests>, Failure> {
    let signed = tokio::task::spawn_blocking(move || Requests::sign(count as usize)).await;
    signed.map(Arc::new).map_err(|error| Failure::failed(format!("signing the requests ended unexpectedly: {error}")))
}

/// How ingest answered. That it took nothing at all is an error, since every figure would be of nothing.
fn answers(sent: &Sent, of: &str, figures: &mut Figures) -> Result<(), Failure> {
    if sent.taken == 0 {
        return Err(Failure::failed(format!("ingest took none of the requests (answers by status, 0: none came: {:?})", sent.refused)));
    }
    figures.add(format!("answered, p50{of}"), sent.latency_ms(0.5), Unit::Milliseconds);
    figures.add(format!("answered, p99{of}"), sent.latency_ms(0.99), Unit::Milliseconds);
    if sent.refused() > 0 {
        figures.add(format!("not taken{of}"), sent.refused() as f64, Unit::Count);
    }
    Ok(())
}

fn peak(process: &Process, of: &str, figures: &mut Figures) {
    if let Some(mib) = process.peak_mib() {
        figures.add(format!("peak memory, {of}"), mib, Unit::Mebibytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_the_slope_of_the_backlog_and_none_where_it_is_level() {
        assert_eq!(growth_per_second(&[0, 100, 200, 300]), 400.0);
        assert_eq!(growth_per_second(&[7, 7, 7]), 0.0);
        assert_eq!(growth_per_second(&[7]), 0.0);
        assert_eq!(growth_per_second(&[]), 0.0);
    }
}
