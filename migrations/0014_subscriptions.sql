-- A sink's row is all that anybody writes: its lanes and its subscriptions follow by trigger, also from a plain INSERT or UPDATE.

create function sluice.sink_revised() returns trigger language plpgsql as $$
begin
    if new.revision = old.revision and (new.events is distinct from old.events or (new.retired_at is null) <> (old.retired_at is null)) then
        new.revision := old.revision + 1;
    end if;
    return new;
end $$;
comment on function sluice.sink_revised() is 'Raises sinks.revision with each change of what the sink is owed.';
create trigger sink_revised before update on sluice.sinks for each row execute function sluice.sink_revised();

create function sluice.sink_subscribed() returns trigger language plpgsql security definer set search_path = sluice, pg_temp as $$
declare
    bound bigint;
begin
    if tg_op = 'INSERT' then
        -- Its place is behind the last number given out, so that no range waits for it.
        bound := case when new.owed_earlier then 0 else nextval('sluice.event_seq') end;
        insert into sluice.lanes (sink, lane, revision, settled_to)
        select new.name, lane, new.revision, greatest(bound - 1, 0) from generate_series(0, 63) g(lane)
        -- A sink of that name was there before, and its row was deleted.
        on conflict (sink, lane) do update set worker = null, revision = excluded.revision, settled_to = excluded.settled_to;
        delete from sluice.subscriptions where sink = new.name;
        insert into sluice.subscriptions (sink, from_seq, types) values (new.name, bound, new.events);
        return null;
    end if;
    if old.ordered and not new.ordered then
        update sluice.delivery_state set key = null, due_at = coalesce(due_at, now())
         where sink = new.name and status = 'pending' and key is not null;
    elsif new.ordered and not old.ordered then
        update sluice.delivery_state d set key = sluice.key_hash(e.order_key) from sluice.log e
         where d.sink = new.name and d.status = 'pending' and d.due_at is not null and d.generation = 0 and d.key is null and e.seq = d.event_seq;
    end if;
    if old.events is not distinct from new.events and (old.retired_at is null) = (new.retired_at is null) then
        update sluice.lanes set revision = new.revision where sink = new.name and revision <> new.revision;
        return null;
    end if;
    -- First the lanes, then the number: whoever moves settled_to afterwards must know the new rules, and whatever was passed under the old
    -- ones lies below it.
    perform from sluice.lanes where sink = new.name order by lane for update;
    update sluice.lanes set revision = new.revision where sink = new.name;
    bound := nextval('sluice.event_seq');
    update sluice.subscriptions set until_seq = bound where sink = new.name and until_seq > bound;
    if new.retired_at is null then
        insert into sluice.subscriptions (sink, from_seq, types) values (new.name, bound, new.events);
    end if;
    -- Rows of version 0.1.0 that were never begun are found in the log by their type; those of other types, by their time.
    update sluice.delivery_state d set due_at = now()
      from sluice.log e
     where d.sink = new.name and d.status = 'pending' and d.due_at is null and d.key is null and d.attempts = 0 and d.generation = 0
       and e.seq = d.event_seq and new.events is not null and coalesce(e.type <> all (new.events), true);
    return null;
end $$;
comment on function sluice.sink_subscribed() is 'Keeps lanes and subscriptions of a sink: what was owed under its old rules stays owed.';
create trigger sink_subscribed after insert or update on sluice.sinks for each row execute function sluice.sink_subscribed();
revoke execute on function sluice.sink_subscribed(), sluice.sink_revised() from public;
