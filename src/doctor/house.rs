//! The operator's own side: server, roles, sinks, workers, lanes, dead letters.

use super::{Finding, Level, counted, stretch};
use crate::config;
use crate::store::doctor::{ROWS_MAX, Role, Server, Sink};
use crate::store::ranges::Range;
use chrono::{DateTime, Utc};

/// Fewer free connections than ingest, two workers and an operator may come to need.
const CONNECTIONS_FREE_MIN: i64 = 20;
/// A sink that works is not owed anything for longer.
const LAG_MAX: chrono::Duration = chrono::Duration::minutes(15);

/// Durability and headroom.
pub fn server(server: &Server) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut lost = |setting: &str, evidence: String, action: &str| {
        let what = format!("{setting}: acknowledged events can be lost in a crash");
        found.push(Finding::new(Level::Problem, "durability", what, evidence, action));
    };
    if server.fsync != "on" {
        lost("fsync is off", format!("fsync = {}", server.fsync), "set fsync = on in postgresql.conf, and reload");
    }
    if server.full_page_writes != "on" {
        let evidence = format!("full_page_writes = {}", server.full_page_writes);
        lost("full_page_writes is off", evidence, "set full_page_writes = on in postgresql.conf, unless the file system makes it needless");
    }
    if server.synchronous_commit == "off" {
        lost(
            "synchronous_commit is off",
            "synchronous_commit = off in this session".into(),
            "alter system reset synchronous_commit, and reload",
        );
    } else if !server.asynchronous_for.is_empty() {
        let who = server.asynchronous_for.join(", ");
        lost(
            "synchronous_commit is off for some",
            format!("off for: {who}"),
            "alter role … reset synchronous_commit (or alter database …)",
        );
    }
    if found.is_empty() {
        let (version, synchronous) = (&server.version, &server.synchronous_commit);
        found.push(Finding::ok("durability", format!("PostgreSQL {version}, fsync on, synchronous_commit {synchronous}")));
    }
    let free = server.connections_max - server.connections;
    found.push(if free < CONNECTIONS_FREE_MIN {
        let evidence = format!("{} of {} connections are in use", server.connections, server.connections_max);
        let action =
            "raise max_connections, or see who holds them: select usename, application_name, count(*) from pg_stat_activity group by 1, 2";
        Finding::new(Level::Warning, "connections", format!("only {free} connections are free"), evidence, action)
    } else {
        Finding::ok("connections", format!("{} of {} are in use", server.connections, server.connections_max))
    });
    found
}

/// The roles, where they are used.
pub fn roles(roles: &[Role]) -> Finding {
    let names = |of: &dyn Fn(&&Role) -> bool| roles.iter().filter(of).map(|role| role.name.as_str()).collect::<Vec<_>>().join(", ");
    let (missing, outdated) = (names(&|role| !role.is_used), names(&|role| role.is_used && !role.is_current));
    let action = "as the schema's owner: sluice migrate --roles";
    if !outdated.is_empty() {
        return Finding::new(Level::Problem, "roles", "roles lack rights that this version needs", outdated, action);
    }
    if !missing.is_empty() {
        let what = "not every role is set up here: processes may be working with more rights than they need";
        return Finding::new(Level::Note, "roles", what, format!("missing: {missing}"), action);
    }
    Finding::ok("roles", "all four have the rights of this version")
}

/// How much longer than `[retention]` says a range may stay before that is worth a word: it goes as a whole, and when nothing of it is owed.
const RANGE_LATE: chrono::Duration = chrono::Duration::days(1);

/// Ranges of the log, as if all received before that time may go: whether some should have gone.
pub fn ranges(ranges: &[Range], before: DateTime<Utc>) -> Finding {
    let is_late = |range: &&Range| range.newest_received_at.is_some_and(|newest| newest < before - RANGE_LATE);
    let late: Vec<&Range> = ranges.iter().filter(is_late).collect();
    let Some(first) = late.first() else {
        return Finding::ok("retention", format!("{} ranges of the log, none kept longer than it should be", ranges.len()));
    };
    let (evidence, action) = match &first.kept_by {
        Some(reason) => (
            reason.clone(),
            "deliver what is pending, skip it, or retire the sink that waits; `sluice prune --before … --dry-run` shows each range",
        ),
        None => ("nothing keeps it".into(), "start a worker with this config: it drops what may go"),
    };
    let what = format!("{} ranges of the log are kept longer than [retention] says, the first is range {}", late.len(), first.number);
    Finding::new(Level::Warning, "retention", what, evidence, action)
}

/// The config's sinks, and the database's.
pub fn registered(configured: &[config::Sink], sinks: &[Sink]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut warn =
        |level: Level, what: String, evidence: String, action: &str| found.push(Finding::new(level, "sinks", what, evidence, action));
    for sink in configured {
        let name = &sink.name;
        match sinks.iter().find(|known| *known.name == **name) {
            None => {
                let what = format!("sink {name} is in the config and was never registered: it is owed nothing yet");
                warn(Level::Warning, what, "no row in sluice.sinks".into(), "start a worker with this config");
            }
            Some(known) if known.is_retired => {
                let what = format!("sink {name} is in the config and retired: nothing is routed to it");
                warn(
                    Level::Warning,
                    what,
                    "sinks.retired_at is set".into(),
                    "update sluice.sinks set retired_at = null …, or take it out of the config",
                );
            }
            Some(known) if known.events != sink.events => {
                let what = format!("sink {name} subscribes to other events in the config than the workers have registered");
                let show = |events: &Option<Vec<String>>| events.as_ref().map_or("all".into(), |events| events.join(", "));
                let evidence = format!("config: {}; registered: {}", show(&sink.events), show(&known.events));
                warn(Level::Warning, what, evidence, "restart the workers with this config");
            }
            Some(_) => {}
        }
    }
    for sink in sinks.iter().filter(|sink| !sink.is_retired && configured.iter().all(|known| *known.name != *sink.name)) {
        let (level, owed) = (if sink.owed() > 0 { Level::Warning } else { Level::Note }, counted(sink.owed(), ROWS_MAX));
        let what = format!("sink {} is registered and not in this config: it goes on being owed events", sink.name);
        warn(level, what, format!("{owed} deliveries are owed to it"), "put it back, or retire it (OPERATING.md, \"Sinks come and go\")");
    }
    if found.is_empty() {
        found.push(Finding::ok("sinks", format!("{} in the config, each registered as it is", configured.len())));
    }
    found
}

impl Sink {
    fn owed(&self) -> i64 {
        self.fresh + self.waiting
    }
}

/// Who is delivering, and whether every sink is.
pub fn delivering(sinks: &[Sink], workers: &[String], now: DateTime<Utc>) -> Vec<Finding> {
    let mut found = Vec::new();
    let owed: i64 = sinks.iter().map(Sink::owed).sum();
    if sinks.is_empty() {
        let action = "start `sluice worker` with a config that has one";
        return vec![Finding::new(
            Level::Note,
            "workers",
            "no sink is registered: events are stored, and go nowhere",
            "sluice.sinks is empty",
            action,
        )];
    }
    if workers.is_empty() {
        let level = if owed > 0 { Level::Problem } else { Level::Warning };
        let evidence = format!("no live lease in sluice.workers; {} deliveries are owed", counted(owed, ROWS_MAX));
        found.push(Finding::new(level, "workers", "no worker is alive: nothing is delivered", evidence, "start `sluice worker`"));
        return found;
    }
    found.push(Finding::ok("workers", format!("{} alive: {}", workers.len(), workers.join(", "))));
    for sink in sinks.iter().filter(|sink| !sink.is_retired || sink.owed() > 0) {
        found.extend(lanes(sink));
        found.extend(standing(sink, now));
        found.extend(dead(sink));
    }
    found
}

fn lanes(sink: &Sink) -> Option<Finding> {
    if sink.lanes_unowned == 0 {
        return None;
    }
    let evidence = format!("{} of its 64 lanes have no live owner; {} live workers have it", sink.lanes_unowned, sink.workers);
    Some(if sink.workers == 0 {
        let level = if sink.owed() > 0 { Level::Problem } else { Level::Warning };
        let what = format!("no live worker has sink {}: nothing is delivered to it", sink.name);
        Finding::new(level, "lanes", what, evidence, "start a worker whose config has it, or retire the sink")
    } else {
        let what = format!("some lanes of sink {} are unowned: their deliveries wait", sink.name);
        Finding::new(
            Level::Warning,
            "lanes",
            what,
            evidence,
            "look again in 15 s (a takeover takes up to 10 s); then: select * from sluice.workers",
        )
    })
}

fn standing(sink: &Sink, now: DateTime<Utc>) -> Option<Finding> {
    let owed = format!("{} deliveries are owed to it", counted(sink.owed(), ROWS_MAX));
    let level = if sink.owed() > 0 { Level::Warning } else { Level::Note };
    if sink.paused {
        let action = "update sluice.sinks set paused = false where name = …";
        return Some(Finding::new(level, "delivery", format!("sink {} is paused", sink.name), owed, action));
    }
    if let Some(reason) = &sink.rests_for {
        let what = format!("sink {} rests: it keeps failing, or refuses us", sink.name);
        return Some(Finding::new(
            level,
            "delivery",
            what,
            format!("{reason}; {owed}"),
            "mend the cause; the next probe closes the breaker",
        ));
    }
    let lag = now - sink.oldest.filter(|_| sink.workers > 0)?;
    (lag > LAG_MAX).then(|| {
        let what = format!("sink {} lags behind by {}", sink.name, stretch(lag));
        Finding::new(
            Level::Warning,
            "delivery",
            what,
            owed,
            "is the sink slow, or `rate` or `concurrency` too low? select * from sluice.sink_health",
        )
    })
}

fn dead(sink: &Sink) -> Option<Finding> {
    if sink.dead == 0 {
        return None;
    }
    let level = if sink.dead_last_day > 0 { Level::Warning } else { Level::Note };
    let what = format!("{} deliveries to {} are dead", counted(sink.dead, ROWS_MAX), sink.name);
    let action = "select * from sluice.dead_letters; mend the cause, then: sluice replay";
    Some(Finding::new(level, "dead_letters", what, format!("{} in the last day", sink.dead_last_day), action))
}
