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

-- As in 0008, and it clears the table above too.
create or replace function sluice.erase(person text, company text default null, dry_run boolean default false, out erased bigint, out owed bigint)
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
    -- What its events were applied to is named after the person.
    delete from sluice.applied where event_seq = any (seqs);
    -- The id and the payload's hash stay: a redelivery is still told from a new event.
    update sluice.events set order_key = null where seq = any (seqs);
    delete from sluice.unverified u
     where jsonb_path_exists(sluice.try_jsonb(u.payload), '$.** ? (@ == $person)', jsonb_build_object('person', person));
    -- Whom it was about is not kept here either.
    insert into sluice.audit (what, rows) values ('person erased', erased);
end $$;
