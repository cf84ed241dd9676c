-- The fast path of ingest: a batch of which no id is taken. Asking first whether an id is there (on conflict do nothing) costs a fifth of
-- storing an event, and nearly every id is new; so here the unique index is left to object, and then nothing of the batch is stored.
-- A function, because an error that is caught within the server leaves no line in its log: such a line would name the id.

create function sluice.store_events(
    source text[], event_id text[], derived_id boolean[], type text[], company_id text[], order_key text[], lane smallint[],
    payload_hash bytea[], payload bytea[], headers text[]
) returns boolean language plpgsql as $$
#variable_conflict use_column
begin
    with input as materialized (
        -- Numbered here, in the order of arrival.
        select nextval('sluice.event_seq') as seq, i.*
          from unnest(store_events.source, store_events.event_id, store_events.derived_id, store_events.type, store_events.company_id,
                      store_events.order_key, store_events.lane, store_events.payload_hash, store_events.payload, store_events.headers)
               as i(source, event_id, derived_id, type, company_id, order_key, lane, payload_hash, payload, headers)
    ), named as (
        insert into sluice.event_ids (seq, lane, event_id, source, payload_hash)
        select i.seq, i.lane, i.event_id, i.source, i.payload_hash from input i
    ), logged as (
        insert into sluice.log (seq, source, event_id, derived_id, type, company_id, order_key, lane)
        select i.seq, i.source, i.event_id, i.derived_id, i.type, i.company_id, i.order_key, i.lane from input i
    )
    insert into sluice.payloads (event_seq, payload, headers)
    select i.seq, i.payload, i.headers::jsonb from input i;
    return true;
exception when unique_violation then
    return false;
end $$;
comment on function sluice.store_events(text[], text[], boolean[], text[], text[], text[], smallint[], bytea[], bytea[], text[]) is
    'Stores a batch of events with payloads: all of it (true) or, where an id is taken, nothing (false).';
revoke execute on function sluice.store_events(text[], text[], boolean[], text[], text[], text[], smallint[], bytea[], bytea[], text[]) from public;

-- Small tables are not analyzed by themselves, and are taken for large ones: then each look at the backlog is compiled first.
analyze sluice.sinks, sluice.subscriptions, sluice.lanes;
