-- What sinks that keep a state have been told last of each object, so that no retry and no replay brings back what is over.

create table sluice.applied (
    sink      text        not null,
    object    text        not null,
    event_seq bigint      not null,
    applied_at timestamptz not null default now(),
    primary key (sink, object)
);

comment on table  sluice.applied is 'Of each object that a sink keeps (a user, a record), the newest event that was applied to it. An older one is skipped: superseded.';
comment on column sluice.applied.sink is 'The sink''s name.';
comment on column sluice.applied.object is 'What the sink calls the object, such as user acme/u-1.';
comment on column sluice.applied.event_seq is 'The newest event that it was changed by: events.seq.';
comment on column sluice.applied.applied_at is 'When that was.';
