//! The end of the log, as this worker has seen it. Pure.
//!
//! Events are numbered before they are committed, so an event can appear below one that was seen already. The tail remembers the *gaps*:
//! positions up to its head that were not seen yet. Each read asks for them again, until the *floor* has passed them: a position at or below
//! which no transaction can still commit. What lies at or below both head and floor was seen, all of it.

use crate::store::log::{Asker, Issued};
use std::time::{Duration, Instant};

/// How often the floor is asked for while events arrive.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Gaps remembered apart; beyond that the oldest are read again together with what lies between them, which is harmless: an event that
/// is held is known, and one that is done has a row.
const GAPS_MAX: usize = 32;

/// Positions in (`after`, `until`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub after: i64,
    pub until: i64,
}

impl Span {
    fn contains(&self, seq: i64) -> bool {
        self.after < seq && seq <= self.until
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Tail {
    floor: i64,
    head: i64,
    /// In order, apart, none beyond the head.
    gaps: Vec<Span>,
    /// A position that had been given out while these transactions could still commit.
    pending: Option<(i64, Vec<String>)>,
    /// A floor that holds for reads that begin from now on.
    next_floor: i64,
    /// The highest position that had been given out when it was last asked.
    issued: i64,
    asked_at: Option<Instant>,
    /// By whom.
    asker: Option<Asker>,
}

impl Tail {
    /// Whether this is an answer to another connection than the answers before it, or one by which positions are given out again: then
    /// nothing that was seen says anything of what can come.
    pub fn is_outdated_by(&self, issued: &Issued) -> bool {
        self.asker.is_some_and(|asker| asker != issued.asker) || issued.last < self.issued
    }

    /// The highest position seen.
    pub fn head(&self) -> i64 {
        self.head
    }

    /// Nothing can still be committed at or below this.
    pub fn floor(&self) -> i64 {
        self.floor
    }

    /// Everything up to here was seen.
    pub fn complete_to(&self) -> i64 {
        self.head.min(self.floor)
    }

    /// Whether it is time to ask how far positions have been given out.
    pub fn asks(&self, now: Instant) -> bool {
        self.asked_at.is_none_or(|asked_at| now.saturating_duration_since(asked_at) >= ASK_EVERY)
    }

    /// The answer, which must have been asked for before the read that follows.
    pub fn answer(&mut self, issued: Issued, now: Instant) {
        let is_open = |writers: &[String]| writers.iter().any(|writer| issued.writers.contains(writer));
        if let Some((position, _)) = self.pending.take_if(|(_, writers)| !is_open(writers)) {
            self.next_floor = self.next_floor.max(position);
        }
        if issued.writers.is_empty() {
            self.next_floor = self.next_floor.max(issued.last);
        }
        if self.pending.is_none() && issued.last > self.next_floor {
            self.pending = Some((issued.last, issued.writers));
        }
        (self.issued, self.asked_at, self.asker) = (issued.last, Some(now), Some(issued.asker));
        if !self.is_stale() {
            // There is nothing to look at: all was seen.
            self.raise_floor(i64::MAX);
        }
    }

    /// Whether there can be anything that was not seen: asked just now.
    pub fn is_stale(&self) -> bool {
        self.issued > self.head || !self.gaps.is_empty()
    }

    /// What a read has to look at: the gaps, and all beyond the head. With `from`, all beyond that position instead, for those that come
    /// from there.
    pub fn spans(&self, from: Option<i64>) -> Vec<Span> {
        let from = from.map_or(self.head, |from| from.min(self.head));
        let mut spans: Vec<Span> = self.gaps.iter().filter(|gap| gap.after < from).copied().collect();
        if let Some(last) = spans.last_mut() {
            last.until = last.until.min(from);
        }
        spans.push(Span { after: from, until: i64::MAX });
        spans
    }

    /// Whether this position is new to those who have seen all that the tail has seen.
    pub fn is_new(&self, seq: i64) -> bool {
        seq > self.head || self.gaps.iter().any(|gap| gap.contains(seq))
    }

    /// A read of these spans, which were [asked for](Self::spans), has found these positions, in order; a span of which `full` says so ended
    /// at its last one. Returns up to where the last span was looked at.
    pub fn learn(&mut self, read: &[(Span, Vec<i64>, bool)]) -> i64 {
        let Some(((last, found, last_full), before)) = read.split_last() else { return self.head };
        let mut gaps = Vec::new();
        let mut complete = true;
        for (span, seqs, full) in before {
            complete &= !full;
            missing(*span, seqs, &mut gaps);
        }
        let ended = found.last().copied().unwrap_or(last.after);
        let looked_to = if *last_full { ended } else { ended.max(self.issued).max(self.head) };
        missing(Span { after: last.after, until: looked_to }, found, &mut gaps);
        // A read from before the head that did not come as far knows nothing of the gaps beyond.
        gaps.extend(
            self.gaps.iter().filter(|gap| gap.until > looked_to).map(|gap| Span { after: gap.after.max(looked_to), until: gap.until }),
        );
        self.gaps = gaps;
        self.head = self.head.max(looked_to);
        if complete {
            // One that stopped before the head has not looked at the gaps beyond.
            self.raise_floor(if looked_to < self.head { looked_to } else { i64::MAX });
        }
        while self.gaps.len() > GAPS_MAX {
            let first = self.gaps.remove(0);
            self.gaps[0].after = first.after;
        }
        looked_to
    }

    /// Nobody has seen anything of it: it begins at the floor.
    pub fn restart(&mut self) {
        self.gaps.clear();
        self.head = self.next_floor;
        self.floor = self.next_floor;
    }

    /// Every gap up to this position was looked at since the floor was asked for.
    fn raise_floor(&mut self, looked_to: i64) {
        self.floor = self.floor.max(self.next_floor.min(looked_to));
        let floor = self.floor;
        self.gaps.retain_mut(|gap| {
            gap.after = gap.after.max(floor);
            gap.after < gap.until
        });
    }
}

/// Adds what of a span was not among the positions that were found.
fn missing(span: Span, found: &[i64], gaps: &mut Vec<Span>) {
    let mut after = span.after;
    for &seq in found.iter().filter(|seq| span.contains(**seq)) {
        if seq > after + 1 {
            gaps.push(Span { after, until: seq - 1 });
        }
        after = seq;
    }
    if after < span.until {
        gaps.push(Span { after, until: span.until });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn issued(last: i64, writers: &[&str]) -> Issued {
        Issued { last, writers: writers.iter().map(ToString::to_string).collect(), asker: Asker::default() }
    }

    /// A read of all that the tail asks for, which finds these.
    fn read(tail: &mut Tail, found: &[i64]) -> i64 {
        let spans = tail.spans(None);
        let read: Vec<_> =
            spans.iter().map(|span| (*span, found.iter().copied().filter(|seq| span.contains(*seq)).collect(), false)).collect();
        tail.learn(&read)
    }

    #[test]
    fn the_floor_is_what_was_given_out_before_the_last_of_the_writers_ended() {
        let (mut tail, now) = (Tail::default(), clock::instant());
        tail.answer(issued(10, &["a", "b"]), now);
        read(&mut tail, &[3]);
        assert_eq!(tail.floor(), 0);
        tail.answer(issued(20, &["b", "c"]), now);
        read(&mut tail, &[4]);
        assert_eq!(tail.floor(), 0, "b may still commit 1 to 10");
        tail.answer(issued(30, &["c"]), now);
        read(&mut tail, &[]);
        assert_eq!(tail.floor(), 10, "c may have numbered 11");
        tail.answer(issued(40, &[]), now);
        read(&mut tail, &[]);
        assert_eq!(tail.floor(), 40);
        assert!(!tail.is_stale());
    }

    #[test]
    fn what_commits_late_is_new_and_is_asked_for_until_the_floor_has_passed_it() {
        let (mut tail, now) = (Tail::default(), clock::instant());
        tail.answer(issued(5, &["slow"]), now);
        read(&mut tail, &[1, 2, 4, 5]);
        assert_eq!(tail.spans(None), [Span { after: 2, until: 3 }, Span { after: 5, until: i64::MAX }]);
        assert!(tail.is_new(3) && !tail.is_new(4) && tail.is_new(6));
        assert_eq!(tail.complete_to(), 0);
        tail.answer(issued(5, &[]), now);
        read(&mut tail, &[3]);
        assert_eq!((tail.complete_to(), tail.is_stale()), (5, false));
    }

    #[test]
    fn a_span_that_was_not_read_to_its_end_keeps_the_floor_where_it_is() {
        let (mut tail, now) = (Tail::default(), clock::instant());
        tail.answer(issued(10, &["slow"]), now);
        read(&mut tail, &[1, 10]);
        tail.answer(issued(10, &[]), now);
        let spans = tail.spans(None);
        tail.learn(&[(spans[0], vec![2, 3], true), (spans[1], vec![], false)]);
        assert_eq!(tail.floor(), 0);
        assert!(tail.is_new(4) && !tail.is_new(3));
        read(&mut tail, &[4, 5]);
        assert_eq!(tail.complete_to(), 10);
    }

    #[test]
    fn one_that_joins_from_behind_is_read_to_and_teaches_nothing_wrong() {
        let (mut tail, now) = (Tail::default(), clock::instant());
        tail.answer(issued(20, &["slow"]), now);
        read(&mut tail, &[1, 2, 3, 20]);
        let spans = tail.spans(Some(1));
        assert_eq!(spans, [Span { after: 1, until: i64::MAX }]);
        // It ended early: the gap beyond is still one.
        assert_eq!(tail.learn(&[(spans[0], vec![2, 3], true)]), 3);
        assert_eq!(tail.head(), 20);
        assert!(tail.is_new(10) && !tail.is_new(2) && !tail.is_new(20));
    }

    #[test]
    fn one_that_joins_and_does_not_come_to_the_head_raises_the_floor_no_further_than_it_came() {
        let (mut tail, now) = (Tail::default(), clock::instant());
        tail.answer(issued(20, &["slow"]), now);
        read(&mut tail, &[1, 2, 3, 20]);
        tail.answer(issued(20, &[]), now);
        let spans = tail.spans(Some(1));
        tail.learn(&[(spans[0], vec![2, 3], true)]);
        assert_eq!(tail.floor(), 3);
        assert!(tail.is_new(10), "it may have been committed by now");
        read(&mut tail, &[10]);
        assert_eq!(tail.complete_to(), 20);
    }

    #[test]
    fn the_floor_comes_to_the_head_also_where_nothing_is_left_to_read() {
        let (mut tail, now) = (Tail::default(), clock::instant());
        tail.answer(issued(2, &["slow"]), now);
        read(&mut tail, &[1, 2]);
        assert_eq!(tail.complete_to(), 0);
        tail.answer(issued(2, &[]), now);
        assert_eq!((tail.is_stale(), tail.complete_to()), (false, 2));
    }

    #[test]
    fn gaps_stay_few_however_many_there_are() {
        let (mut tail, now) = (Tail::default(), clock::instant());
        tail.answer(issued(10_000, &["slow"]), now);
        let even: Vec<i64> = (1..5_000).map(|n| n * 2).collect();
        read(&mut tail, &even);
        assert!(tail.spans(None).len() <= GAPS_MAX + 1);
        assert!(even.iter().all(|seq| tail.is_new(seq - 1)), "no gap is forgotten");
    }
}
