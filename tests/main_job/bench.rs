//! `sluice bench --sink`: one sink of a config, measured as it is configured.

use crate::system::{System, eventually, free_port};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

/// Runs `sluice bench` with these arguments, and `BENCH_FILE` in its environment.
async fn bench(system: &System, config: &Path, file: &Path, args: &[&str]) -> Output {
    let args = [&["bench"], args].concat();
    system.command(Some(config), &args).env("BENCH_FILE", file).output().await.expect("it starts")
}

/// Three sinks, of which one must not be touched while another is measured.
fn config(system: &System) -> std::path::PathBuf {
    let unreachable = format!("kind = \"http\"\nurl = \"http://127.0.0.1:{}/hook\"\nallow = [\"127.0.0.0/8\"]\n", free_port());
    system.config(&format!(
        "[[sink]]\nname = \"away\"\n{unreachable}\n\
         [[sink]]\nname = \"kept\"\nkind = \"file\"\npath = \"${{BENCH_FILE}}\"\nevents = [\"user.provisioned\", \"user.deprovisioned\"]\n\n\
         [[sink]]\nname = \"nowhere\"\nkind = \"null\"\nwhen = \"event.companyId == 'acme'\"\n"
    ))
}

#[tokio::test]
async fn one_sink_of_a_config_is_measured_as_it_is_configured_and_nothing_is_left_but_what_it_was_sent() {
    let system = System::empty("bench_file").await;
    let (config, file) = (config(&system), system.file("ndjson"));
    let output = bench(&system, &config, &file, &["--sink", "kept", "--events", "200", "--json"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON on stdout");
    assert_eq!((&report["sink"]["name"], &report["sink"]["kind"]), (&"kept".into(), &"file".into()));
    let figure = |what: &str| {
        let figure = report["figures"].as_array().unwrap().iter().find(|figure| figure["what"] == what);
        figure.unwrap_or_else(|| panic!("no {what}: {report}"))["value"].as_f64().unwrap()
    };
    let counts = ["delivered in all", "deliveries tried", "skipped", "dead", "pending"].map(figure);
    assert_eq!(counts, [200.0, 200.0, 0.0, 0.0, 0.0]);
    assert!(figure("in so many tries (a batch is one)") >= 1.0 && figure("a try, p99") > 0.0);
    #[cfg(target_os = "linux")]
    assert!((1.0..100_000.0).contains(&figure("CPU of the worker, a delivery")), "{report}");

    let lines: Vec<Value> = std::fs::read_to_string(&file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts = |key: &str| lines.iter().map(|line| line[key].to_string()).collect::<BTreeSet<_>>();
    assert_eq!((lines.len(), texts("event_id").len()), (200, 200));
    assert_eq!(texts("type").len(), 2, "of the types that it subscribes to: {:?}", texts("type"));
    // Other tests make such databases, too.
    let left = "select count(*) from pg_database where datname like 'sluice_bench_%'";
    eventually("no database is left", async || system.value::<i64>(left).await == 0).await;
}

#[tokio::test]
async fn a_measured_sink_is_reported_in_a_table() {
    let system = System::empty("bench_null").await;
    let output = bench(&system, &config(&system), &system.file("ndjson"), &["--sink", "nowhere", "--events", "300"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = text.lines().map(words).collect();
    let heading = "the sink nowhere (kind null), 300 events: course.completed, quiz.submitted, user.provisioned,";
    assert!(lines.iter().any(|line| line.starts_with(heading)), "{text}");
    assert!(lines.iter().any(|line| line == "delivered in all 300"), "{text}");
}

#[tokio::test]
async fn a_sink_that_is_not_in_the_config_or_cannot_be_reached_is_said_to_be_so_at_once() {
    let system = System::empty("bench_refused").await;
    let (config, file) = (config(&system), system.file("ndjson"));
    for (args, code, said) in [
        (["--sink", "mail"], 78, "the config has no [[sink]] named mail: correct --sink, or the config; it has: away, kept, nowhere"),
        (["--sink", "away"], 69, "the sink away takes nothing: "),
    ] {
        let output = bench(&system, &config, &file, &args).await;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert!(errors.contains(said), "{errors}");
        assert!(output.stdout.is_empty());
    }
    assert!(!file.exists(), "a sink that is not measured is not opened");
}
