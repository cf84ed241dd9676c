-- The roles of Sluice, and their rights: run by `sluice migrate --roles`, as often as one likes. They may log in, and have no
-- password until they are given one. The right to migrate stays with the owner alone.
do $$
declare
    role text;
begin
    foreach role in array array['sluice_ingest', 'sluice_worker', 'sluice_operator', 'sluice_reader'] loop
        -- Roles are the whole server's: another database's migration may be making them just now.
        begin
            if not exists (select from pg_roles where rolname = role) then
                execute format('create role %I login', role);
            end if;
        exception when duplicate_object or unique_violation then
            null;
        end;
        execute format('revoke all on all tables in schema sluice from %I', role);
        execute format('revoke all on all sequences in schema sluice from %I', role);
        execute format('revoke all on all functions in schema sluice from %I', role);
        execute format('grant usage on schema sluice to %I', role);
        execute format('grant select on sluice.migrations to %I', role);
    end loop;
end $$;

-- Writes what arrives. Sees no payload, no sink, and nothing of what becomes of an event.
grant insert on sluice.log, sluice.payloads, sluice.event_ids, sluice.quarantined_ids to sluice_ingest;
grant select (seq, quarantined_seq, source, event_id, payload_hash) on sluice.event_ids to sluice_ingest;
grant select (seq) on sluice.quarantined_ids to sluice_ingest;
grant usage on sequence sluice.event_seq to sluice_ingest;
grant execute on function sluice.store_events(text[], text[], boolean[], text[], text[], text[], smallint[], bytea[], bytea[], text[]),
    sluice.ensure_ranges(interval), sluice.advance_sequence() to sluice_ingest;
grant insert (source, bytes, payload, headers), select (id, received_at, bytes), delete on sluice.unverified to sluice_ingest;
grant select, insert, update, delete on sluice.refusals to sluice_ingest;

-- Reads what is owed, and writes what became of it. Changes no event, and no operator's setting.
grant select on sluice.log, sluice.events, sluice.event_ids, sluice.payloads, sluice.delivery_state, sluice.deliveries, sluice.fresh, sluice.attempts,
                sluice.sinks, sluice.subscriptions, sluice.counters, sluice.workers, sluice.lanes, sluice.ranges, sluice.backlog,
                sluice.sink_health to sluice_worker;
grant insert (event_seq, sink, lane, status, attempts, due_at, delivered_at, last_status, last_error, key),
      update (status, attempts, due_at, delivered_at, last_status, last_error, key) on sluice.delivery_state to sluice_worker;
grant insert on sluice.attempts to sluice_worker;
grant execute on function sluice.lock_free(bigint[], text[]), sluice.ensure_ranges(interval), sluice.range_report(timestamptz),
    sluice.detach_range(integer, timestamptz, boolean), sluice.drop_detached() to sluice_worker;
grant insert (name, kind, events, ordered, owed_earlier),
      update (kind, events, ordered, revision, breaker, breaker_until, breaker_reason, breaker_trips) on sluice.sinks to sluice_worker;
grant insert, update, delete on sluice.counters, sluice.workers to sluice_worker;
grant update (worker, since, settled_to) on sluice.lanes to sluice_worker;
grant select on sequence sluice.event_seq to sluice_worker;
grant select, insert, update on sluice.applied to sluice_worker;
grant select, update on sluice.watchdog to sluice_worker;

-- Reads everything but payloads.
grant select on sluice.log, sluice.events, sluice.event_ids, sluice.quarantined_ids, sluice.delivery_state, sluice.deliveries, sluice.fresh,
                sluice.attempts, sluice.sinks, sluice.subscriptions, sluice.counters, sluice.workers, sluice.lanes, sluice.ranges, sluice.audit, sluice.applied,
                sluice.outbox, sluice.backlog, sluice.dead_letters, sluice.sink_health, sluice.repeats, sluice.refusals, sluice.watchdog
    to sluice_reader, sluice_operator;

grant select (id, received_at, source, bytes) on sluice.unverified to sluice_reader, sluice_operator;
grant execute on function sluice.range_report(timestamptz) to sluice_reader, sluice_operator;

-- Replays, sets statuses, pauses. Each leaves a row in sluice.audit.
grant update (status) on sluice.deliveries, sluice.outbox to sluice_operator;
grant update (paused) on sluice.sinks to sluice_operator;
grant execute on function sluice.replay(text, timestamptz, timestamptz, text, boolean), sluice.route(bigint) to sluice_operator;

-- The tables of projections: the worker writes them, and readers see all but addresses.
grant select, insert, update on sluice.learners, sluice.learner_progress, sluice.course_completions, sluice.quiz_results, sluice.certifications to sluice_worker;
grant select on sluice.learner_progress, sluice.course_completions, sluice.quiz_results, sluice.certifications, sluice.leaderboard,
                sluice.team_progress to sluice_reader, sluice_operator;
grant select (company_id, user_id, role, team_id, provisioned_seq, deprovisioned_at, deprovisioned_seq, active) on sluice.learners
    to sluice_reader, sluice_operator;
