-- Ranges are made ahead, by whoever notices that few numbers are left: never may one be missing for what can be numbered next.

create function sluice.ensure_ranges(retention interval default '300 days') returns integer
language plpgsql security definer set search_path = sluice, pg_temp as $$
declare
    used bigint; recent bigint; average numeric; size bigint; ahead bigint;
    ends bigint; next_number integer; made integer := 0; part text;
begin
    perform pg_advisory_xact_lock(hashtext('sluice.ranges'));
    select last_value into used from sluice.event_seq;
    -- How many numbers an hour takes: by the last ten thousand, and on the whole.
    select coalesce(36000000 / greatest(extract(epoch from now() - e.received_at), 0.1), 0)::bigint into recent
      from (select received_at from sluice.log where seq <= used - 10000 order by seq desc limit 1) e;
    -- The first days say little of the years.
    select coalesce(max((used - created_seq) / (extract(epoch from now() - created_at) / 3600)), 0) into average
      from (select created_seq, created_at from sluice.ranges order by number limit 1) r where created_at < now() - interval '7 days';
    recent := coalesce(recent, 0);
    -- Ten or so within what is kept, and no more than four for a busy hour.
    size := greatest(1000000, recent / 4, average * extract(epoch from retention) / 3600 / 10);
    ahead := greatest(1000000, recent);
    loop
        select max(until_seq), max(number) + 1 into ends, next_number from sluice.ranges;
        exit when ends > used + ahead;
        foreach part in array array['log', 'payloads', 'delivery_state', 'attempts'] loop
            -- LIKE and ATTACH, because CREATE … PARTITION OF would wait for every open SELECT, and every insert for it.
            execute format('create table sluice.%I (like sluice.%I including all)', part || '_' || next_number, part);
            execute format('alter table sluice.%I attach partition sluice.%I for values from (%s) to (%s)',
                           part, part || '_' || next_number, ends, ends + size);
        end loop;
        insert into sluice.ranges (number, from_seq, until_seq, created_seq) values (next_number, ends, ends + size, used);
        made := made + 1;
    end loop;
    return made;
end $$;
comment on function sluice.ensure_ranges(interval) is
    'Makes ranges until an hour''s numbers are free, a million at least, and returns how many it made: about ten of them within `retention`. Waits for nobody who reads or stores.';

-- After a restore of the data alone, or a switch to a copy, the sequence can be behind what has its numbers already.
create function sluice.advance_sequence() returns bigint language plpgsql security definer set search_path = sluice, pg_temp as $$
declare
    top bigint;
begin
    perform pg_advisory_xact_lock(hashtext('sluice.ranges'));
    select greatest((select max(seq) from sluice.log), (select max(event_seq) from sluice.delivery_state), (select max(event_seq) from sluice.payloads),
                    (select max(settled_to) from sluice.lanes)) into top;
    if top > (select case when is_called then last_value else last_value - 1 end from sluice.event_seq) then
        perform setval('sluice.event_seq', top);
    end if;
    return top;
end $$;
comment on function sluice.advance_sequence() is 'Sees to it that no number is given out that something has already; returns the highest of these.';

-- What there is, and what keeps each range from being dropped.
create function sluice.range_report(before timestamptz)
returns table (number integer, until_seq bigint, newest_received_at timestamptz, bytes bigint, payload_bytes bigint, payloads_gone boolean, kept_by text)
language plpgsql security definer set search_path = sluice, pg_temp as $$
#variable_conflict use_column
declare
    r record; used bigint; waits_for record; pending boolean; part text;
begin
    select last_value into used from sluice.event_seq;
    for r in select * from sluice.ranges where detached_at is null order by ranges.number loop
        number := r.number; until_seq := r.until_seq; payloads_gone := r.payloads_detached_at is not null; kept_by := null; bytes := 0; payload_bytes := 0;
        foreach part in array array['log', 'payloads', 'delivery_state', 'attempts'] loop
            bytes := bytes + coalesce(pg_total_relation_size(to_regclass(format('sluice.%I', part || '_' || r.number))), 0);
        end loop;
        if not payloads_gone then
            payload_bytes := pg_total_relation_size(to_regclass(format('sluice.%I', 'payloads_' || r.number)));
        end if;
        select e.received_at into newest_received_at from sluice.log e
         where e.seq < r.until_seq and e.seq >= coalesce(r.from_seq, 0) order by e.seq desc limit 1;
        if r.until_seq > used then
            kept_by := 'it is being filled';
        elsif newest_received_at >= before then
            kept_by := 'its newest event is of ' || newest_received_at;
        else
            select l.sink, min(l.settled_to) as settled_to into waits_for
              from sluice.lanes l join sluice.sinks s on s.name = l.sink and s.retired_at is null
             where l.settled_to < r.until_seq - 1
               -- A sink that is owed nothing of it need not have settled it.
               and exists (select from sluice.subscriptions u where u.sink = l.sink and u.from_seq < r.until_seq and u.until_seq > l.settled_to + 1)
             group by l.sink order by 2 limit 1;
            execute format('select exists (select from sluice.%I where status = ''pending'')', 'delivery_state_' || r.number) into pending;
            if waits_for.sink is not null then
                kept_by := format('sink %s has settled it up to %s only', waits_for.sink, waits_for.settled_to);
            elsif pending then
                kept_by := 'deliveries in it are pending';
            end if;
        end if;
        return next;
    end loop;
end $$;
comment on function sluice.range_report(timestamptz) is 'Every range, oldest first, and what keeps it from being dropped if all received before that time may go; null: nothing.';

create function sluice.detach_range(range_number integer, before timestamptz, only_payloads boolean default false) returns text
language plpgsql security definer set search_path = sluice, pg_temp set lock_timeout = '50ms' as $$
declare
    part text;
    reason text;
    parts text[] := case when only_payloads then array['payloads'] else array['log', 'payloads', 'delivery_state', 'attempts'] end;
begin
    if not pg_try_advisory_xact_lock(hashtext('sluice.ranges')) then
        return 'another is changing ranges';
    end if;
    begin
        -- In one order, and before it is looked at: nobody can reset anything in between. Who reads or stores waits 50 ms at most.
        foreach part in array array['log', 'payloads', 'delivery_state', 'attempts'] loop
            if part = any (parts) or part = 'delivery_state' then
                execute format('lock table sluice.%I in access exclusive mode', part);
            end if;
        end loop;
    exception when lock_not_available then
        return 'somebody is reading or storing; to be tried again';
    end;
    select r.kept_by into reason from sluice.range_report(before) r where r.number = range_number;
    if not found then
        return 'there is no such range';
    elsif reason is not null then
        return reason;
    end if;
    foreach part in array parts loop
        if part <> 'payloads' or exists (select from sluice.ranges r where r.number = range_number and r.payloads_detached_at is null) then
            execute format('alter table sluice.%I detach partition sluice.%I', part, part || '_' || range_number);
        end if;
    end loop;
    update sluice.ranges r set payloads_detached_at = coalesce(r.payloads_detached_at, now()),
           detached_at = case when not only_payloads then now() end
     where r.number = range_number;
    return null;
end $$;
comment on function sluice.detach_range(integer, timestamptz, boolean) is
    'Takes a range, or its payloads alone, out of sight, if everything in it was received before that time and nothing of it is owed; returns what prevents it, else null.';

create function sluice.drop_detached() returns bigint language plpgsql security definer set search_path = sluice, pg_temp as $$
declare
    r record; part text; name regclass; freed bigint := 0;
begin
    if not pg_try_advisory_xact_lock(hashtext('sluice.ranges')) then
        return 0;
    end if;
    for r in select * from sluice.ranges where payloads_detached_at is not null loop
        foreach part in array array['log', 'payloads', 'delivery_state', 'attempts'] loop
            name := to_regclass(format('sluice.%I', part || '_' || r.number));
            if name is not null and (part = 'payloads' or r.detached_at is not null) then
                freed := freed + pg_total_relation_size(name);
                execute format('drop table %s', name);
            end if;
        end loop;
    end loop;
    delete from sluice.ranges where detached_at is not null;
    return freed;
end $$;
comment on function sluice.drop_detached() is 'Drops the tables of what was detached, and returns their size in bytes. Nobody can see them any more, so nobody waits.';
revoke execute on function sluice.ensure_ranges(interval), sluice.advance_sequence(), sluice.range_report(timestamptz), sluice.detach_range(integer, timestamptz, boolean),
    sluice.drop_detached() from public;
