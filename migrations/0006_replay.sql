-- Replay is a status reset. The trigger on deliveries does the work; these are the other two ways to ask for it.

-- Owes an event to every sink that subscribes to its type. The rows count as replays: they came at an operator's
-- request, outside the order of their key.
create function sluice.route(seq bigint) returns bigint language sql as $$
    with routed as (
        insert into sluice.deliveries (event_seq, sink, lane, due_at, generation)
        select e.seq, s.name, e.lane, now(), 1
          from sluice.events e join sluice.sinks s on s.events is null or e.type = any (s.events)
         where e.seq = route.seq and e.quarantine is null and s.retired_at is null
        on conflict do nothing
        returning 1)
    select count(*) from routed
$$;
comment on function sluice.route(bigint) is 'Routes a stored event to the sinks that subscribe to it now; returns how many deliveries that made.';

create function sluice.outbox_update() returns trigger language plpgsql as $$
begin
    if (new.seq, new.source, new.event_id, new.type, new.company_id, new.received_at, new.quarantine)
       is distinct from (old.seq, old.source, old.event_id, old.type, old.company_id, old.received_at, old.quarantine) then
        raise exception 'sluice.outbox: only status can be changed'
            using errcode = 'feature_not_supported', hint = 'update sluice.outbox set status = ''pending'' where event_id = …';
    end if;
    if new.status = 'pending' then
        if old.status = 'quarantined' then
            -- Release: the operator vouches for the event. Where a genuine event holds the id, it stays as it is.
            if exists (select from sluice.events e where e.source = old.source and e.event_id = old.event_id and e.quarantine is null) then
                raise notice 'event % (seq %) stays quarantined: another event has its id', old.event_id, old.seq;
                return null;
            end if;
            update sluice.events e set quarantine = null where e.seq = old.seq;
        end if;
        update sluice.deliveries d set status = 'pending' where d.event_seq = old.seq;
        if not found then
            perform sluice.route(old.seq);
            perform pg_notify('sluice_control', 'replay');
        end if;
    elsif new.status in ('delivered', 'dead', 'skipped') then
        update sluice.deliveries d set status = new.status where d.event_seq = old.seq and d.status = 'pending';
    else
        raise exception 'sluice.outbox: status can be set to pending, delivered, dead or skipped, not to %', new.status
            using errcode = 'invalid_parameter_value';
    end if;
    return new;
end $$;
comment on function sluice.outbox_update() is 'Passes a change of outbox.status on to the event''s deliveries; routes the event where it has none.';

create trigger outbox_update instead of update on sluice.outbox
    for each row execute function sluice.outbox_update();

-- Without this, Postgres would pass them on to events, and leave what is owed without its event.
create function sluice.outbox_refuse() returns trigger language plpgsql as $$
begin
    raise exception 'sluice.outbox: only status can be changed; rows are neither inserted nor deleted here'
        using errcode = 'feature_not_supported', hint = 'docs/OPERATING.md, Retention and erasure, says what can be deleted, and how';
end $$;
comment on function sluice.outbox_refuse() is 'Refuses to insert into or delete from the outbox.';

create trigger outbox_refuse instead of insert or delete on sluice.outbox
    for each row execute function sluice.outbox_refuse();

create function sluice.replay(sink text default null, since timestamptz default null, until timestamptz default null,
                              status text default 'dead', dry_run boolean default false)
returns bigint language plpgsql as $$
#variable_conflict use_column
declare
    first_seq bigint; last_seq bigint; n bigint;
begin
    if replay.status not in ('pending', 'delivered', 'dead', 'skipped') then
        raise exception 'sluice.replay: status is pending, delivered, dead or skipped, not %', replay.status
            using errcode = 'invalid_parameter_value';
    end if;
    if replay.sink is not null and not exists (select from sluice.sinks s where s.name = replay.sink) then
        raise exception 'sluice.replay: there is no sink named %', replay.sink
            using errcode = 'invalid_parameter_value', hint = 'select name from sluice.sinks';
    end if;
    -- Time to positions first: seq follows received_at to within a commit, so a range of seq narrows the scan,
    -- and the exact times are checked on what is left.
    select min(e.seq), max(e.seq) into first_seq, last_seq from sluice.events e
     where (replay.since is null or e.received_at >= replay.since) and (replay.until is null or e.received_at < replay.until);
    if replay.dry_run then
        select count(*) into n from sluice.deliveries d join sluice.events e on e.seq = d.event_seq
         where d.status = replay.status and (replay.sink is null or d.sink = replay.sink)
           and d.event_seq between first_seq and last_seq
           and (replay.since is null or e.received_at >= replay.since) and (replay.until is null or e.received_at < replay.until);
    else
        update sluice.deliveries d set status = 'pending' from sluice.events e
         where e.seq = d.event_seq and d.status = replay.status and (replay.sink is null or d.sink = replay.sink)
           and d.event_seq between first_seq and last_seq
           and (replay.since is null or e.received_at >= replay.since) and (replay.until is null or e.received_at < replay.until);
        get diagnostics n = row_count;
    end if;
    return n;
end $$;
comment on function sluice.replay(text, timestamptz, timestamptz, text, boolean) is
    'Resets deliveries of one sink (null: of all) received in [since, until) that are in the given status, and returns how many; dry_run only counts.';
