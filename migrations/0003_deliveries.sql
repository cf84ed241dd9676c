-- What is owed: one narrow row per event and sink, written when it is owed and when it is done.
-- No foreign keys here: they cost the insert a sixth, and stand in the way of dropping old partitions.

create table sluice.deliveries (
    event_seq    bigint      not null,
    due_at       timestamptz,
    delivered_at timestamptz,
    attempts     integer     not null default 0,
    generation   integer     not null default 0,
    lane         smallint    not null,
    last_status  smallint,
    sink         text        not null,
    status       text        not null default 'pending'
                 check (status in ('pending', 'delivered', 'dead', 'skipped')),
    last_error   text,
    -- Half full: the second version, which every delivery gets when it is done, finds room beside the first.
    primary key (event_seq, sink) with (fillfactor = 50)
) with (
    -- Half of all rows are dead versions soon after they were written: clean up early, and never pause.
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.1
);

comment on table  sluice.deliveries is 'One event owed to one sink. Replay is: update … set status = ''pending''.';
comment on column sluice.deliveries.event_seq is 'events.seq.';
comment on column sluice.deliveries.sink is 'sinks.name.';
comment on column sluice.deliveries.lane is 'events.lane, repeated here for the workers'' indexes.';
comment on column sluice.deliveries.status is 'pending (owed), delivered, dead (given up; last_error says why), skipped (not needed).';
comment on column sluice.deliveries.attempts is 'Tries counted so far in this generation.';
comment on column sluice.deliveries.due_at is 'Null: fresh, due since it arrived. Otherwise waiting: not tried before this time.';
comment on column sluice.deliveries.delivered_at is 'When the sink''s success was recorded.';
comment on column sluice.deliveries.last_status is 'Status of the sink''s last answer; null where it gave none.';
comment on column sluice.deliveries.last_error is 'Why the last try failed, or why it was skipped.';
comment on column sluice.deliveries.generation is 'Raised by every reset. A try that began in an older generation cannot record its outcome.';

-- Fresh rows, read onwards by seq; waiting rows, by time. Replays have an index of their own, so that a
-- million of them never stand in front of one event's retry. The predicates are literals on purpose:
-- a row that is done is in none of the three.
create index deliveries_fresh on sluice.deliveries (sink, lane, event_seq)
    where status = 'pending' and due_at is null;
create index deliveries_waiting on sluice.deliveries (sink, lane, due_at, event_seq)
    where status = 'pending' and due_at is not null and generation = 0;
create index deliveries_replay on sluice.deliveries (sink, lane, due_at, event_seq)
    where status = 'pending' and due_at is not null and generation > 0;
create index deliveries_dead on sluice.deliveries (sink, event_seq) where status = 'dead';

create table sluice.attempts (
    event_seq   bigint      not null,
    generation  integer     not null,
    number      integer     not null,
    started_at  timestamptz not null,
    duration    interval    not null,
    status      smallint,
    sink        text        not null,
    outcome     text        not null,
    error       text        not null,
    response    text,
    primary key (event_seq, sink, generation, number)
);

comment on table  sluice.attempts is 'One row per failed try. Kept when a delivery is reset.';
comment on column sluice.attempts.event_seq is 'events.seq.';
comment on column sluice.attempts.sink is 'sinks.name.';
comment on column sluice.attempts.generation is 'deliveries.generation at the time.';
comment on column sluice.attempts.number is 'Which try of this generation: 1 is the first.';
comment on column sluice.attempts.started_at is 'When the try began, by the worker''s clock.';
comment on column sluice.attempts.duration is 'How long it took.';
comment on column sluice.attempts.outcome is 'retry (it will be tried again) or dead (given up).';
comment on column sluice.attempts.status is 'Status of the sink''s answer; null where it gave none.';
comment on column sluice.attempts.error is 'What went wrong, in words.';
comment on column sluice.attempts.response is 'The beginning of the sink''s answer, at most 1,000 characters.';

-- The reset. A worker never names status in a retry, and never sets it to pending, so the WHEN is false for
-- all that workers write; it costs them 2-7 % of finishing, and makes a plain UPDATE complete and safe.
create function sluice.delivery_reset() returns trigger language plpgsql as $$
begin
    new.generation   := old.generation + 1;   -- a try in flight can no longer record its outcome
    new.attempts     := 0;
    new.due_at       := now();
    new.delivered_at := null;
    new.last_status  := null;
    new.last_error   := null;
    return new;
end $$;
comment on function sluice.delivery_reset() is 'Makes an UPDATE to pending complete: attempts 0, due now, error cleared, generation raised.';

create trigger delivery_reset before update of status on sluice.deliveries
    for each row when (new.status = 'pending') execute function sluice.delivery_reset();

-- One hint a statement, on the operator's commit. Workers mark their connections, and need no hint of their own writes.
create function sluice.deliveries_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('sluice_control', 'replay');
    return null;
end $$;
comment on function sluice.deliveries_changed() is 'Wakes the workers after an operator changed deliveries.';

create trigger deliveries_changed after update of status on sluice.deliveries
    for each statement when (coalesce(current_setting('sluice.worker', true), '') <> 'on')
    execute function sluice.deliveries_changed();
