-- What the sinks of kind projection keep: figures for dashboards, made of events. Each column takes part in a merge that gives the same result
-- in whatever order, and however often, the events are applied: the newest event wins (by as_of, then as_of_seq), or the greatest value does.

create table sluice.learners (
    company_id        text    not null,
    user_id           text    not null,
    email             text,
    role              text,
    team_id           text,
    provisioned_seq   bigint,
    deprovisioned_at  timestamptz,
    deprovisioned_seq bigint,
    active            boolean not null generated always as (coalesce(provisioned_seq > deprovisioned_seq, deprovisioned_seq is null)) stored,
    primary key (company_id, user_id)
);
comment on table  sluice.learners is 'One row a person that was provisioned or deprovisioned. By arrival, because user.provisioned carries no time of its own.';
comment on column sluice.learners.company_id is 'Company as the payload names it; empty where it names none.';
comment on column sluice.learners.user_id is 'The person, as the provider names them.';
comment on column sluice.learners.email is 'Of the newest user.provisioned.';
comment on column sluice.learners.role is 'Of the newest user.provisioned.';
comment on column sluice.learners.team_id is 'Of the newest user.provisioned: what team_progress groups by.';
comment on column sluice.learners.provisioned_seq is 'events.seq of the newest user.provisioned; null: none was seen.';
comment on column sluice.learners.deprovisioned_at is 'When they left, as the newest user.deprovisioned says, else when that was received.';
comment on column sluice.learners.deprovisioned_seq is 'events.seq of the newest user.deprovisioned; null: none was seen.';
comment on column sluice.learners.active is 'False where the newest of the two is user.deprovisioned: off the leaderboard.';

create table sluice.learner_progress (
    company_id      text        not null,
    user_id         text        not null,
    module_id       text        not null,
    module_name     text,
    percent         double precision,
    time_spent_secs double precision,
    as_of           timestamptz not null,
    as_of_seq       bigint      not null,
    primary key (company_id, user_id, module_id)
);
comment on table  sluice.learner_progress is 'One row a person and module, of module.progress. Figures never go back.';
comment on column sluice.learner_progress.company_id is 'Company as the payload names it; empty where it names none.';
comment on column sluice.learner_progress.user_id is 'The person, as the provider names them.';
comment on column sluice.learner_progress.module_id is 'The module.';
comment on column sluice.learner_progress.module_name is 'Of the newest event.';
comment on column sluice.learner_progress.percent is 'The greatest progress seen, 0 to 100; null: no event said.';
comment on column sluice.learner_progress.time_spent_secs is 'The greatest time seen, in seconds; null: no event said.';
comment on column sluice.learner_progress.as_of is 'When the newest event was received.';
comment on column sluice.learner_progress.as_of_seq is 'events.seq of the newest event.';

create table sluice.course_completions (
    company_id         text        not null,
    user_id            text        not null,
    course_id          text        not null,
    course_name        text,
    score              double precision,
    first_completed_at timestamptz not null,
    as_of              timestamptz not null,
    as_of_seq          bigint      not null,
    primary key (company_id, user_id, course_id)
);
comment on table  sluice.course_completions is 'One row a person and course, of course.completed.';
comment on column sluice.course_completions.company_id is 'Company as the payload names it; empty where it names none.';
comment on column sluice.course_completions.user_id is 'The person, as the provider names them.';
comment on column sluice.course_completions.course_id is 'The course.';
comment on column sluice.course_completions.course_name is 'Of the newest completion.';
comment on column sluice.course_completions.score is 'Of the newest completion, on the provider''s scale; null: it had none.';
comment on column sluice.course_completions.first_completed_at is 'The earliest completion.';
comment on column sluice.course_completions.as_of is 'The newest completion: completedAt, or when it was received where that is absent or later.';
comment on column sluice.course_completions.as_of_seq is 'events.seq of the newest completion.';

create table sluice.quiz_results (
    event_seq    bigint      not null primary key,
    company_id   text        not null,
    user_id      text        not null,
    quiz_id      text        not null,
    quiz_name    text,
    score        double precision,
    score_max    double precision,
    percent      double precision,
    passed       boolean,
    practice     boolean     not null,
    submitted_at timestamptz not null
);
create index quiz_results_user on sluice.quiz_results (company_id, user_id);
comment on table  sluice.quiz_results is 'One row an attempt, of quiz.submitted: so an event that is repeated adds no attempt.';
comment on column sluice.quiz_results.event_seq is 'events.seq: which event it was.';
comment on column sluice.quiz_results.company_id is 'Company as the payload names it; empty where it names none.';
comment on column sluice.quiz_results.user_id is 'The person, as the provider names them.';
comment on column sluice.quiz_results.quiz_id is 'The quiz.';
comment on column sluice.quiz_results.quiz_name is 'As the event names it.';
comment on column sluice.quiz_results.score is 'As the event says.';
comment on column sluice.quiz_results.score_max is 'As the event says.';
comment on column sluice.quiz_results.percent is 'score of score_max, 0 to 100; null where either is absent.';
comment on column sluice.quiz_results.passed is 'As the event says; null where it does not.';
comment on column sluice.quiz_results.practice is 'A practice quiz: not counted by the views.';
comment on column sluice.quiz_results.submitted_at is 'When the event was received: it carries no time of its own.';

create table sluice.certifications (
    company_id       text        not null,
    user_id          text        not null,
    name             text        not null,
    expired_at       timestamptz,
    renewal_deadline timestamptz,
    as_of            timestamptz not null,
    as_of_seq        bigint      not null,
    primary key (company_id, user_id, name)
);
comment on table  sluice.certifications is 'One row a person and certification that has expired, of certification.expired.';
comment on column sluice.certifications.company_id is 'Company as the payload names it; empty where it names none.';
comment on column sluice.certifications.user_id is 'The person, as the provider names them.';
comment on column sluice.certifications.name is 'The certification.';
comment on column sluice.certifications.expired_at is 'Of the newest event.';
comment on column sluice.certifications.renewal_deadline is 'Of the newest event.';
comment on column sluice.certifications.as_of is 'The newest event: expiredAt, or when it was received where that is absent or later.';
comment on column sluice.certifications.as_of_seq is 'events.seq of the newest event.';

create view sluice.leaderboard as
with courses as (
    select company_id, user_id, count(*) as n from sluice.course_completions group by 1, 2
), best as (
    select company_id, user_id, quiz_id, max(percent) as percent, coalesce(bool_or(passed), false) as passed
      from sluice.quiz_results where not practice group by 1, 2, 3
), quizzes as (
    select company_id, user_id, count(*) filter (where passed) as passed, avg(percent) as average,
           sum(round(percent::numeric)) filter (where passed) as points
      from best group by 1, 2
), people as (
    select company_id, user_id from courses union select company_id, user_id from quizzes
), figures as (
    select p.company_id, p.user_id, l.team_id, coalesce(c.n, 0) as courses_completed, coalesce(q.passed, 0) as quizzes_passed,
           round(q.average::numeric, 1) as average_best_percent, (100 * coalesce(c.n, 0) + coalesce(q.points, 0))::bigint as points
      from people p
      left join courses c using (company_id, user_id)
      left join quizzes q using (company_id, user_id)
      left join sluice.learners l using (company_id, user_id)
     where coalesce(l.active, true)
)
select company_id, user_id, team_id, points, courses_completed, quizzes_passed, average_best_percent,
       rank() over (partition by company_id order by points desc) as rank
  from figures;
comment on view   sluice.leaderboard is 'People of a company by points. Who was deprovisioned is left out; who was never provisioned is not.';
comment on column sluice.leaderboard.company_id is 'Company; empty where the payloads name none.';
comment on column sluice.leaderboard.user_id is 'The person.';
comment on column sluice.leaderboard.team_id is 'learners.team_id.';
comment on column sluice.leaderboard.points is '100 for each course completed, and for each quiz passed the best percent in it, rounded. Practice does not count.';
comment on column sluice.leaderboard.courses_completed is 'Courses, each counted once.';
comment on column sluice.leaderboard.quizzes_passed is 'Quizzes passed at least once.';
comment on column sluice.leaderboard.average_best_percent is 'Mean of the best percent in each quiz; null without any.';
comment on column sluice.leaderboard.rank is 'By points within the company; equal points share a rank.';

create view sluice.team_progress as
with progress as (
    select company_id, user_id, avg(percent) as percent from sluice.learner_progress group by 1, 2
)
select l.company_id, l.team_id, count(*) as learners, round(avg(p.percent)::numeric, 1) as average_percent,
       coalesce(sum(b.courses_completed), 0)::bigint as courses_completed, coalesce(sum(b.quizzes_passed), 0)::bigint as quizzes_passed,
       coalesce(sum(b.points), 0)::bigint as points
  from sluice.learners l
  left join progress p using (company_id, user_id)
  left join sluice.leaderboard b using (company_id, user_id)
 where l.active and l.team_id is not null
 group by l.company_id, l.team_id;
comment on view   sluice.team_progress is 'Teams, by learners.team_id; active learners alone count.';
comment on column sluice.team_progress.company_id is 'Company; empty where the payloads name none.';
comment on column sluice.team_progress.team_id is 'The team.';
comment on column sluice.team_progress.learners is 'Active learners of the team.';
comment on column sluice.team_progress.average_percent is 'Mean over learners of their mean progress in the modules they began; null: nobody began one.';
comment on column sluice.team_progress.courses_completed is 'As in leaderboard, added up.';
comment on column sluice.team_progress.quizzes_passed is 'As in leaderboard, added up.';
comment on column sluice.team_progress.points is 'As in leaderboard, added up.';

-- A person is erased from the figures too.
alter function sluice.erase(text, text, boolean) rename to erase_events;
comment on function sluice.erase_events(text, text, boolean) is 'The part of sluice.erase that is about events.';

create function sluice.erase(person text, company text default null, dry_run boolean default false, out erased bigint, out owed bigint)
language plpgsql as $$
begin
    -- A rebuild that is under way may have read what is erased here, and write it again: wait for its end.
    if not dry_run then
        perform pg_advisory_xact_lock(hashtext('sluice.projections'));
    end if;
    select e.erased, e.owed into erased, owed from sluice.erase_events(person, company, dry_run) e;
    if dry_run then
        return;
    end if;
    delete from sluice.learners t where t.user_id = person and (company is null or t.company_id = company);
    delete from sluice.learner_progress t where t.user_id = person and (company is null or t.company_id = company);
    delete from sluice.course_completions t where t.user_id = person and (company is null or t.company_id = company);
    delete from sluice.quiz_results t where t.user_id = person and (company is null or t.company_id = company);
    delete from sluice.certifications t where t.user_id = person and (company is null or t.company_id = company);
end $$;
comment on function sluice.erase(text, text, boolean) is 'Removes what is stored of a person but for what is still owed to a sink: payloads, sinks'' answers, the order key, the figures of projections. Event ids and hashes stay.';
revoke execute on function sluice.erase(text, text, boolean), sluice.erase_events(text, text, boolean) from public;
