-- Who works on what. A lane is one of 64 slices of a sink's deliveries; its owner is the only reader of its rows.
-- Rows of deliveries carry no lease: ownership changes here, seldom.

create table sluice.workers (
    id         bigint      not null generated always as identity primary key,
    name       text        not null,
    epoch      integer     not null,
    sinks      text[]      not null,
    started_at timestamptz not null default now(),
    renewed_at timestamptz not null default now(),
    expires_at timestamptz not null
);

comment on table  sluice.workers is 'One lease a worker process. A process that lost its lease comes back under a new id.';
comment on column sluice.workers.id is 'The lease. lanes.worker names it.';
comment on column sluice.workers.name is 'host:pid, for people.';
comment on column sluice.workers.epoch is 'Which lease of that process this is: above 1, it lost one.';
comment on column sluice.workers.sinks is 'Sinks in that process''s config: it is given lanes of these only.';
comment on column sluice.workers.started_at is 'When the lease was first taken.';
comment on column sluice.workers.renewed_at is 'When it was last renewed.';
comment on column sluice.workers.expires_at is 'When others may take its lanes, by the database''s clock.';

create table sluice.lanes (
    sink   text     not null,
    lane   smallint not null check (lane between 0 and 63),
    worker bigint,
    since  timestamptz not null default now(),
    primary key (sink, lane)
) with (fillfactor = 50);

comment on table  sluice.lanes is 'Who owns each lane of each sink.';
comment on column sluice.lanes.sink is 'sinks.name.';
comment on column sluice.lanes.lane is 'events.lane: 0 to 63.';
comment on column sluice.lanes.worker is 'workers.id; null: handed over, free. An id that is not in workers: its owner died, and the lane is free too.';
comment on column sluice.lanes.since is 'When this changed.';
