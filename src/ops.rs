//! The operators' port of a process: `/livez`, `/readyz`, `/metrics`.

use crate::server::{self, Limits};
use crate::shutdown::Shutdown;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::interval;

/// `Ok`: ready. `Err`: why not, in words for the operator.
pub type Ready<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// Says whether the process can do its work now. Asked with every `/readyz`, so an answer must be cheap.
pub trait Readiness: Send + Sync + 'static {
    fn ready(&self) -> Ready<'_>;

    /// Brings gauges up to date that nothing else does. Called with every `/metrics`, so it must spare the database.
    fn refresh(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

/// How often histograms are folded up: they keep every sample until then.
const UPKEEP: Duration = Duration::from_secs(5);

/// For a question under way, once the process has finished everything else.
pub const DRAIN: Duration = Duration::from_secs(1);

/// Few ask here, and seldom.
const LIMITS: Limits = Limits { connections_max: 64, header_timeout: Duration::from_secs(10), drain_timeout: DRAIN };

/// Serves until `shutdown` begins: give it [`Shutdown::last_part`], so that the drain can be watched.
pub async fn serve(listener: TcpListener, metrics: PrometheusHandle, readiness: Arc<dyn Readiness>, shutdown: Shutdown) {
    let router = Router::new()
        .route("/livez", get("alive\n"))
        .route("/readyz", get(readyz).with_state(Arc::clone(&readiness)))
        .route("/metrics", get(render).with_state((metrics.clone(), readiness)));
    let upkeep = async {
        let mut tick = interval(UPKEEP);
        loop {
            tick.tick().await;
            metrics.run_upkeep();
        }
    };
    tokio::select! {
        () = server::serve(listener, router, LIMITS, &shutdown) => {}
        () = upkeep => {}
    }
}

async fn readyz(State(readiness): State<Arc<dyn Readiness>>) -> impl IntoResponse {
    match readiness.ready().await {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

async fn render(State((metrics, readiness)): State<(PrometheusHandle, Arc<dyn Readiness>)>) -> impl IntoResponse {
    readiness.refresh().await;
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
}
