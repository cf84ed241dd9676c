-- Requests that did not verify, kept for a botched rotation; and the erasure of a person.

create table sluice.unverified (
    id          bigint      not null generated always as identity primary key,
    received_at timestamptz not null default now(),
    bytes       integer     not null,
    source      text        not null,
    payload     bytea       not null,
    headers     jsonb       not null
);

create index unverified_received_at on sluice.unverified (received_at);

comment on table  sluice.unverified is 'Requests whose signature did not verify, kept where [ingest] keep_unverified asks for it. sluice reverify lets in those that verify with the secrets of today.';
comment on column sluice.unverified.id is 'Order of arrival.';
comment on column sluice.unverified.received_at is 'When it came.';
comment on column sluice.unverified.bytes is 'What the payload counts against keep_unverified.';
comment on column sluice.unverified.source is 'Name of the [[source]] that it was sent to.';
comment on column sluice.unverified.payload is 'The request body, byte for byte. Anybody may have sent it.';
comment on column sluice.unverified.headers is 'As payloads.headers.';

create function sluice.erase(person text, company text default null, dry_run boolean default false, out erased bigint, out owed bigint)
language plpgsql as $$
declare
    seqs bigint[];
begin
    -- What is held back may name its person where no profile could read it: any text in it counts.
    select coalesce(array_agg(f.seq) filter (where not f.is_owed), '{}'), count(*) filter (where f.is_owed)
      into seqs, owed
      from (select e.seq, exists (select from sluice.deliveries d where d.event_seq = e.seq and d.status = 'pending') as is_owed
              from sluice.events e join sluice.payloads p on p.event_seq = e.seq
             where (company is null or e.company_id = company)
               and (e.order_key = coalesce(e.company_id, '') || '/' || person
                    or (e.quarantine is not null
                        and jsonb_path_exists(sluice.try_jsonb(p.payload), '$.** ? (@ == $person)', jsonb_build_object('person', person))))) f;
    erased := cardinality(seqs);
    if dry_run then
        return;
    end if;
    delete from sluice.payloads where event_seq = any (seqs);
    update sluice.attempts set error = 'erased', response = null where event_seq = any (seqs);
    update sluice.deliveries set last_error = 'erased' where event_seq = any (seqs) and last_error is not null;
    -- The id and the payload's hash stay: a redelivery is still told from a new event.
    update sluice.events set order_key = null where seq = any (seqs);
    delete from sluice.unverified u
     where jsonb_path_exists(sluice.try_jsonb(u.payload), '$.** ? (@ == $person)', jsonb_build_object('person', person));
    -- Whom it was about is not kept here either.
    insert into sluice.audit (what, rows) values ('person erased', erased);
end $$;
comment on function sluice.erase(text, text, boolean) is 'Removes what is stored of a person but for what is still owed to a sink: payloads, sinks'' answers, the order key. Event ids and hashes stay.';
revoke execute on function sluice.erase(text, text, boolean) from public;

comment on column sluice.audit.what is 'status set (detail: to what), sink paused, sink resumed (detail: which), event released, event routed (detail: seq), person erased, requests let in.';
