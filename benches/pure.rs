//! The pure parts that every event passes: its signature, what its payload says, and what follows from a failed try.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sluice::backoff::Backoff;
use sluice::delivery::{Blame, Failure, Outcome, Policy, Standing, decide};
use sluice::event::{NewEvent, lane};
use sluice::profile::Profile;
use sluice::signature::{self, Timestamp};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

const SECRET: &[u8] = b"sluice-bench";
const TIMESTAMP: &str = "1800000000";
const BODY: &str = r#"{"event":"course.completed","companyId":"acme","data":{"userId":"u-0042","courseName":"Discovery Calls for Enterprise Accounts","courseId":"c-00000042","score":87,"completedAt":"2026-11-20T10:00:00Z","startedAt":"2026-11-02T08:15:00Z","language":"en-GB","series":"Onboarding of account executives","certificateUrl":"https://learn.example.com/certificates/00000042"}}"#;

fn receiving(criterion: &mut Criterion) {
    let profile = Profile::mindtickle();
    let signature = signature::sign(&profile, SECRET, TIMESTAMP, BODY.as_bytes());
    let timestamp = Timestamp::parse(TIMESTAMP).expect("ten digits");
    let source = Arc::from("mindtickle");

    let mut group = criterion.benchmark_group("receiving");
    group.throughput(Throughput::Bytes(BODY.len() as u64));
    group.bench_function("verify a signature", |bencher| {
        bencher.iter(|| signature::verify(&profile, [SECRET], timestamp, black_box(BODY.as_bytes()), signature.as_bytes()));
    });
    group.bench_function("verify while a secret is rotated", |bencher| {
        bencher.iter(|| signature::verify(&profile, [SECRET, b"the other"], timestamp, black_box(BODY.as_bytes()), signature.as_bytes()));
    });
    group.bench_function("read the payload", |bencher| bencher.iter(|| profile.read(black_box(BODY.as_bytes()))));
    group.bench_function("build the event", |bencher| {
        bencher.iter(|| {
            let facts = profile.read(BODY.as_bytes());
            NewEvent::new(&source, Some("evt-00000042"), TIMESTAMP, black_box(BODY).into(), facts, String::new())
        });
    });
    group.finish();
    criterion.bench_function("find a key's lane", |bencher| bencher.iter(|| lane(black_box("acme/u-0042"))));
}

fn deciding(criterion: &mut Criterion) {
    let backoff = Backoff { initial: Duration::from_secs(2), factor: 3.0, cap: Duration::from_secs(3600) };
    let policy = Policy { max_attempts: 12, backoff, rest: Duration::from_secs(10), retry_after_max: Duration::from_secs(3600) };
    let failed =
        Outcome::Failed(Failure { blame: Blame::Event, status: Some(500), error: "500".into(), response: None, retry_after: None });
    criterion.bench_function("decide after a failed try", |bencher| {
        bencher.iter(|| decide(black_box(&failed), black_box(4), &policy, Standing::default(), black_box(0.5)));
    });
    criterion.bench_function("back off", |bencher| bencher.iter(|| policy.backoff.delay(black_box(9), black_box(0.5))));
}

criterion_group!(benches, receiving, deciding);
criterion_main!(benches);
