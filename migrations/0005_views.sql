-- What an operator looks at.

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

-- Null instead of an error: a payload may be anything, and one odd row must not fail a query over all of them.
create function sluice.try_jsonb(payload bytea) returns jsonb language plpgsql immutable strict parallel safe as $$
begin
    return convert_from(payload, 'UTF8')::jsonb;
exception when others then
    return null;
end $$;
comment on function sluice.try_jsonb(bytea) is 'The payload as jsonb; null where it is not JSON that Postgres can hold.';

create view sluice.bodies as
select p.event_seq, e.event_id, e.type, sluice.try_jsonb(p.payload) as body
  from sluice.payloads p join sluice.events e on e.seq = p.event_seq;

comment on view   sluice.bodies is 'Payloads as jsonb, to query into.';
comment on column sluice.bodies.event_seq is 'events.seq.';
comment on column sluice.bodies.event_id is 'events.event_id.';
comment on column sluice.bodies.type is 'events.type.';
comment on column sluice.bodies.body is 'The payload as jsonb; null where it is not JSON that Postgres can hold.';

create view sluice.backlog as
select s.name as sink, s.paused, s.breaker, s.breaker_reason, s.breaker_until,
       coalesce(p.pending, 0) as pending, coalesce(p.fresh, 0) as fresh,
       coalesce(p.waiting, 0) as waiting, coalesce(p.due, 0) as due,
       e.received_at as oldest_received_at, now() - e.received_at as lag
  from sluice.sinks s
  left join lateral (
       select count(*) as pending,
              count(*) filter (where d.due_at is null) as fresh,
              count(*) filter (where d.due_at is not null) as waiting,
              count(*) filter (where d.due_at <= now()) as due,
              min(d.event_seq) as oldest
         from sluice.deliveries d where d.sink = s.name and d.status = 'pending') p on true
  left join sluice.events e on e.seq = p.oldest
 where s.retired_at is null or p.pending > 0;

comment on view   sluice.backlog is 'What each sink is still owed.';
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

create view sluice.dead_letters as
select d.sink, d.last_status, d.last_error, count(*) as deliveries,
       min(e.received_at) as oldest_received_at, max(e.received_at) as newest_received_at,
       max(e.event_id) as example_event_id
  from sluice.deliveries d join sluice.events e on e.seq = d.event_seq
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

create view sluice.sink_health as
select s.name as sink, s.paused, s.breaker,
       coalesce(sum(c.delivered), 0)::bigint as delivered, coalesce(sum(c.retried), 0)::bigint as retried,
       coalesce(sum(c.dead), 0)::bigint as dead, coalesce(sum(c.skipped), 0)::bigint as skipped,
       round(sum(c.duration_ms)::numeric / nullif(sum(c.delivered + c.retried + c.dead), 0), 1) as mean_ms,
       round((sum(c.delivered) + sum(c.skipped))::numeric
             / nullif(sum(c.delivered + c.retried + c.dead + c.skipped), 0), 4) as success_rate
  from sluice.sinks s
  left join sluice.counters c on c.sink = s.name and c.minute > now() - interval '1 hour'
 group by s.name, s.paused, s.breaker;

comment on view   sluice.sink_health is 'Each sink''s last hour, from counters.';
comment on column sluice.sink_health.sink is 'sinks.name.';
comment on column sluice.sink_health.paused is 'sinks.paused.';
comment on column sluice.sink_health.breaker is 'sinks.breaker.';
comment on column sluice.sink_health.delivered is 'Deliveries that succeeded.';
comment on column sluice.sink_health.retried is 'Tries that failed and are tried again.';
comment on column sluice.sink_health.dead is 'Deliveries given up.';
comment on column sluice.sink_health.skipped is 'Deliveries that were not needed.';
comment on column sluice.sink_health.mean_ms is 'Mean duration of a try, in milliseconds.';
comment on column sluice.sink_health.success_rate is 'Share of tries that succeeded, 0 to 1.';

-- The id is not signed, so a captured request can come again under another one. Ingest turns away those that it
-- remembers; this shows every one that slipped through.
create view sluice.repeats as
select e.source, count(*) as events, array_agg(e.event_id order by e.seq) as event_ids,
       min(e.received_at) as first_received_at, max(e.received_at) as last_received_at
  from sluice.payloads p join sluice.events e on e.seq = p.event_seq
 where e.quarantine is null
 group by e.source, p.headers ->> 'timestamp', lower(p.headers ->> 'signature')
having count(*) > 1;

comment on view   sluice.repeats is 'The very same signed request, stored under several event ids. Reads every payload: for an occasional look.';
comment on column sluice.repeats.source is 'events.source.';
comment on column sluice.repeats.events is 'How many events share the signed request.';
comment on column sluice.repeats.event_ids is 'Their ids, the first one received first.';
comment on column sluice.repeats.first_received_at is 'When the first was received.';
comment on column sluice.repeats.last_received_at is 'When the last was.';

create function sluice.timeline(event_id text)
returns table (at timestamptz, what text, sink text, generation integer, attempt integer, detail text)
language sql stable as $$
    select * from (
        select e.received_at, case when e.quarantine is null then 'received' else 'quarantined' end, null::text, null::integer, null::integer,
               concat_ws(' ', e.source, e.type, 'seq', e.seq, e.quarantine)
          from sluice.events e where e.event_id = timeline.event_id
        union all
        select a.started_at, 'attempt failed: ' || a.outcome, a.sink, a.generation, a.number,
               concat_ws(' ', a.status, a.error, '(' || round(extract(epoch from a.duration) * 1000) || ' ms)')
          from sluice.attempts a join sluice.events e on e.seq = a.event_seq where e.event_id = timeline.event_id
        union all
        -- A dead delivery has no time of its own: it died when its last try did.
        select coalesce(d.delivered_at, d.due_at,
                        (select max(a.started_at + a.duration) from sluice.attempts a
                          where a.event_seq = d.event_seq and a.sink = d.sink and a.generation = d.generation),
                        e.received_at), d.status, d.sink, d.generation, d.attempts,
               concat_ws(' ', case when d.status = 'pending' then 'due ' || coalesce(d.due_at::text, 'now') end, d.last_status, d.last_error)
          from sluice.deliveries d join sluice.events e on e.seq = d.event_seq where e.event_id = timeline.event_id
    ) t(at, what, sink, generation, attempt, detail)
    order by at nulls last, sink nulls first, generation, attempt
$$;
comment on function sluice.timeline(text) is 'All that happened to one event, oldest first: received, each failed try, and how each delivery stands.';
