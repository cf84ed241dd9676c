//! A connection pooler between Sluice and Postgres: both processes refuse it, whatever it does with their settings.

use crate::cluster::{Cluster, command_of};
use crate::private;
use crate::sink::Sink;
use crate::system::{System, eventually, free_port};
use std::path::Path;
use std::process::{Child, Stdio};
use tokio::net::TcpStream;

/// A pgbouncer in front of a server; killed when dropped.
struct Bouncer {
    port: u16,
    process: Child,
}

impl Bouncer {
    async fn start(program: &Path, dir: &Path, server: &Cluster, lines: &str) -> Self {
        let port = free_port();
        let config = dir.join(format!("pgbouncer-{port}.ini"));
        let text = format!(
            "[databases]\nsluice = host=127.0.0.1 port={} dbname=sluice user=sluice\n\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n{lines}\n",
            server.port
        );
        std::fs::write(&config, text).unwrap();
        let process = command_of(program).arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let bouncer = Self { port, process };
        eventually("pgbouncer listens", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        bouncer
    }

    fn url(&self) -> String {
        format!("postgres://sluice@127.0.0.1:{}/sluice", self.port)
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_processes_refuse_a_connection_pooler_and_say_what_to_do() {
    let Some(program) = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].map(Path::new).into_iter().find(|program| program.is_file()) else {
        eprintln!("SKIPPED, because pgbouncer is not installed: apt-get install pgbouncer");
        return;
    };
    let dir = private::folder();
    let server = Cluster::primary(dir.path()).await;
    let mut system = System::on(&server.url()).await;
    system.migrate().await;
    let config = system.config(&Sink::answering(200).await.config("lms", ""));
    // It refuses settings, unless it is told to drop them; then all seems well, until two clients share a session.
    let dropping = "ignore_startup_parameters = extra_float_digits, options";
    for lines in ["pool_mode = transaction", &format!("pool_mode = transaction\n{dropping}"), &format!("pool_mode = session\n{dropping}")] {
        let bouncer = Bouncer::start(program, dir.path(), &server, lines).await;
        system.url = bouncer.url();
        for command in ["ingest", "worker", "migrate"] {
            let output = system.run_with(Some(&config), &[command]).await;
            let said = String::from_utf8_lossy(&output.stderr);
            let is_clear = said.contains("a connection pooler") && said.contains("name Postgres' own address in DATABASE_URL");
            assert!(output.status.code() == Some(78) && is_clear, "{command} with {lines}: {}: {said}", output.status);
        }
    }
    // The contrast: without it they work.
    system.url = server.url();
    system.working(&config).await.stop().await;
}
