-- The log is the queue (version 0.2.0). Events are the log, and a fresh delivery has no row: of each sink's lane, lanes.settled_to says up to
-- where every event is settled, and what lies beyond it, is subscribed to and has no row in delivery_state is owed. There is no way back.
--
-- The tables of 0.1.0 become the first range, as they are: nothing is copied but the ids. Receiving and delivering stand still meanwhile.

lock table sluice.events, sluice.payloads, sluice.deliveries, sluice.attempts, sluice.sinks, sluice.lanes, sluice.workers
    in access exclusive mode;

-- Rights on the tables of 0.1.0 must not live on under other names: `sluice migrate --roles` gives those of this version.
do $$
declare
    grant_ record;
begin
    for grant_ in
        select distinct c.relname, a.grantee::regrole::text as grantee
          from pg_class c cross join lateral aclexplode(c.relacl) a
         where c.relnamespace = 'sluice'::regnamespace and c.relname in ('events', 'payloads', 'deliveries', 'attempts')
           and a.grantee <> c.relowner and a.grantee <> 0
        union all
        select distinct c.relname, t.grantee::regrole::text
          from pg_class c join pg_attribute n on n.attrelid = c.oid cross join lateral aclexplode(n.attacl) t
         where c.relnamespace = 'sluice'::regnamespace and c.relname in ('events', 'payloads', 'deliveries', 'attempts')
           and t.grantee <> c.relowner and t.grantee <> 0
    loop
        execute format('revoke all on sluice.%I from %s', grant_.relname, grant_.grantee);
    end loop;
end $$;

drop view sluice.outbox, sluice.bodies, sluice.backlog, sluice.dead_letters, sluice.repeats;
drop function sluice.timeline(text), sluice.route(bigint), sluice.outbox_update(), sluice.outbox_refuse(),
              sluice.replay(text, timestamptz, timestamptz, text, boolean),
              sluice.store_events(text[], text[], boolean[], text[], text[], text[], smallint[], bytea[], bytea[], text[]);
drop function sluice.delivery_reset(), sluice.deliveries_changed(), sluice.delivery_counted(), sluice.event_released() cascade;

-- Ids apart: the dedupe memory outlives the ranges, and finds an event by its id alone.
create table sluice.event_ids (
    seq             bigint   not null,
    quarantined_seq bigint   not null default 0,
    lane            smallint not null,
    event_id        text     collate "C" not null,
    source          text     collate "C" not null,
    payload_hash    bytea    not null
);
insert into sluice.event_ids (seq, quarantined_seq, lane, event_id, source, payload_hash)
select seq, case when quarantine is null then 0 else seq end, lane, event_id, source, payload_hash from sluice.events order by events.seq;
alter table sluice.event_ids add primary key (event_id, source, quarantined_seq);

comment on table  sluice.event_ids is 'Which event holds which id: the memory that tells a redelivery from a new event. Kept for ever.';
comment on column sluice.event_ids.seq is 'log.seq.';
comment on column sluice.event_ids.quarantined_seq is '0: the event that holds the id. Otherwise its own seq: a quarantined event, which never holds its id against a genuine one.';
comment on column sluice.event_ids.lane is 'log.lane.';
comment on column sluice.event_ids.event_id is 'The provider''s id, 1-200 printable ASCII characters.';
comment on column sluice.event_ids.source is 'Name of the [[source]] that received it.';
comment on column sluice.event_ids.payload_hash is 'First 16 bytes of SHA-256 of the payload: tells a redelivery from another event under the same id, also after erasure.';

-- The same quarantined request again, or the same event signed anew, is not another row.
create table sluice.quarantined_ids (
    seq          bigint not null,
    source       text   collate "C" not null,
    event_id     text   collate "C" not null,
    request_hash bytea  not null,
    payload_hash bytea  not null
);
insert into sluice.quarantined_ids (seq, source, event_id, request_hash, payload_hash)
select seq, source, event_id, request_hash, payload_hash from sluice.events where quarantine is not null and request_hash is not null;
create unique index quarantined_ids_request on sluice.quarantined_ids (source, request_hash);
create unique index quarantined_ids_id on sluice.quarantined_ids (source, event_id, payload_hash);

comment on table  sluice.quarantined_ids is 'The same for quarantined requests: which ones are stored already. Kept for ever.';
comment on column sluice.quarantined_ids.seq is 'log.seq.';
comment on column sluice.quarantined_ids.source is 'Name of the [[source]] that received it.';
comment on column sluice.quarantined_ids.event_id is 'The id that it came with, or the one that was derived.';
comment on column sluice.quarantined_ids.request_hash is 'First 16 bytes of SHA-256 of timestamp:payload: the same request again is a duplicate.';
comment on column sluice.quarantined_ids.payload_hash is 'First 16 bytes of SHA-256 of the payload: the same event signed anew is a duplicate.';

-- The log itself, by ranges of seq. No default range: it would stand in the way of detaching one, and of making the next.
create table sluice.log (
    seq         bigint      not null primary key,
    received_at timestamptz not null default now(),
    lane        smallint    not null,
    derived_id  boolean     not null default false,
    source      text        not null,
    event_id    text        not null,
    type        text,
    company_id  text,
    order_key   text,
    quarantine  text
) partition by range (seq);
create index log_received_at on sluice.log using brin (received_at) with (pages_per_range = 32, autosummarize = on);
create index log_quarantined on sluice.log (seq) where quarantine is not null;

comment on table  sluice.log is 'The log: one row an event, written once, in the order of arrival. sluice.events shows it. Never changed but by quarantine''s release and by erasure.';
comment on column sluice.log.seq is 'Position in the log. Follows arrival; gaps are duplicates that were turned away.';
comment on column sluice.log.received_at is 'When the event was committed, by the database''s clock.';
comment on column sluice.log.lane is 'FNV-1a 64 of order_key (of event_id where it is null) mod 64: which slice of a sink''s deliveries the event belongs to.';
comment on column sluice.log.derived_id is 'True where the request carried no usable event id, so that event_id is a hash of timestamp and body.';
comment on column sluice.log.source is 'Name of the [[source]] that received it: the last part of the route.';
comment on column sluice.log.event_id is 'The provider''s id. To look one up, ask sluice.events, which goes by event_ids.';
comment on column sluice.log.type is 'Event type as the payload names it, for example course.completed; null where the payload names none.';
comment on column sluice.log.company_id is 'Company as the payload names it; null where it names none.';
comment on column sluice.log.order_key is 'company/user: deliveries of one key are tried in the order of seq. Null without a user: unordered.';
comment on column sluice.log.quarantine is 'Why the event is held back from every sink; null for an event that is not.';

alter table sluice.events rename to log_0;
alter table sluice.log_0 drop constraint events_lane_check, alter column seq drop default, drop column payload_hash, drop column request_hash;
drop index sluice.events_id;
alter index sluice.events_pkey rename to log_0_pkey;
alter index sluice.events_received_at rename to log_0_received_at_idx;

alter table sluice.payloads rename to payloads_0;
alter index sluice.payloads_pkey rename to payloads_0_pkey;
create table sluice.payloads (
    event_seq bigint not null primary key,
    payload   bytea  not null,
    headers   jsonb  not null
) partition by range (event_seq);
comment on table  sluice.payloads is 'The exact signed bytes of each event, and what verifies them again.';
comment on column sluice.payloads.event_seq is 'log.seq.';
comment on column sluice.payloads.payload is 'The request body, byte for byte as it was signed.';
comment on column sluice.payloads.headers is 'signature, timestamp, event_id (as the request carried them) and traceparent: with the secret, enough to verify the payload again.';

alter table sluice.deliveries rename to delivery_state_0;
alter index sluice.deliveries_pkey rename to delivery_state_0_pkey;
alter table sluice.delivery_state_0 rename constraint deliveries_status_check to delivery_state_status_check;
alter table sluice.delivery_state_0 add column key bigint;
drop index sluice.deliveries_fresh, sluice.deliveries_waiting, sluice.deliveries_replay, sluice.deliveries_dead;

create table sluice.delivery_state (
    event_seq    bigint      not null,
    due_at       timestamptz,
    delivered_at timestamptz,
    attempts     integer     not null default 0,
    generation   integer     not null default 0,
    lane         smallint    not null,
    last_status  smallint,
    sink         text        not null,
    status       text        not null default 'pending'
                 constraint delivery_state_status_check check (status in ('pending', 'delivered', 'dead', 'skipped')),
    last_error   text,
    key          bigint,
    primary key (event_seq, sink)
) partition by range (event_seq);
-- What waits, by time; replays apart, so that a million of them never stand in front of one event's retry. The predicates are literals on
-- purpose: a row that is done is in none of these but the dead.
create index delivery_state_waiting on sluice.delivery_state (sink, lane, due_at, event_seq)
    where status = 'pending' and due_at is not null and generation = 0;
create index delivery_state_replay on sluice.delivery_state (sink, lane, due_at, event_seq)
    where status = 'pending' and due_at is not null and generation > 0;
-- What waits, by order key: the first of each is its head, the others are parked behind it.
create index delivery_state_keys on sluice.delivery_state (sink, lane, key, event_seq)
    where status = 'pending' and key is not null;
create index delivery_state_pending on sluice.delivery_state (sink, event_seq) where status = 'pending';
create index delivery_state_dead on sluice.delivery_state (sink, event_seq) where status = 'dead';
create index delivery_state_newest_pending on sluice.delivery_state (event_seq) where status = 'pending';
create index delivery_state_newest_dead on sluice.delivery_state (event_seq) where status = 'dead';

comment on table  sluice.delivery_state is 'What is on record of deliveries: one row per event and sink, written when there is something to say. A fresh delivery has none. sluice.deliveries shows both.';
comment on column sluice.delivery_state.event_seq is 'log.seq.';
comment on column sluice.delivery_state.sink is 'sinks.name.';
comment on column sluice.delivery_state.lane is 'log.lane, repeated here for the workers'' indexes.';
comment on column sluice.delivery_state.status is 'pending (owed), delivered, dead (given up; last_error says why), skipped (not needed).';
comment on column sluice.delivery_state.attempts is 'Tries counted so far in this generation.';
comment on column sluice.delivery_state.due_at is 'Waiting: not tried before this time. Null while it is pending: parked behind the head of its key, or, without a key, not begun yet.';
comment on column sluice.delivery_state.delivered_at is 'When the sink''s success was recorded.';
comment on column sluice.delivery_state.last_status is 'Status of the sink''s last answer; null where it gave none.';
comment on column sluice.delivery_state.last_error is 'Why the last try failed, or why it was skipped.';
comment on column sluice.delivery_state.generation is 'Raised by every reset. A try that began in an older generation cannot record its outcome.';
comment on column sluice.delivery_state.key is 'key_hash of the order key, while the row waits in the order of its key. Null for replays, and where nothing is ordered.';

create function sluice.key_hash(order_key text) returns bigint language sql immutable strict parallel safe as 'select hashtextextended(order_key, 0)';
comment on function sluice.key_hash(text) is 'The hash by which waiting deliveries of one order key are found together.';

alter table sluice.attempts rename to attempts_0;
alter index sluice.attempts_pkey rename to attempts_0_pkey;
alter table sluice.attempts_0 alter column duration drop not null, alter column error drop not null;
create table sluice.attempts (
    event_seq   bigint      not null,
    generation  integer     not null,
    number      integer     not null,
    started_at  timestamptz not null,
    duration    interval,
    status      smallint,
    sink        text        not null,
    outcome     text        not null,
    error       text,
    response    text,
    primary key (event_seq, sink, generation, number)
) partition by range (event_seq);
comment on table  sluice.attempts is 'One row per failed try, and one for a success that a reset made history. Kept when a delivery is reset.';
comment on column sluice.attempts.event_seq is 'log.seq.';
comment on column sluice.attempts.sink is 'sinks.name.';
comment on column sluice.attempts.generation is 'delivery_state.generation at the time.';
comment on column sluice.attempts.number is 'Which try of this generation: 1 is the first.';
comment on column sluice.attempts.started_at is 'When the try began, by the worker''s clock; of a success, when it was recorded.';
comment on column sluice.attempts.duration is 'How long it took; null for a success, of which that is not kept.';
comment on column sluice.attempts.outcome is 'retry (it will be tried again), dead (given up), or delivered (before a reset).';
comment on column sluice.attempts.status is 'Status of the sink''s answer; null where it gave none.';
comment on column sluice.attempts.error is 'What went wrong, in words; null for a success.';
comment on column sluice.attempts.response is 'The beginning of the sink''s answer, at most 1,000 characters.';

-- The ranges: the same for all four tables.
create table sluice.ranges (
    number      integer     not null primary key,
    from_seq    bigint,
    until_seq   bigint      not null unique,
    created_at  timestamptz not null default now(),
    created_seq bigint      not null,
    payloads_detached_at timestamptz,
    detached_at timestamptz
);
comment on table  sluice.ranges is 'The ranges of seq by which log, payloads, delivery_state and attempts are cut: log_N, payloads_N and so on.';
comment on column sluice.ranges.number is 'N.';
comment on column sluice.ranges.from_seq is 'Its first number; null: it begins before all others.';
comment on column sluice.ranges.until_seq is 'The first number beyond it.';
comment on column sluice.ranges.created_at is 'When it was made.';
comment on column sluice.ranges.created_seq is 'The last number that had been given out by then: with created_at, how fast they go.';
comment on column sluice.ranges.payloads_detached_at is 'When its payloads were taken out of sight; null: they are there.';
comment on column sluice.ranges.detached_at is 'When all of it was taken out of sight; its tables are dropped soon after.';

-- The first one takes in the tables as they were. At least a million numbers are free in it.
do $$
declare
    first_end bigint := (select (last_value / 1000000 + 2) * 1000000 from sluice.event_seq);
    part text[];
begin
    foreach part slice 1 in array array[['log', 'log_0'], ['payloads', 'payloads_0'], ['delivery_state', 'delivery_state_0'], ['attempts', 'attempts_0']] loop
        execute format('alter table sluice.%I attach partition sluice.%I for values from (minvalue) to (%s)', part[1], part[2], first_end);
    end loop;
    insert into sluice.ranges (number, until_seq, created_seq) select 0, first_end, last_value from sluice.event_seq;
end $$;

-- Rows that wait in the order of a key are found by it from now on; of each key the first alone has a time, the others are parked behind it.
update sluice.delivery_state set status = 'dead', last_error = 'its event was deleted'
 where status = 'pending' and not exists (select from sluice.log e where e.seq = event_seq);
update sluice.delivery_state set due_at = now() where status = 'pending' and due_at is null and (attempts > 0 or generation > 0);
-- Those that their sink would not be owed today are read by their time, too.
update sluice.delivery_state d set due_at = now()
  from sluice.log e, sluice.sinks s
 where d.status = 'pending' and d.due_at is null and e.seq = d.event_seq and s.name = d.sink
   and (s.events is not null and coalesce(e.type <> all (s.events), true) or e.quarantine is not null);
update sluice.delivery_state d
   set key = w.key, due_at = case when w.n = 1 then d.due_at end
  from (select d.event_seq, d.sink, sluice.key_hash(e.order_key) as key,
               row_number() over (partition by d.sink, e.order_key order by d.event_seq) as n
          from sluice.delivery_state d join sluice.log e on e.seq = d.event_seq join sluice.sinks s on s.name = d.sink
         where d.status = 'pending' and d.due_at is not null and d.generation = 0 and e.order_key is not null and s.ordered) w
 where d.event_seq = w.event_seq and d.sink = w.sink;

-- A pending row without a time and without a key was fresh in 0.1.0. It counts as if it were not there, and is read where the log has it.
alter table sluice.lanes add column settled_to bigint not null default 0, add column revision integer not null default 1;
comment on column sluice.lanes.settled_to is 'Nothing can still commit at or below it, and each event there that a subscription covers and that is not quarantined has a row in delivery_state. This is ledger: never set it by hand.';
comment on column sluice.lanes.revision is 'sinks.revision: a worker moves settled_to only while it knows the subscriptions of this revision.';

-- Who owes what, from which position on: the union of a sink's intervals counts.
create table sluice.subscriptions (
    sink      text   not null,
    from_seq  bigint not null,
    until_seq bigint not null default 9223372036854775807,
    types     text[],
    primary key (sink, from_seq)
);
comment on table  sluice.subscriptions is 'Which events each sink is owed: those of these types, at positions in [from_seq, until_seq). Kept by a trigger on sinks.';
comment on column sluice.subscriptions.sink is 'sinks.name.';
comment on column sluice.subscriptions.from_seq is 'First position that is owed; 0 for the first sinks ever.';
comment on column sluice.subscriptions.until_seq is 'First position that is not; the largest bigint while it goes on.';
comment on column sluice.subscriptions.types is 'sinks.events of that time; null: all types.';

-- All that was owed before has a row, so the new rules begin behind the last number given out. Sinks that were still to be routed what came
-- before them (owed_earlier) are owed all of it.
do $$
declare
    -- The next number: nobody else can number anything now.
    bound bigint := (select case when is_called then last_value + 1 else last_value end from sluice.event_seq);
begin
    insert into sluice.subscriptions (sink, from_seq, types)
    select name, case when owed_earlier then 0 else bound end, events from sluice.sinks where retired_at is null;
    update sluice.lanes l
       set revision = s.revision, worker = null,
           settled_to = case when s.owed_earlier then 0 else coalesce(f.first - 1, bound - 1) end
      from sluice.sinks s
      left join lateral (select d.lane, min(d.event_seq) as first from sluice.delivery_state d
                          where d.sink = s.name and d.status = 'pending' and d.due_at is null and d.key is null group by d.lane) f on true
     where s.name = l.sink and f.lane is not distinct from l.lane;
    update sluice.lanes l
       set revision = s.revision, worker = null, settled_to = case when s.owed_earlier then 0 else bound - 1 end
      from sluice.sinks s
     where s.name = l.sink
       and not exists (select from sluice.delivery_state d
                        where d.sink = l.sink and d.lane = l.lane and d.status = 'pending' and d.due_at is null and d.key is null);
end $$;
delete from sluice.lanes l where not exists (select from sluice.sinks s where s.name = l.sink);
create index lanes_lane on sluice.lanes (lane, sink);
comment on column sluice.sinks.owed_earlier is 'One of the first sinks ever: it is owed what was stored before it, too.';

-- Workers of 0.1.0 would claim lanes and read nothing: without this they cannot take a lease.
delete from sluice.workers;
alter table sluice.workers add column log_version integer not null;
comment on column sluice.workers.log_version is 'The shape of the log that the worker reads: 2. Keeps workers of 0.1.0 out.';

-- Half full pages were for the second version that every delivery got when it was done. Now most rows have one version.
alter index sluice.delivery_state_0_pkey reset (fillfactor);
alter table sluice.delivery_state_0 reset (autovacuum_vacuum_scale_factor, autovacuum_vacuum_cost_delay, autovacuum_analyze_scale_factor);
