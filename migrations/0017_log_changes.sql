-- Changes by hand: a plain UPDATE of status on deliveries or outbox stays complete and safe.

-- Sets the status of one delivery, as the one who read `was` meant it; false: it is something else by now, and nothing was written.
create function sluice.set_status(of_event bigint, of_sink text, was text, becomes text) returns boolean
-- Planned once: on partitions each call would be planned anew, which takes longer than the rest of it.
language plpgsql security definer set search_path = sluice, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
    row sluice.delivery_state;
    event_lane smallint;
begin
    select * into row from sluice.delivery_state d where d.event_seq = of_event and d.sink = of_sink for update;
    if not found then
        if was <> 'pending' then
            return false;
        end if;
        -- Fresh. The event's row is locked first: by that a worker finds which deliveries somebody is changing, since a row that is not
        -- committed yet cannot be seen.
        select e.lane into event_lane from sluice.log e where e.seq = of_event for update;
        if not found then
            return false;
        end if;
        insert into sluice.delivery_state (event_seq, sink, lane, status, generation, due_at)
        values (of_event, of_sink, event_lane, becomes, case when becomes = 'pending' then 1 else 0 end, case when becomes = 'pending' then now() end)
        on conflict do nothing;
        if found then
            return true;
        end if;
        -- It was recorded meanwhile: what counts is what stands there now.
        select * into row from sluice.delivery_state d where d.event_seq = of_event and d.sink = of_sink for update;
    end if;
    if row.status is distinct from was then
        return false;
    end if;
    if becomes = 'pending' then
        if was = 'delivered' then
            insert into sluice.attempts (event_seq, sink, generation, number, started_at, outcome, status)
            values (of_event, of_sink, row.generation, row.attempts, coalesce(row.delivered_at, now()), 'delivered', row.last_status)
            on conflict do nothing;
        end if;
        -- A try in flight can no longer record its outcome, and what is asked for by hand is outside the order of its key.
        update sluice.delivery_state d
           set status = 'pending', generation = d.generation + 1, attempts = 0, due_at = now(), key = null,
               delivered_at = null, last_status = null, last_error = null
         where d.event_seq = of_event and d.sink = of_sink;
    else
        update sluice.delivery_state d set status = becomes, due_at = null, key = null where d.event_seq = of_event and d.sink = of_sink;
    end if;
    return true;
end $$;
comment on function sluice.set_status(bigint, text, text, text) is 'Sets one delivery''s status by hand, unless it has changed since it was read; returns whether it did.';

-- Counted row by row and written down once a statement. The counts live as long as the transaction at most.
create function sluice.count_set(becomes text) returns void language plpgsql as $$
declare
    counter text := 'sluice.set_' || becomes;
begin
    perform set_config(counter, (coalesce(substring(current_setting(counter, true) from '^\d{1,18}$'), '0')::bigint + 1)::text, true);
end $$;
comment on function sluice.count_set(text) is 'Counts a delivery that a statement changes by hand, for the audit.';

create function sluice.deliveries_update() returns trigger language plpgsql security definer set search_path = sluice, pg_temp as $$
begin
    if coalesce(current_setting('sluice.worker', true), '') = 'on' then
        raise exception 'sluice.deliveries: a worker of version 0.1 cannot work on this database'
            using errcode = 'feature_not_supported', hint = 'start workers of the version that migrated it';
    end if;
    if (new.event_seq, new.sink, new.attempts, new.due_at, new.delivered_at, new.last_status, new.last_error, new.generation)
       is distinct from (old.event_seq, old.sink, old.attempts, old.due_at, old.delivered_at, old.last_status, old.last_error, old.generation) then
        raise exception 'sluice.deliveries: only status can be changed'
            using errcode = 'feature_not_supported', hint = 'update sluice.deliveries set status = ''pending'' where …';
    end if;
    if new.status is null or new.status not in ('pending', 'delivered', 'dead', 'skipped') then
        raise exception 'sluice.deliveries: status is pending, delivered, dead or skipped, not %', new.status
            using errcode = 'check_violation';
    end if;
    if not sluice.set_status(old.event_seq, old.sink, old.status, new.status) then
        return null;
    end if;
    perform sluice.count_set(new.status);
    return new;
end $$;
comment on function sluice.deliveries_update() is 'Makes an UPDATE of deliveries.status complete and safe: see set_status.';

create function sluice.deliveries_refuse() returns trigger language plpgsql as $$
begin
    raise exception 'sluice.deliveries: only status can be changed; rows are neither inserted nor deleted here'
        using errcode = 'feature_not_supported',
              hint = 'to owe an event to the sinks that subscribe to it: select sluice.route(seq); to end a delivery: set status = ''skipped''';
end $$;
comment on function sluice.deliveries_refuse() is 'Refuses to insert into or delete from deliveries.';

create function sluice.deliveries_changed() returns trigger language plpgsql
security definer set search_path = sluice, pg_temp as $$
declare
    set_to text;
    n bigint;
begin
    foreach set_to in array array['pending', 'delivered', 'dead', 'skipped'] loop
        n := coalesce(substring(current_setting('sluice.set_' || set_to, true) from '^\d{1,18}$'), '0')::bigint;
        if n > 0 then
            insert into sluice.audit (what, detail, rows) values ('status set', set_to, n);
            perform set_config('sluice.set_' || set_to, '0', true);
        end if;
    end loop;
    perform pg_notify('sluice_control', 'replay');
    return null;
end $$;
comment on function sluice.deliveries_changed() is 'After an operator changed deliveries: leaves an audit row, and wakes the workers.';

create function sluice.deliveries_change() returns trigger language plpgsql as $$
begin
    perform set_config('sluice.set_' || set_to, '0', true) from unnest(array['pending', 'delivered', 'dead', 'skipped']) as s(set_to);
    return null;
end $$;
comment on function sluice.deliveries_change() is 'Begins to count what a statement changes by hand.';

create trigger deliveries_change before update on sluice.deliveries for each statement execute function sluice.deliveries_change();
create trigger deliveries_update instead of update on sluice.deliveries for each row execute function sluice.deliveries_update();
create trigger deliveries_refuse instead of insert or delete on sluice.deliveries for each row execute function sluice.deliveries_refuse();
create trigger deliveries_changed after update on sluice.deliveries for each statement execute function sluice.deliveries_changed();

-- Owes an event to every sink that subscribes to its type now and is not owed it already. The rows count as replays: they came at an
-- operator's request, outside the order of their key.
create function sluice.route(seq bigint) returns bigint language plpgsql security definer set search_path = sluice, pg_temp as $$
declare
    n bigint;
begin
    -- No sink may be registered meanwhile: it would be passed over here and by its subscription.
    perform pg_advisory_xact_lock_shared(hashtext('sluice.sinks'));
    insert into sluice.delivery_state (event_seq, sink, lane, due_at, generation)
    select e.seq, s.name, e.lane, now(), 1
      from sluice.log e join sluice.sinks s on s.events is null or e.type = any (s.events)
     where e.seq = route.seq and e.quarantine is null and s.retired_at is null
       and not exists (select from sluice.fresh f where f.event_seq = route.seq and f.sink = s.name)
    on conflict do nothing;
    get diagnostics n = row_count;
    if n > 0 then
        insert into sluice.audit (what, detail, rows) values ('event routed', route.seq::text, n);
    end if;
    return n;
end $$;
comment on function sluice.route(bigint) is 'Routes a stored event to the sinks that subscribe to it now; returns how many deliveries that made.';

create function sluice.release(of_event bigint) returns boolean language plpgsql security definer set search_path = sluice, pg_temp as $$
begin
    perform pg_advisory_xact_lock_shared(hashtext('sluice.sinks'));
    begin
        update sluice.event_ids i set quarantined_seq = 0
          from sluice.log e
         where e.seq = of_event and i.event_id = e.event_id and i.source = e.source and i.quarantined_seq = e.seq;
    exception when unique_violation then
        return false;
    end;
    update sluice.log e set quarantine = null where e.seq = of_event and e.quarantine is not null;
    if not found then
        return false;
    end if;
    insert into sluice.audit (what, detail, rows) values ('event released', of_event::text, 1);
    -- A row for each sink that it is owed to, wherever that sink has settled the log: those of the subscriptions at its place, and those of now.
    insert into sluice.delivery_state (event_seq, sink, lane, due_at, generation)
    select e.seq, s.name, e.lane, now(), 1
      from sluice.log e cross join sluice.sinks s
     where e.seq = of_event
       and (s.retired_at is null and (s.events is null or e.type = any (s.events))
            or exists (select from sluice.subscriptions u where u.sink = s.name and e.seq >= u.from_seq and e.seq < u.until_seq
                          and (u.types is null or e.type = any (u.types))))
    on conflict do nothing;
    return true;
end $$;
comment on function sluice.release(bigint) is 'Lets an event out of quarantine and owes it to its sinks; false where another event holds its id, or it is not quarantined.';

create function sluice.outbox_update() returns trigger language plpgsql security definer set search_path = sluice, pg_temp as $$
declare
    d record;
    owed boolean := false;
    changed boolean := false;
begin
    if (new.seq, new.source, new.event_id, new.type, new.company_id, new.received_at, new.quarantine)
       is distinct from (old.seq, old.source, old.event_id, old.type, old.company_id, old.received_at, old.quarantine) then
        raise exception 'sluice.outbox: only status can be changed'
            using errcode = 'feature_not_supported', hint = 'update sluice.outbox set status = ''pending'' where event_id = …';
    end if;
    if new.status = 'pending' and old.status = 'quarantined' then
        -- The operator vouches for the event. Where a genuine event holds the id, it stays as it is.
        if not sluice.release(old.seq) then
            raise notice 'event % (seq %) stays quarantined: another event has its id', old.event_id, old.seq;
            return null;
        end if;
    elsif new.status = 'pending' then
        for d in select * from sluice.deliveries v where v.event_seq = old.seq loop
            owed := true;
            if sluice.set_status(d.event_seq, d.sink, d.status, 'pending') then
                perform sluice.count_set('pending');
                changed := true;
            end if;
        end loop;
        if owed and not changed then
            return null;
        elsif not owed then
            perform sluice.route(old.seq);
        end if;
    elsif new.status in ('delivered', 'dead', 'skipped') then
        for d in select * from sluice.deliveries v where v.event_seq = old.seq and v.status = 'pending' loop
            if sluice.set_status(d.event_seq, d.sink, d.status, new.status) then
                perform sluice.count_set(new.status);
            end if;
        end loop;
    else
        raise exception 'sluice.outbox: status can be set to pending, delivered, dead or skipped, not to %', new.status
            using errcode = 'invalid_parameter_value';
    end if;
    return new;
end $$;
comment on function sluice.outbox_update() is 'Passes a change of outbox.status on to the event''s deliveries; routes the event where it has none.';

create function sluice.outbox_refuse() returns trigger language plpgsql as $$
begin
    raise exception 'sluice.outbox: only status can be changed; rows are neither inserted nor deleted here'
        using errcode = 'feature_not_supported', hint = 'docs/OPERATING.md, Retention and erasure, says what can be deleted, and how';
end $$;
comment on function sluice.outbox_refuse() is 'Refuses to insert into or delete from the outbox.';

create trigger outbox_change before update on sluice.outbox for each statement execute function sluice.deliveries_change();
create trigger outbox_update instead of update on sluice.outbox for each row execute function sluice.outbox_update();
create trigger outbox_refuse instead of insert or delete on sluice.outbox for each row execute function sluice.outbox_refuse();
create trigger outbox_changed after update on sluice.outbox for each statement execute function sluice.deliveries_changed();

create function sluice.replay(sink text default null, since timestamptz default null, until timestamptz default null,
                              status text default 'dead', dry_run boolean default false)
returns bigint language plpgsql security definer set search_path = sluice, pg_temp as $$
#variable_conflict use_column
declare
    first_seq bigint := 0; last_seq bigint := 9223372036854775807; n bigint; fresh bigint := 0;
begin
    if replay.status not in ('pending', 'delivered', 'dead', 'skipped') then
        raise exception 'sluice.replay: status is pending, delivered, dead or skipped, not %', replay.status
            using errcode = 'invalid_parameter_value';
    end if;
    if replay.sink is not null and not exists (select from sluice.sinks s where s.name = replay.sink) then
        raise exception 'sluice.replay: there is no sink named %', replay.sink
            using errcode = 'invalid_parameter_value', hint = 'select name from sluice.sinks';
    end if;
    if replay.since is not null or replay.until is not null then
        -- Time to positions first: seq follows received_at to within a commit, so a range of seq narrows the scan, and the exact times are
        -- checked on what is left.
        select min(e.seq), max(e.seq) into first_seq, last_seq from sluice.log e
         where (replay.since is null or e.received_at >= replay.since) and (replay.until is null or e.received_at < replay.until);
    end if;
    if replay.dry_run then
        select count(*) into n from sluice.deliveries d
         where d.status = replay.status and (replay.sink is null or d.sink = replay.sink)
           and d.event_seq between first_seq and last_seq
           and ((replay.since is null and replay.until is null) or exists (
               select from sluice.log e where e.seq = d.event_seq
                  and (replay.since is null or e.received_at >= replay.since) and (replay.until is null or e.received_at < replay.until)));
        return n;
    end if;
    if replay.status = 'pending' then
        -- Fresh ones have no row: they get one. Their events are locked in the same statement, as set_status does first.
        with owed as materialized (
            select f.event_seq, f.sink from sluice.fresh f
             where (replay.sink is null or f.sink = replay.sink) and f.event_seq between first_seq and last_seq
        ), events as materialized (
            select e.seq, e.lane, e.received_at from sluice.log e where e.seq in (select o.event_seq from owed o) for update
        )
        insert into sluice.delivery_state (event_seq, sink, lane, generation, due_at)
        select o.event_seq, o.sink, e.lane, 1, now()
          from owed o join events e on e.seq = o.event_seq
         where (replay.since is null or e.received_at >= replay.since) and (replay.until is null or e.received_at < replay.until)
        on conflict do nothing;
        get diagnostics fresh = row_count;
    end if;
    with chosen as (
        -- A row that was reset or delivered meanwhile is left as it is.
        select d.event_seq, d.sink, d.status, d.generation, d.attempts, d.delivered_at, d.last_status
          from sluice.delivery_state d
         where d.status = replay.status and (replay.sink is null or d.sink = replay.sink)
           and d.event_seq between first_seq and last_seq
           -- Those that have just been made are due already.
           and not (d.status = 'pending' and d.generation = 1 and d.attempts = 0 and d.due_at = now())
           and ((replay.since is null and replay.until is null) or exists (
               select from sluice.log e where e.seq = d.event_seq
                  and (replay.since is null or e.received_at >= replay.since) and (replay.until is null or e.received_at < replay.until)))
           for update of d
    ), history as (
        insert into sluice.attempts (event_seq, sink, generation, number, started_at, outcome, status)
        select c.event_seq, c.sink, c.generation, c.attempts, coalesce(c.delivered_at, now()), 'delivered', c.last_status
          from chosen c where c.status = 'delivered'
        on conflict do nothing
    )
    update sluice.delivery_state d
       set status = 'pending', generation = d.generation + 1, attempts = 0, due_at = now(), key = null,
           delivered_at = null, last_status = null, last_error = null
      from chosen c
     where d.event_seq = c.event_seq and d.sink = c.sink;
    get diagnostics n = row_count;
    n := n + fresh;
    if n > 0 then
        insert into sluice.audit (what, detail, rows) values ('status set', 'pending', n);
    end if;
    perform pg_notify('sluice_control', 'replay');
    return n;
end $$;
comment on function sluice.replay(text, timestamptz, timestamptz, text, boolean) is
    'Resets deliveries of one sink (null: of all) received in [since, until) that are in the given status, and returns how many; dry_run only counts.';

create or replace function sluice.erase_events(person text, company text default null, dry_run boolean default false, out erased bigint, out owed bigint)
language plpgsql as $$
declare
    seqs bigint[];
begin
    -- What is held back may name its person where no profile could read it: any text in it counts.
    select coalesce(array_agg(f.seq) filter (where not f.is_owed), '{}'), count(*) filter (where f.is_owed)
      into seqs, owed
      from (select e.seq, exists (select from sluice.deliveries d where d.event_seq = e.seq and d.status = 'pending') as is_owed
              from sluice.log e join sluice.payloads p on p.event_seq = e.seq
             where (company is null or e.company_id = company)
               and (e.order_key = coalesce(e.company_id, '') || '/' || person
                    or (e.quarantine is not null
                        and jsonb_path_exists(sluice.try_jsonb(p.payload), '$.** ? (@ == $person)', jsonb_build_object('person', person))))) f;
    erased := cardinality(seqs);
    if dry_run then
        return;
    end if;
    delete from sluice.payloads where event_seq = any (seqs);
    update sluice.attempts set error = 'erased', response = null where event_seq = any (seqs) and outcome <> 'delivered';
    update sluice.delivery_state set last_error = 'erased' where event_seq = any (seqs) and last_error is not null;
    -- What its events were applied to is named after the person.
    delete from sluice.applied where event_seq = any (seqs);
    -- The id and the payload's hash stay: a redelivery is still told from a new event.
    update sluice.log set order_key = null where seq = any (seqs);
    delete from sluice.unverified u
     where jsonb_path_exists(sluice.try_jsonb(u.payload), '$.** ? (@ == $person)', jsonb_build_object('person', person));
    -- Whom it was about is not kept here either.
    insert into sluice.audit (what, rows) values ('person erased', erased);
end $$;

-- Which of these deliveries nobody's open transaction holds, by their number in the arrays; locked until this transaction ends. A fresh one
-- has no row to lock: whoever changes it by hand locks its event.
create function sluice.lock_free(event_seqs bigint[], sinks text[]) returns setof integer
language plpgsql security definer set search_path = sluice, pg_temp as $$
begin
    return query
    with asked as materialized (
        select u.event_seq, u.sink, u.n::integer as n from unnest(event_seqs, lock_free.sinks) with ordinality as u(event_seq, sink, n)
    ), events as materialized (
        select e.seq from sluice.log e where e.seq = any (event_seqs) for key share skip locked
    ), recorded as materialized (
        select d.event_seq, d.sink from asked a join sluice.delivery_state d on d.event_seq = a.event_seq and d.sink = a.sink
    ), held as materialized (
        select d.event_seq, d.sink from asked a join sluice.delivery_state d on d.event_seq = a.event_seq and d.sink = a.sink
           for update of d skip locked
    )
    select a.n from asked a
     where case when exists (select from recorded r where r.event_seq = a.event_seq and r.sink = a.sink)
                then exists (select from held h where h.event_seq = a.event_seq and h.sink = a.sink)
                -- An event that was deleted is nobody's.
                else exists (select from events e where e.seq = a.event_seq) or not exists (select from sluice.log e where e.seq = a.event_seq) end;
end $$;
comment on function sluice.lock_free(bigint[], text[]) is 'Locks those of these deliveries that nobody else holds, and returns their numbers.';

revoke execute on all functions in schema sluice from public;
grant execute on function sluice.try_jsonb(bytea), sluice.timeline(text), sluice.key_hash(text) to public;
