//! Temporary: drives the worker against a database. spike URL KIND(null|http:URL) CONCURRENCY SECONDS
use sluice::{config::Config, shutdown::Shutdown, store, worker};
use sqlx::postgres::PgPoolOptions;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(run());
}
async fn run() {
    tracing_subscriber::fmt().with_env_filter("info").init();
    let a: Vec<String> = std::env::args().collect();
    let kind = if a[2] == "null" {
        "kind = \"null\"".to_string()
    } else {
        format!("kind = \"http\"\nurl = \"{}\"\nallow = [\"127.0.0.0/8\"]", a[2])
    };
    let extra = a.get(5).cloned().unwrap_or_default();
    let toml = format!(
        "[worker]\nread_ahead = {}\n[[sink]]\nname = \"s\"\n{kind}\nconcurrency = {}\n{extra}\n",
        std::env::var("RA").unwrap_or("2000".into()),
        a[3]
    );
    let config = Config::parse(&toml, "spike.toml", &|_| None).unwrap();
    let mut settings = store::deliveries::PLANNER.to_vec();
    settings.extend([("sluice.worker", "on"), ("lock_timeout", "200ms")]);
    let opts = store::options::options(&a[1], "sluice worker", &settings).unwrap();
    let pool = PgPoolOptions::new().max_connections(6).test_before_acquire(false).connect_with(opts).await.unwrap();
    let shutdown = Shutdown::on_signals(Duration::from_secs(10)).unwrap();
    let w = tokio::spawn({
        let (c, p, s) = (config.clone(), pool.clone(), shutdown.clone());
        async move { worker::run(&c, p, s).await }
    });
    let secs: u64 = a[4].parse().unwrap();
    let start = Instant::now();
    let mut last: i64 = -1;
    while start.elapsed().as_secs() < secs && !shutdown.is_begun() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (d, p): (i64, i64) =
            sqlx::query_as("select coalesce(sum(delivered),0)::bigint, 0::bigint from sluice.counters").fetch_one(&pool).await.unwrap();
        let _ = p;
        if last >= 0 {
            println!("t={:.1} counted={d} (+{})", start.elapsed().as_secs_f64(), d - last);
        }
        last = d;
    }
    shutdown.begin();
    w.await.unwrap().unwrap();
}
