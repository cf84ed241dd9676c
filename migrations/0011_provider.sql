-- The provider's side, as far as it shows here: what ingest had to refuse, and what the watchdog of its webhooks saw.

create table sluice.refusals (
    source    text        not null,
    minute    timestamptz not null,
    forbidden bigint      not null default 0,
    unsigned  bigint      not null default 0,
    primary key (source, minute)
);

comment on table  sluice.refusals is 'Requests that ingest refused, by minute, added up over all ingest processes. No row: none. The last two days are kept.';
comment on column sluice.refusals.source is 'Name of the [[source]] that they were sent to.';
comment on column sluice.refusals.minute is 'Start of the minute in which they were written down, at most some seconds after they came.';
comment on column sluice.refusals.forbidden is 'Answered 403: the signature did not verify. Many, and no event: the secret was rotated. A few: anybody can send some.';
comment on column sluice.refusals.unsigned is 'Answered 401: the signature or the timestamp header was missing. Many, and no event: the profile names other headers.';

create table sluice.watchdog (
    only_row       boolean     not null default true primary key check (only_row),
    claimed_at     timestamptz,
    ended_at       timestamptz,
    worker         text,
    checked_at     timestamptz,
    webhooks       integer,
    suspended      integer,
    error          text,
    reactivations  bigint      not null default 0,
    reactivated_at timestamptz,
    reactivated    text[]
);
insert into sluice.watchdog default values;

comment on table  sluice.watchdog is 'One row: what [mindtickle] watchdog saw at the provider. It asks from one worker at a time: whoever claims the round.';
comment on column sluice.watchdog.only_row is 'True: there is one row.';
comment on column sluice.watchdog.claimed_at is 'When a worker last took a round on; null: the watchdog has never been on, or the last round was cut short; then it is anybody''s turn.';
comment on column sluice.watchdog.ended_at is 'When that round ended; the next is due one interval later. Null: it is under way, or its worker died; then another takes over after five minutes more.';
comment on column sluice.watchdog.worker is 'Which worker that was: host:pid.';
comment on column sluice.watchdog.checked_at is 'When the provider last answered.';
comment on column sluice.watchdog.webhooks is 'How many webhooks it then had that are watched.';
comment on column sluice.watchdog.suspended is 'How many of these it had suspended. Each was re-activated, unless error says otherwise.';
comment on column sluice.watchdog.error is 'Why the last round failed; null: it did not.';
comment on column sluice.watchdog.reactivations is 'Webhooks re-activated so far.';
comment on column sluice.watchdog.reactivated_at is 'When the last one was.';
comment on column sluice.watchdog.reactivated is 'Ids of the webhooks that were re-activated then.';
