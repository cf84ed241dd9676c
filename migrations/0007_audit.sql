-- Who changed what by hand: one row a statement. Workers mark their connections, and leave none.

create table sluice.audit (
    id     bigint      not null generated always as identity primary key,
    at     timestamptz not null default now(),
    who    text        not null default session_user,
    what   text        not null,
    detail text,
    rows   bigint      not null
);

comment on table  sluice.audit is 'Every change by hand: replays, statuses, pauses, releases from quarantine.';
comment on column sluice.audit.id is 'Order of the entries.';
comment on column sluice.audit.at is 'When the transaction began.';
comment on column sluice.audit.who is 'The role that was connected.';
comment on column sluice.audit.what is 'status set (detail: to what), sink paused, sink resumed (detail: which), event released, event routed (detail: seq).';
comment on column sluice.audit.detail is 'See what.';
comment on column sluice.audit.rows is 'How many rows it changed.';

-- Counted row by row, because a trigger that is given the changed rows would make Postgres collect them for the workers' own
-- statements, too. The counts live as long as the transaction at most.
create function sluice.delivery_counted() returns trigger language plpgsql as $$
declare
    counter text := 'sluice.set_' || new.status;
begin
    perform set_config(counter, (coalesce(nullif(current_setting(counter, true), ''), '0')::bigint + 1)::text, true);
    return new;
end $$;
comment on function sluice.delivery_counted() is 'Counts the deliveries that a statement changes by hand, for the audit.';

create trigger delivery_counted before update of status on sluice.deliveries
    for each row when (coalesce(current_setting('sluice.worker', true), '') <> 'on')
    execute function sluice.delivery_counted();

create or replace function sluice.deliveries_changed() returns trigger language plpgsql
security definer set search_path = sluice, pg_temp as $$
declare
    set_to text;
    n bigint;
begin
    foreach set_to in array array['pending', 'delivered', 'dead', 'skipped'] loop
        n := coalesce(nullif(current_setting('sluice.set_' || set_to, true), ''), '0')::bigint;
        if n > 0 then
            insert into sluice.audit (what, detail, rows) values ('status set', set_to, n);
            perform set_config('sluice.set_' || set_to, '0', true);
        end if;
    end loop;
    perform pg_notify('sluice_control', 'replay');
    return null;
end $$;
comment on function sluice.deliveries_changed() is 'After an operator changed deliveries: leaves an audit row, and wakes the workers.';

create function sluice.sink_paused() returns trigger language plpgsql
security definer set search_path = sluice, pg_temp as $$
begin
    insert into sluice.audit (what, detail, rows)
    values (case when new.paused then 'sink paused' else 'sink resumed' end, new.name, 1);
    return null;
end $$;
comment on function sluice.sink_paused() is 'Leaves an audit row for each sink that is paused or resumed.';

create trigger sink_paused after update of paused on sluice.sinks
    for each row when (old.paused is distinct from new.paused) execute function sluice.sink_paused();

create function sluice.event_released() returns trigger language plpgsql
security definer set search_path = sluice, pg_temp as $$
begin
    insert into sluice.audit (what, detail, rows) values ('event released', new.seq::text, 1);
    return null;
end $$;
comment on function sluice.event_released() is 'Leaves an audit row for each event that is let out of quarantine.';

create trigger event_released after update of quarantine on sluice.events
    for each row when (old.quarantine is not null and new.quarantine is null) execute function sluice.event_released();

-- An operator's rights end at status: what follows from it is done by these, with their owner's.
create or replace function sluice.route(seq bigint) returns bigint language plpgsql
security definer set search_path = sluice, pg_temp as $$
declare
    n bigint;
begin
    insert into sluice.deliveries (event_seq, sink, lane, due_at, generation)
    select e.seq, s.name, e.lane, now(), 1
      from sluice.events e join sluice.sinks s on s.events is null or e.type = any (s.events)
     where e.seq = route.seq and e.quarantine is null and s.retired_at is null
    on conflict do nothing;
    get diagnostics n = row_count;
    if n > 0 then
        insert into sluice.audit (what, detail, rows) values ('event routed', route.seq::text, n);
    end if;
    return n;
end $$;

alter function sluice.outbox_update() security definer set search_path = sluice, pg_temp;

-- Functions may be called by everybody unless that is taken back. Two are harmless: they show no more than their caller may read.
revoke execute on all functions in schema sluice from public;
grant execute on function sluice.try_jsonb(bytea), sluice.timeline(text) to public;
