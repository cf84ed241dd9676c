-- What arrived: one narrow row an event, and its exact signed bytes apart, because their readers,
-- their lifetime and their erasure are others.

create sequence sluice.event_seq as bigint;

create table sluice.events (
    seq          bigint      not null default nextval('sluice.event_seq') primary key,
    received_at  timestamptz not null default now(),
    lane         smallint    not null check (lane between 0 and 63),
    derived_id   boolean     not null default false,
    source       text        not null,
    event_id     text        not null,
    type         text,
    company_id   text,
    order_key    text,
    quarantine   text,
    payload_hash bytea       not null,
    request_hash bytea
);

comment on table  sluice.events is 'One row an event, in the order of arrival. Never changed but by quarantine''s release and by erasure.';
comment on column sluice.events.seq is 'Position in the inbox. Follows arrival; gaps are duplicates that were turned away.';
comment on column sluice.events.received_at is 'When the event was committed, by the database''s clock.';
comment on column sluice.events.lane is 'FNV-1a 64 of order_key (of event_id where it is null) mod 64: which slice of a sink''s deliveries the event belongs to.';
comment on column sluice.events.derived_id is 'True where the request carried no usable event id, so that event_id is a hash of timestamp and body.';
comment on column sluice.events.source is 'Name of the [[source]] that received it: the last part of the route.';
comment on column sluice.events.event_id is 'The provider''s id, 1-200 printable ASCII characters; unique with source among the unquarantined.';
comment on column sluice.events.type is 'Event type as the payload names it, for example course.completed; null where the payload names none.';
comment on column sluice.events.company_id is 'Company as the payload names it; null where it names none.';
comment on column sluice.events.order_key is 'company/user: deliveries of one key are tried in the order of seq. Null without a user: unordered.';
comment on column sluice.events.quarantine is 'Why the event is held back from every sink; null for an event that is not.';
comment on column sluice.events.payload_hash is 'First 16 bytes of SHA-256 of the payload: tells a redelivery from another event under the same id, also after erasure.';
comment on column sluice.events.request_hash is 'First 16 bytes of SHA-256 of timestamp:payload. Kept for quarantined events only: the same request again is a duplicate.';

-- A quarantined row never holds the id against a genuine event.
create unique index events_id on sluice.events (source, event_id) where quarantine is null;
-- The same quarantined request again, or the same event signed anew, is not another row.
create unique index events_quarantined_request on sluice.events (source, request_hash) where quarantine is not null;
create unique index events_quarantined_id on sluice.events (source, event_id, payload_hash) where quarantine is not null;
-- Replays ask by time; arrival order makes a BRIN index enough, at no cost to the insert.
create index events_received_at on sluice.events using brin (received_at) with (pages_per_range = 32, autosummarize = on);

create table sluice.payloads (
    event_seq bigint not null primary key,
    payload   bytea  not null,
    headers   jsonb  not null
);

comment on table  sluice.payloads is 'The exact signed bytes of each event, and what verifies them again.';
comment on column sluice.payloads.event_seq is 'events.seq. No foreign key: payloads can be pruned on their own.';
comment on column sluice.payloads.payload is 'The request body, byte for byte as it was signed.';
comment on column sluice.payloads.headers is 'signature, timestamp, event_id (as the request carried them) and traceparent: with the secret, enough to verify the payload again.';
