-- The fast path of ingest: a batch of which no id is taken. Asking first whether an id is there (on conflict do nothing) costs a fifth of
-- storing an event, and nearly every id is new; so here the unique index is left to object, and then nothing of the batch is stored.
-- A function, because an error that is caught within the server leaves no line in its log: such a line would name the id.

create function sluice.store_events(
    source text[], event_id text[], derived_id boolean[], type text[], company_id text[], order_key text[], lane smallint[],
    payload_hash bytea[], payload bytea[], headers text[],
    out sinks text[], out owed bigint[]
) language plpgsql as $$
#variable_conflict use_column
begin
    with input as materialized (
        -- Numbered here, in the order of arrival.
        select nextval('sluice.event_seq') as seq, i.*
          from unnest(store_events.source, store_events.event_id, store_events.derived_id, store_events.type, store_events.company_id,
                      store_events.order_key, store_events.lane, store_events.payload_hash, store_events.payload, store_events.headers)
               as i(source, event_id, derived_id, type, company_id, order_key, lane, payload_hash, payload, headers)
    ), new as (
        insert into sluice.events (seq, source, event_id, derived_id, type, company_id, order_key, lane, payload_hash)
        select i.seq, i.source, i.event_id, i.derived_id, i.type, i.company_id, i.order_key, i.lane, i.payload_hash from input i
    ), kept as (
        insert into sluice.payloads (event_seq, payload, headers)
        select i.seq, i.payload, i.headers::jsonb from input i
    ), owing as (
        insert into sluice.deliveries (event_seq, sink, lane)
        select i.seq, s.name, i.lane
          from input i join sluice.sinks s on s.events is null or i.type = any (s.events)
         where s.retired_at is null
        returning sink
    ), tally as (
        select sink, count(*) as n from owing group by sink
    )
    select coalesce(array_agg(sink), '{}'), coalesce(array_agg(n), '{}') into store_events.sinks, store_events.owed from tally;
exception when unique_violation then
    store_events.sinks := null;
    store_events.owed := null;
end $$;
comment on function sluice.store_events(text[], text[], boolean[], text[], text[], text[], smallint[], bytea[], bytea[], text[]) is
    'Stores a batch of events with payloads and deliveries, all of it or, where an id is taken, nothing: then both results are null.';
revoke execute on function sluice.store_events(text[], text[], boolean[], text[], text[], text[], smallint[], bytea[], bytea[], text[]) from public;

comment on column sluice.watchdog.suspended is 'How many of these it had suspended. Each was re-activated, unless error says otherwise or the round was cut short.';
