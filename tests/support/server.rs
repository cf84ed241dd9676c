//! A real server for the tests of one program: the one of `make test`, else a private one, gone with the last test that uses it.

use crate::private::{folder, options};
use sluice::dev::PrivatePostgres;
use sluice::store::migrate;
use std::sync::{Arc, Weak};
use tempfile::TempDir;
use tokio::sync::Mutex;

/// A superuser's URL on a server that tests may do anything to.
const SERVER_URL: &str = "SLUICE_TEST_DATABASE_URL";

/// Keep it as long as the test uses the server.
pub struct Server {
    url: String,
    // In this order: the server stops before its folder goes.
    _own: Option<(PrivatePostgres, TempDir)>,
}

impl Server {
    /// The URL of a new, empty database. `name` is a hint; programs that run at once get different ones.
    pub async fn database(&self, name: &str) -> String {
        let name = format!("{name}_{}", std::process::id());
        migrate::create_database(&self.url, &name).await.expect("a database")
    }
}

/// The server that all tests of this program share.
pub async fn shared() -> Arc<Server> {
    static SHARED: Mutex<Weak<Server>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let server = Arc::new(match std::env::var(SERVER_URL) {
        Ok(url) => Server { url, _own: None },
        Err(_) => {
            let dir = folder();
            let postgres = PrivatePostgres::start(dir.path(), options()).await.expect("a private Postgres starts");
            Server { url: postgres.url().to_owned(), _own: Some((postgres, dir)) }
        }
    });
    *shared = Arc::downgrade(&server);
    server
}
