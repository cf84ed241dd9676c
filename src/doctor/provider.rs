//! The provider's side: what it sends, what it ceases to send, and the likely reason.

use super::{Finding, Level, counted, stretch};
use crate::store::doctor::{EVENTS_MAX, Kind, Quarantine, ROWS_MAX, Refusals, Repeats, Scores, Watch};
use chrono::{DateTime, Utc};
use std::collections::BTreeSet;
use std::time::Duration;

/// Fewer refusals say nothing: anybody can send some.
const REFUSED_FROM: i64 = 10;
/// With fewer events than this, a type that has not come yet need not be missing.
const TELLING_FROM: i64 = 100;

/// Whether requests are refused, and whether that is all that comes.
pub fn refused(refusals: &[Refusals], kinds: &[Kind], kept: Option<i64>) -> Vec<Finding> {
    let finding = |refused: &Refusals| {
        let source = refused.source.as_str();
        let of_source = || kinds.iter().filter(move |kind| kind.source == source);
        let last_event = of_source().map(|kind| kind.last).max();
        let accepted: i64 = of_source().map(|kind| kind.accepted_last_hour).sum();
        let (is_forbidden, all, last_hour) = match refused.forbidden >= refused.unsigned {
            true => (true, refused.forbidden, refused.forbidden_last_hour),
            false => (false, refused.unsigned, refused.unsigned_last_hour),
        };
        let (status, because) = if is_forbidden { (403, "the signature does not verify") } else { (401, "a signed header is missing") };
        let evidence = format!(
            "{all} answered {status} in the last day, {last_hour} in the last hour; {accepted} events accepted in the last hour, the last one {}",
            last_event.map_or("never".into(), |at| format!("at {}", time(at)))
        );
        let action = match (is_forbidden, kept) {
            (false, _) => "compare the headers that the provider sends with the source's profile (CONFIG.md, [[profile]])".into(),
            (true, kept) => {
                let reverify = match kept {
                    Some(0) | None => String::new(),
                    Some(kept) => format!("; then `sluice reverify`: {} refused requests are kept", counted(kept, ROWS_MAX)),
                };
                format!("was the secret rotated at the provider? Add the new one to `secrets`, and reload ingest (SIGHUP){reverify}")
            }
        };
        // The minutes are whole ones: an event within the last of them may have come before or after.
        let nothing_since = last_event.is_none_or(|at| at < refused.last);
        let (level, what) = match (nothing_since, accepted) {
            (true, 0) if all >= REFUSED_FROM => (Level::Problem, format!("all deliveries to {source} are refused: {because}")),
            (_, accepted) if last_hour >= REFUSED_FROM && last_hour > accepted => {
                (Level::Problem, format!("most deliveries to {source} are refused: {because}"))
            }
            _ => (Level::Note, format!("some requests to {source} were refused, which anybody can send: {because}")),
        };
        Finding::new(level, "refused", what, evidence, action)
    };
    if refusals.is_empty() {
        return vec![Finding::ok("refused", "no request was refused in the last day")];
    }
    refusals.iter().map(finding).collect()
}

/// Whether anything comes. `sources`: those of the config, where it is known.
pub fn silence(kinds: &[Kind], sources: &[&str], now: DateTime<Utc>, silence_max: Duration) -> Vec<Finding> {
    let heard: BTreeSet<&str> = kinds.iter().map(|kind| kind.source.as_str()).chain(sources.iter().copied()).collect();
    let max = chrono::Duration::from_std(silence_max).unwrap_or(chrono::Duration::MAX);
    let action = "is ingest reached from outside? Has the provider suspended the webhook, as it does after 24 h of failures? sluice mindtickle list, then reactivate";
    let finding = |source: &str| match kinds.iter().filter(|kind| kind.source == source).map(|kind| kind.last).max() {
        None => Finding::new(Level::Note, "silence", format!("nothing has come to {source}"), looked_at(), action),
        Some(last) if now - last > max => {
            let what = format!("nothing has come to {source} for {}", stretch(now - last));
            Finding::new(Level::Warning, "silence", what, format!("the last event was received at {}", time(last)), action)
        }
        Some(last) => Finding::ok("silence", format!("{source} was last heard {} ago", stretch(now - last))),
    };
    if heard.is_empty() {
        return vec![Finding::new(Level::Note, "silence", "nothing was ever received", "sluice.events is empty", action)];
    }
    heard.into_iter().map(finding).collect()
}

/// Event types that somebody waits for and that do not come. `described`: those that the provider is said to send; `wanted`: those
/// that a sink names.
pub fn never_seen(kinds: &[Kind], described: &[&str], wanted: &BTreeSet<&str>) -> Vec<Finding> {
    let events: i64 = kinds.iter().map(|kind| kind.events).sum();
    let is_missing = |event_type: &str| kinds.iter().all(|kind| kind.event_type.as_deref() != Some(event_type));
    let missing_wanted: Vec<&str> = wanted.iter().copied().filter(|&event_type| is_missing(event_type)).collect();
    let missing: Vec<&str> =
        described.iter().copied().filter(|&event_type| is_missing(event_type) && !wanted.contains(event_type)).collect();
    if events == 0 {
        return Vec::new();
    }
    let action = "is the webhook subscribed to it? sluice mindtickle list, then subscribe";
    let mut found = Vec::new();
    if !missing_wanted.is_empty() {
        let level = if events >= TELLING_FROM { Level::Warning } else { Level::Note };
        let what = format!("sinks wait for event types that have not come: {}", missing_wanted.join(", "));
        found.push(Finding::new(level, "never_seen", what, format!("none {} ({events} there)", looked_at()), action));
    }
    if !missing.is_empty() {
        let what = format!("event types that have not come, and that no sink names: {}", missing.join(", "));
        found.push(Finding::new(Level::Note, "never_seen", what, format!("none {} ({events} there)", looked_at()), action));
    }
    if found.is_empty() {
        found.push(Finding::ok("never_seen", "every event type that is described, or that a sink names, has come"));
    }
    found
}

/// Ids: missing, or several for one body. `requests` tells which of the bodies came as the very same request; `None`: payloads cannot be read.
pub fn ids(kinds: &[Kind], bodies: &Repeats, requests: Option<&Repeats>) -> Vec<Finding> {
    let mut found = Vec::new();
    let (events, derived) = kinds.iter().fold((0, 0), |(events, derived), kind| (events + kind.events, derived + kind.derived_ids));
    if derived > 0 {
        let level = if derived * 2 > events { Level::Warning } else { Level::Note };
        let what = format!("{derived} of {events} events carry no usable id: theirs are derived from timestamp and body");
        let action = "does the profile's `event_id` name the right header? A redelivery that is signed anew counts as another event";
        found.push(Finding::new(level, "derived_ids", what, format!("events.derived_id, {}", looked_at()), action));
    }
    let evidence = |repeats: &Repeats| format!("{}; for example: {}", looked_at(), repeats.example_event_ids.join(", "));
    match requests {
        Some(requests) if requests.bodies > 0 => {
            let what = format!("{} signed requests came under several event ids, {} events in all", requests.bodies, requests.events);
            let action = "the id is not signed, so somebody may be sending captured requests again: select * from sluice.repeats";
            found.push(Finding::new(Level::Warning, "repeated_ids", what, evidence(requests), action));
        }
        _ if bodies.bodies > 0 => {
            let what = format!("{} bodies came under several event ids, {} events in all", bodies.bodies, bodies.events);
            let action = match requests {
                Some(_) => "each was signed at a time of its own, so they are events that say the same, or redeliveries under new ids",
                None => "select * from sluice.repeats shows whether any is the same signed request again (it reads every payload)",
            };
            found.push(Finding::new(Level::Note, "repeated_ids", what, evidence(bodies), action));
        }
        _ => {}
    }
    if found.is_empty() {
        found.push(Finding::ok("ids", "each event has an id and a body of its own"));
    }
    found
}

/// What is held back.
pub fn quarantined(quarantines: &[Quarantine], now: DateTime<Utc>) -> Vec<Finding> {
    let finding = |of: &Quarantine| {
        let level = if now - of.last < chrono::Duration::days(1) { Level::Warning } else { Level::Note };
        let evidence = format!("the last at {}, for example event {}", time(of.last), of.example_event_id);
        let action = "OPERATING.md, \"Triage\", says what each reason means, and \"Replay\" how to release one";
        Finding::new(level, "quarantined", format!("{} events are held back: {}", of.events, of.reason), evidence, action)
    };
    if quarantines.is_empty() {
        return vec![Finding::ok("quarantined", "nothing is held back")];
    }
    quarantines.iter().map(finding).collect()
}

/// Whether quizzes carry their scores.
pub fn scores(scores: &Scores) -> Option<Finding> {
    let of = format!("of the newest {} quiz.submitted, {} are practice quizzes", scores.quizzes, scores.practice);
    if scores.quizzes == 0 {
        return None;
    }
    Some(if scores.graded_without > 0 {
        let what = format!("{} quizzes that are no practice carry no score", scores.graded_without);
        Finding::new(
            Level::Warning,
            "scores",
            what,
            of,
            "compare a body with what is described: select body from sluice.bodies where type = 'quiz.submitted'",
        )
    } else if scores.practice_without > 0 {
        let what = format!("{} practice quizzes carry no score, as is described", scores.practice_without);
        let action = "where a sink filters by score, ask first: when = \"has(event.data.score) && event.data.score < 70\"";
        Finding::new(Level::Note, "scores", what, of, action)
    } else {
        Finding::ok("scores", format!("{of}; each carries a score"))
    })
}

/// What the watchdog saw; `None`: it has never been on.
pub fn watch(watch: &Watch, now: DateTime<Utc>) -> Option<Finding> {
    let claimed = watch.claimed_at?;
    let checked = watch.checked_at.map_or("never".into(), time);
    let evidence = format!("last asked at {}, last answered: {checked}", time(claimed));
    if let Some(error) = &watch.error {
        let what = format!("the watchdog could not see to the provider's webhooks: {error}");
        return Some(Finding::new(Level::Warning, "watchdog", what, evidence, "try the same by hand: sluice mindtickle list"));
    }
    let reactivated = watch.reactivated_at.filter(|at| now - *at < chrono::Duration::days(1));
    Some(match reactivated {
        Some(at) => {
            let ids = watch.reactivated.as_deref().unwrap_or_default().join(", ");
            let what = format!("the provider had suspended {ids}; re-activated at {}", time(at));
            let action = "find out why deliveries failed for a day (refused? ingest down?); what was given up meanwhile is lost";
            Finding::new(Level::Warning, "watchdog", what, evidence, action)
        }
        None => Finding::ok(
            "watchdog",
            format!("{} webhooks are watched, none was suspended in the last day; {evidence}", watch.webhooks.unwrap_or(0)),
        ),
    })
}

fn looked_at() -> String {
    format!("among the newest {EVENTS_MAX} events")
}

fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}
