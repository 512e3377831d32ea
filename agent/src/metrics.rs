//! Figures for the operator, in Prometheus' names, on an optional loopback listener.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

/// A set of labels with one name in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// What came of it, or why.
    pub outcome: &'static str,
}

/// Whose request, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct At {
    /// `aws` or `vault`, or for credentials the provider.
    pub endpoint: &'static str,
    /// What came of it.
    pub outcome: &'static str,
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Tasks that are open now.
    pub tasks: Gauge,
    /// Tasks opened.
    pub tasks_opened: Counter,
    /// Tasks of an earlier life: `adopted`, `refused` by the broker, or `lost` at the kernel.
    pub tasks_adopted: Family<Outcome, Counter>,
    /// Ends, by signal.
    pub tasks_ended: Family<Outcome, Counter>,
    /// Questions to the attest process, by what came of them.
    pub attestations: Family<Outcome, Counter>,
    /// Subject tokens: `hit` or `miss`.
    pub subject_cache: Family<Outcome, Counter>,
    /// Requests at the native endpoints.
    pub native_requests: Family<At, Counter>,
    /// Credentials issued and renewed for delivery, by provider.
    pub credentials: Family<At, Counter>,
    /// Calls refused on the Unix socket, by reason.
    pub refused: Family<Outcome, Counter>,
    /// Whether the stream to the broker stands.
    pub broker_connected: Gauge,
    /// Whether serving has stopped because the broker is silent.
    pub fenced: Gauge,
    /// Ends that the broker has not recorded yet.
    pub ends_unrecorded: Gauge,
}

impl Metrics {
    /// Counts one more of a family.
    pub fn count(family: &Family<Outcome, Counter>, outcome: &'static str) {
        family.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts one more at an endpoint.
    pub fn count_at(family: &Family<At, Counter>, endpoint: &'static str, outcome: &'static str) {
        family.get_or_create(&At { endpoint, outcome }).inc();
    }

    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("dayfly_agent");
        let r = &mut registry;
        r.register("tasks", "Tasks that are open", self.tasks.clone());
        r.register("tasks_opened", "Tasks opened", self.tasks_opened.clone());
        r.register("tasks_adopted", "Tasks of an earlier life of the agent", self.tasks_adopted.clone());
        r.register("tasks_ended", "Tasks ended, by signal", self.tasks_ended.clone());
        r.register("attestations", "Questions to the attest process", self.attestations.clone());
        r.register("subject_cache", "Look-ups of subject tokens", self.subject_cache.clone());
        r.register("native_requests", "Requests at the native endpoints", self.native_requests.clone());
        r.register("credentials", "Credentials issued and renewed", self.credentials.clone());
        r.register("refused", "Calls refused on the socket, by reason", self.refused.clone());
        r.register(
            "broker_connected",
            "1 while the stream to the broker stands",
            self.broker_connected.clone(),
        );
        r.register("fenced", "1 while nothing is served because the broker is silent", self.fenced.clone());
        r.register("ends_unrecorded", "Ends the broker has not recorded", self.ends_unrecorded.clone());
        registry
    }
}

/// Answers `GET /metrics` until dropped.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>) {
    let registry = Arc::new(metrics.registry());
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        tokio::spawn(one(stream, from, Arc::clone(&registry)));
    }
}

async fn one(stream: tokio::net::TcpStream, from: SocketAddr, registry: Arc<Registry>) {
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let registry = Arc::clone(&registry);
        async move {
            let (status, text) =
                if request.uri().path() == "/metrics" && request.method() == http::Method::GET {
                    let mut text = String::new();
                    encode(&mut text, &registry).expect("writing to a string does not fail");
                    (StatusCode::OK, text)
                } else {
                    (StatusCode::NOT_FOUND, "GET /metrics\n".to_owned())
                };
            Response::builder()
                .status(status)
                .header(
                    http::header::CONTENT_TYPE,
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                )
                .body(Full::new(Bytes::from(text)))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(std::time::Duration::from_secs(5))
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%from, %error, "a scrape ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_that_dashboards_use() {
        let metrics = Metrics::default();
        Metrics::count(&metrics.tasks_ended, "exit");
        Metrics::count_at(&metrics.native_requests, "aws", "served");
        let mut text = String::new();
        encode(&mut text, &metrics.registry()).expect("writing to a string does not fail");
        for line in [
            "dayfly_agent_tasks 0",
            "dayfly_agent_tasks_opened_total 0",
            "dayfly_agent_tasks_ended_total{outcome=\"exit\"} 1",
            "dayfly_agent_native_requests_total{endpoint=\"aws\",outcome=\"served\"} 1",
            "dayfly_agent_broker_connected 0",
            "dayfly_agent_fenced 0",
            "dayfly_agent_ends_unrecorded 0",
        ] {
            assert!(text.lines().any(|given| given == line), "{line} is not in:\n{text}");
        }
    }
}
