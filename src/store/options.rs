//! How a connection is opened: the URL, who we are, and the session's settings.

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use std::str::FromStr;

/// The URL is not one that Postgres understands. Never repeats it: it holds a password.
#[derive(Debug, thiserror::Error)]
#[error("DATABASE_URL is not a Postgres URL ({0}); expected postgres://user:password@host:port/database")]
pub struct UrlError(String);

/// Options for a connection that calls itself `application_name` (as `pg_stat_activity` shows it) and has `settings` from
/// its first statement on. Opens nothing.
///
/// Statements are not logged: on the hot path even a disabled log line costs, and errors are reported where they are handled.
pub fn options(url: &str, application_name: &str, settings: &[(&str, &str)]) -> Result<PgConnectOptions, UrlError> {
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(UrlError("it does not begin with postgres://".into()));
    }
    let options = PgConnectOptions::from_str(url).map_err(|error| match error {
        sqlx::Error::Configuration(cause) => UrlError(cause.to_string()),
        _ => UrlError("it cannot be parsed".into()),
    })?;
    Ok(options.application_name(application_name).options(settings.iter().copied()).disable_statement_logging())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_url_is_refused_without_repeating_its_password() {
        let error = options("postgres://user:hunter2@host:notaport/db", "sluice", &[]).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
