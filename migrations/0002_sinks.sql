-- Where events go. Workers register their config's sinks here; ingest reads only names and event types,
-- so it holds no address and no secret.

create table sluice.sinks (
    name           text        not null primary key check (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$'),
    kind           text        not null,
    events         text[],
    ordered        boolean     not null default true,
    revision       integer     not null default 1,
    registered_at  timestamptz not null default now(),
    retired_at     timestamptz,
    owed_earlier   boolean     not null default false,
    paused         boolean     not null default false,
    breaker        text        not null default 'closed' check (breaker in ('closed', 'open', 'half-open')),
    breaker_until  timestamptz,
    breaker_reason text,
    breaker_trips  integer     not null default 0
);

comment on table  sluice.sinks is 'One row a sink. Absence from a config removes nothing.';
comment on column sluice.sinks.name is 'The sink''s name in the config, and in deliveries.';
comment on column sluice.sinks.kind is 'http, file, null …: what delivers to it.';
comment on column sluice.sinks.events is 'Event types that are routed to it; null: all.';
comment on column sluice.sinks.ordered is 'order = "key" in the config: events of one key are tried one after another, in order.';
comment on column sluice.sinks.revision is 'Raised each time a worker registers a changed definition.';
comment on column sluice.sinks.registered_at is 'When a worker first registered it: it is owed what arrived since then.';
comment on column sluice.sinks.retired_at is 'Set when the sink was retired: nothing more is routed to it.';
comment on column sluice.sinks.owed_earlier is 'One of the first sinks ever: what was stored before it is still being routed to it.';
comment on column sluice.sinks.paused is 'The operator''s: true stops all tries, and nothing is lost. Workers never write it.';
comment on column sluice.sinks.breaker is 'The workers'': closed (delivering), open (resting until breaker_until), half-open (one worker probes).';
comment on column sluice.sinks.breaker_until is 'When an open breaker may be probed; in half-open, when the probe counts as lost.';
comment on column sluice.sinks.breaker_reason is 'What opened the breaker.';
comment on column sluice.sinks.breaker_trips is 'How often it opened since it last closed: each time it rests longer.';

create table sluice.counters (
    sink        text        not null,
    minute      timestamptz not null,
    delivered   bigint      not null default 0,
    retried     bigint      not null default 0,
    dead        bigint      not null default 0,
    skipped     bigint      not null default 0,
    duration_ms bigint      not null default 0,
    primary key (sink, minute)
);

comment on table  sluice.counters is 'What each sink answered, by minute, added up over all workers. The last day is kept.';
comment on column sluice.counters.sink is 'sinks.name.';
comment on column sluice.counters.minute is 'Start of the minute.';
comment on column sluice.counters.delivered is 'Deliveries that succeeded.';
comment on column sluice.counters.retried is 'Tries that failed and will be tried again.';
comment on column sluice.counters.dead is 'Deliveries given up.';
comment on column sluice.counters.skipped is 'Deliveries that the sink had no need of.';
comment on column sluice.counters.duration_ms is 'Time spent in all those tries together, in milliseconds.';

-- An operator's pause reaches the workers at once; without the hint they see it within a lease renewal.
create function sluice.sinks_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('sluice_control', 'sinks');
    return null;
end $$;
comment on function sluice.sinks_changed() is 'Tells the workers that a sink was paused, resumed, or changed.';

create trigger sinks_changed after update on sluice.sinks
    for each statement execute function sluice.sinks_changed();
