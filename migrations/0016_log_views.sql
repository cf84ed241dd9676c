-- What an operator looks at: the same names as before, over the log.

-- One plain join, so that each question goes by an index: by event_id through event_ids, by seq and newest first through the log.
create view sluice.events as
select e.seq, e.source, i.event_id, e.type, e.company_id, e.order_key, e.lane, e.received_at, e.derived_id, e.quarantine
  from sluice.log e
  left join sluice.event_ids i on i.event_id = e.event_id and i.source = e.source
       and i.quarantined_seq = case when e.quarantine is null then 0 else e.seq end and i.seq = e.seq;
comment on view   sluice.events is 'One row an event, in the order of arrival.';
comment on column sluice.events.seq is 'Position in the log.';
comment on column sluice.events.source is 'Name of the [[source]] that received it.';
comment on column sluice.events.event_id is 'The provider''s id; unique with source among the unquarantined.';
comment on column sluice.events.type is 'Event type as the payload names it.';
comment on column sluice.events.company_id is 'Company as the payload names it.';
comment on column sluice.events.order_key is 'company/user; null without a user.';
comment on column sluice.events.lane is 'Which of the 64 slices of a sink''s deliveries it belongs to.';
comment on column sluice.events.received_at is 'When it was committed.';
comment on column sluice.events.derived_id is 'True where the request carried no usable event id.';
comment on column sluice.events.quarantine is 'Why it is held back from every sink; null: it is not.';

create view sluice.fresh as
select e.seq as event_seq, x.sink
  from sluice.log e cross join lateral (
       select l.sink from sluice.lanes l join sluice.sinks s on s.name = l.sink and s.retired_at is null
        where l.lane = e.lane and e.seq > l.settled_to
          and exists (select from sluice.subscriptions u
                       where u.sink = l.sink and e.seq >= u.from_seq and e.seq < u.until_seq and (u.types is null or e.type = any (u.types)))
          and not exists (select from sluice.delivery_state d where d.event_seq = e.seq and d.sink = l.sink)
       offset 0) x
 where e.seq > (select min(l.settled_to) from sluice.lanes l join sluice.sinks s on s.name = l.sink and s.retired_at is null)
   and e.quarantine is null
 -- No order from outside reaches a branch of a UNION: newest first is what is asked for.
 order by e.seq desc;
comment on view   sluice.fresh is 'Deliveries that are owed and have no row yet, of sinks that are not retired. Reads the log from where the sink that is furthest behind has settled it.';
comment on column sluice.fresh.event_seq is 'log.seq.';
comment on column sluice.fresh.sink is 'sinks.name.';

create view sluice.deliveries as
select d.event_seq, d.sink, d.status, d.attempts, d.due_at, d.delivered_at, d.last_status, d.last_error, d.generation
  from sluice.delivery_state d
union all
select f.event_seq, f.sink, 'pending'::text, 0, null::timestamptz, null::timestamptz, null::smallint, null::text, 0
  from sluice.fresh f;
comment on view   sluice.deliveries is 'One event owed to one sink, fresh ones included. Replay is: UPDATE … SET status = ''pending''.';
comment on column sluice.deliveries.event_seq is 'events.seq.';
comment on column sluice.deliveries.sink is 'sinks.name.';
comment on column sluice.deliveries.status is 'pending (owed), delivered, dead (given up; last_error says why), skipped (not needed).';
comment on column sluice.deliveries.attempts is 'Tries counted so far in this generation.';
comment on column sluice.deliveries.due_at is 'Waiting: not tried before this time. Null while pending: fresh, or parked behind an earlier event of its key.';
comment on column sluice.deliveries.delivered_at is 'When the sink''s success was recorded.';
comment on column sluice.deliveries.last_status is 'Status of the sink''s last answer; null where it gave none.';
comment on column sluice.deliveries.last_error is 'Why the last try failed, or why it was skipped.';
comment on column sluice.deliveries.generation is 'Raised by every reset.';

create view sluice.outbox as
select e.seq, e.source, e.event_id, e.type, e.company_id, e.received_at,
       case when e.quarantine is not null then 'quarantined'
            else coalesce((select case when bool_or(d.status = 'pending')   then 'pending'
                                       when bool_or(d.status = 'dead')      then 'dead'
                                       when bool_or(d.status = 'delivered') then 'delivered'
                                       when bool_or(d.status = 'skipped')   then 'skipped' end
                             from sluice.deliveries d where d.event_seq = e.seq), 'unrouted')
       end as status,
       e.quarantine
  from sluice.events e;
comment on view   sluice.outbox is 'One row an event, with its deliveries rolled up. UPDATE … SET status = ''pending'' replays it.';
comment on column sluice.outbox.seq is 'events.seq.';
comment on column sluice.outbox.source is 'events.source.';
comment on column sluice.outbox.event_id is 'events.event_id.';
comment on column sluice.outbox.type is 'events.type.';
comment on column sluice.outbox.company_id is 'events.company_id.';
comment on column sluice.outbox.received_at is 'events.received_at.';
comment on column sluice.outbox.status is 'quarantined, else unrouted (no delivery), else pending (any), else dead (any), else delivered (any), else skipped.';
comment on column sluice.outbox.quarantine is 'events.quarantine: why it is held back.';

-- It catches errors, which no parallel query can do.
alter function sluice.try_jsonb(bytea) parallel unsafe;

create view sluice.bodies as
select p.event_seq, e.event_id, e.type, sluice.try_jsonb(p.payload) as body
  from sluice.payloads p join sluice.events e on e.seq = p.event_seq;
comment on view   sluice.bodies is 'Payloads as jsonb, to query into.';
comment on column sluice.bodies.event_seq is 'events.seq.';
comment on column sluice.bodies.event_id is 'events.event_id.';
comment on column sluice.bodies.type is 'events.type.';
comment on column sluice.bodies.body is 'The payload as jsonb; null where it is not JSON that Postgres can hold.';

-- Bounded, whatever is stored and however far a sink lags: 100,000 events of the log and 100,000 rows are looked at for each.
create view sluice.backlog as
select s.name as sink, s.paused, s.breaker, s.breaker_reason, s.breaker_until,
       w.pending + f.fresh as pending, w.pending - w.waiting + f.fresh as fresh, w.waiting, w.due,
       o.received_at as oldest_received_at, now() - o.received_at as lag,
       (select e.received_at from sluice.log e where e.seq = f.oldest) as fresh_received_at
  from sluice.sinks s
 cross join lateral (
       select count(*) as pending, count(*) filter (where d.due_at is not null or d.key is not null) as waiting,
              count(*) filter (where d.due_at <= now()) as due, min(d.event_seq) as oldest
         from (select d.event_seq, d.due_at, d.key from sluice.delivery_state d
                where d.sink = s.name and d.status = 'pending' order by d.event_seq limit 100000) d) w
 cross join lateral (
       select count(*) as fresh, min(e.seq) as oldest
         from (select e.seq, e.lane, e.type from sluice.log e
                where e.seq > (select min(settled_to) from sluice.lanes where sink = s.name) and e.quarantine is null
                order by e.seq limit 100000) e
         join sluice.lanes l on l.sink = s.name and l.lane = e.lane and e.seq > l.settled_to
        where s.retired_at is null and exists (select from sluice.subscriptions u
                       where u.sink = s.name and e.seq >= u.from_seq and e.seq < u.until_seq and (u.types is null or e.type = any (u.types)))
          and not exists (select from sluice.delivery_state d where d.event_seq = e.seq and d.sink = s.name)) f
  left join sluice.log o on o.seq = least(w.oldest, f.oldest)
 where s.retired_at is null or w.pending + f.fresh > 0;
comment on view   sluice.backlog is 'What each sink is still owed. Counts look at 100,000 events and 100,000 rows for each sink: beyond that they are a lower bound.';
comment on column sluice.backlog.sink is 'sinks.name.';
comment on column sluice.backlog.paused is 'sinks.paused.';
comment on column sluice.backlog.breaker is 'sinks.breaker.';
comment on column sluice.backlog.breaker_reason is 'sinks.breaker_reason.';
comment on column sluice.backlog.breaker_until is 'sinks.breaker_until.';
comment on column sluice.backlog.pending is 'Deliveries owed.';
comment on column sluice.backlog.fresh is 'Of these, never kept waiting.';
comment on column sluice.backlog.waiting is 'Of these, waiting for a retry, a predecessor, or their turn in a replay.';
comment on column sluice.backlog.due is 'Of the waiting, those whose time has come.';
comment on column sluice.backlog.oldest_received_at is 'When the oldest of them was received.';
comment on column sluice.backlog.lag is 'How long ago that is; null: nothing is owed.';
comment on column sluice.backlog.fresh_received_at is 'When the oldest of the fresh was received.';

create view sluice.dead_letters as
select d.sink, d.last_status, d.last_error, count(*) as deliveries,
       min(e.received_at) as oldest_received_at, max(e.received_at) as newest_received_at,
       max(e.event_id) as example_event_id
  from sluice.delivery_state d join sluice.log e on e.seq = d.event_seq
 where d.status = 'dead'
 group by d.sink, d.last_status, d.last_error;
comment on view   sluice.dead_letters is 'What was given up, and why, grouped by error.';
comment on column sluice.dead_letters.sink is 'sinks.name.';
comment on column sluice.dead_letters.last_status is 'Status of the sink''s last answer.';
comment on column sluice.dead_letters.last_error is 'Why it was given up.';
comment on column sluice.dead_letters.deliveries is 'How many.';
comment on column sluice.dead_letters.oldest_received_at is 'When the oldest of these events was received.';
comment on column sluice.dead_letters.newest_received_at is 'When the newest was.';
comment on column sluice.dead_letters.example_event_id is 'One of them, to look at with timeline().';

create view sluice.repeats as
select e.source, count(*) as events, array_agg(e.event_id order by e.seq) as event_ids,
       min(e.received_at) as first_received_at, max(e.received_at) as last_received_at
  from sluice.payloads p join sluice.log e on e.seq = p.event_seq
 where e.quarantine is null
 group by e.source, p.headers ->> 'timestamp', lower(p.headers ->> 'signature')
having count(*) > 1;
comment on view   sluice.repeats is 'The very same signed request, stored under several event ids. Reads every payload: for an occasional look.';
comment on column sluice.repeats.source is 'events.source.';
comment on column sluice.repeats.events is 'How many events share the signed request.';
comment on column sluice.repeats.event_ids is 'Their ids, the one received first in front.';
comment on column sluice.repeats.first_received_at is 'When the first was received.';
comment on column sluice.repeats.last_received_at is 'When the last was.';

create function sluice.timeline(event_id text)
returns table (at timestamptz, what text, sink text, generation integer, attempt integer, detail text)
language sql stable as $$
    with event as materialized (
        select e.seq, e.source, e.type, e.received_at, e.quarantine from sluice.events e where e.event_id = timeline.event_id)
    select * from (
        select e.received_at, case when e.quarantine is null then 'received' else 'quarantined' end, null::text, null::integer, null::integer,
               concat_ws(' ', e.source, e.type, 'seq', e.seq, e.quarantine)
          from event e
        union all
        select a.started_at, case when a.outcome = 'delivered' then 'delivered' else 'attempt failed: ' || a.outcome end, a.sink, a.generation, a.number,
               concat_ws(' ', a.status, a.error, '(' || round(extract(epoch from a.duration) * 1000) || ' ms)',
                         case when a.outcome = 'delivered' then 'before a reset' end)
          from event e cross join lateral (select * from sluice.attempts a where a.event_seq = e.seq offset 0) a
        union all
        -- A dead delivery has no time of its own: it died when its last try did.
        select coalesce(d.delivered_at, d.due_at,
                        (select max(a.started_at + a.duration) from sluice.attempts a
                          where a.event_seq = d.event_seq and a.sink = d.sink and a.generation = d.generation),
                        e.received_at), d.status, d.sink, d.generation, d.attempts,
               concat_ws(' ', case when d.status = 'pending' then 'due ' || coalesce(d.due_at::text, 'now') end, d.last_status, d.last_error)
          from event e cross join lateral (select * from sluice.deliveries d where d.event_seq = e.seq offset 0) d
    ) t(at, what, sink, generation, attempt, detail)
    order by at nulls last, sink nulls first, generation, attempt
$$;
comment on function sluice.timeline(text) is 'All that happened to one event, oldest first: received, each failed try, each success, and how each delivery stands.';
