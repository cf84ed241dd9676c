//! The yardstick: pgbench inserting single rows, each its own commit, on the same server in the same run.

use super::lab::Lab;
use super::report::{Figures, Unit};
use crate::cli::Failure;
use crate::dev::find_program;
use crate::store::bench;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

const CLIENTS: [u32; 2] = [16, 64];
/// For pgbench to connect and to end, besides its time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures it; the better of 16 and 64 clients is what the rest is compared with.
pub async fn measure(lab: &Lab, seconds: u64, figures: &mut Figures) -> Result<(), Failure> {
    let rates = rates(lab, seconds).await?;
    for (clients, rate) in CLIENTS.into_iter().zip(rates) {
        figures.add(format!("single-row insert, {clients} clients"), rate, Unit::PerSecond);
    }
    let best = best(rates);
    figures.set_yardstick(best);
    figures.rate("single-row insert, the better", best);
    Ok(())
}

/// Measures it again, right before a rate that is compared with it: a machine's speed changes from minute to minute, and a ratio
/// is to be taken of the same minute. Does nothing where the yardstick is not among what is measured.
pub async fn again(lab: &Lab, seconds: u64, figures: &mut Figures) -> Result<(), Failure> {
    if figures.has_yardstick() {
        figures.set_yardstick(best(rates(lab, seconds.div_ceil(2)).await?));
        lab.clean().await;
    }
    Ok(())
}

fn best(rates: [f64; CLIENTS.len()]) -> f64 {
    rates.into_iter().fold(0.0, f64::max)
}

/// Inserts a second, for each number of clients.
async fn rates(lab: &Lab, seconds: u64) -> Result<[f64; CLIENTS.len()], Failure> {
    let pgbench = find_program(std::env::var_os("PATH").as_deref(), "pgbench").ok_or_else(|| {
        Failure::failed("pgbench is not installed beside the server's binaries, nor in PATH: without it there are no ratios (Debian: postgresql-contrib)")
    })?;
    let mut database = lab.database("yardstick").await?;
    bench::create_yardstick(&mut database.conn).await.map_err(|error| Failure::database("cannot make the yardstick's table", &error))?;
    let script = lab.folder().write("yardstick.sql", bench::YARDSTICK_INSERT)?;
    let (url, password) = without_password(database.url());
    let mut rates = [0.0; CLIENTS.len()];
    for (clients, rate) in CLIENTS.into_iter().zip(&mut rates) {
        let mut command = Command::new(&pgbench);
        command.args(["-n", "-M", "prepared", "-j", "2", "-c", &clients.to_string(), "-T", &seconds.to_string(), "-f"]);
        command.arg(&script).arg(&url).stdin(Stdio::null()).kill_on_drop(true);
        if let Some(password) = &password {
            command.env("PGPASSWORD", password);
        }
        let output = tokio::time::timeout(Duration::from_secs(seconds) + PATIENCE, command.output()).await;
        let output = output.map_err(|_| Failure::failed("pgbench does not end"))?;
        let output = output.map_err(|error| Failure::failed(format!("cannot run {}: {error}", pgbench.display())))?;
        *rate = tps(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| {
            Failure::failed(format!("pgbench failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
        })?;
    }
    Ok(rates)
}

/// `tps = 18234.5 (without initial connection time)`.
fn tps(output: &str) -> Option<f64> {
    output.lines().find_map(|line| line.strip_prefix("tps = ")?.split_whitespace().next()?.parse().ok())
}

/// A URL as it may stand in a list of processes, and the password it had.
fn without_password(url: &str) -> (String, Option<String>) {
    let parts = || {
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.find(['/', '?']).unwrap_or(rest.len());
        let (user, password) = rest[..authority].rsplit_once('@')?.0.split_once(':')?;
        let after = &rest[user.len() + 1 + password.len()..];
        Some((format!("{scheme}://{user}{after}"), percent_decoded(password)))
    };
    parts().map_or_else(|| (url.to_owned(), None), |(url, password)| (url, Some(password)))
}

fn percent_decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let mut byte = [first];
        rest = after;
        if first == b'%'
            && let Some((digits, after)) = after.split_at_checked(2)
            && hex::decode_to_slice(digits, &mut byte).is_ok()
        {
            rest = after;
        }
        bytes.push(byte[0]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pgbenchs_rate_is_read_from_what_it_prints() {
        assert_eq!(tps("latency average = 0.9 ms\ntps = 18234.5 (without initial connection time)\n"), Some(18234.5));
        assert_eq!(tps("pgbench: error: connection failed"), None);
    }

    #[test]
    fn a_password_is_taken_out_of_the_command_line() {
        let url = "postgres://u:p%40ss@h:5432/db?sslmode=disable";
        assert_eq!(without_password(url), ("postgres://u@h:5432/db?sslmode=disable".into(), Some("p@ss".into())));
        assert_eq!(without_password("postgres://u@h/db"), ("postgres://u@h/db".into(), None));
        assert_eq!(percent_decoded("a%zz%"), "a%zz%");
    }
}
