//! Health and metrics over HTTP on a loopback port: `/health/live`, `/health/ready`, `/metrics`. No login, no secrets, no
//! names. It must not change anything. `process` starts it and tells it what to show.

use std::convert::Infallible;
use std::fmt::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use crate::limits;
use crate::metrics::{LATENCY_BOUNDS, METHODS, Metrics, RESULTS, Transport};

/// What the process shows of itself at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Why clients cannot be served; `None` = they can.
    pub not_ready: Option<String>,
    /// Lifecycle's number; 0 = no cluster.
    pub lifecycle: u32,
    /// Log index that this HSM has applied.
    pub applied_index: u64,
    /// Token objects.
    pub objects: u64,
    /// Users.
    pub users: u64,
    /// Login sessions.
    pub sessions: u64,
    /// Commands that wait for an entry of the log.
    pub queued: u64,
    /// Entries of the log made durable since the start.
    pub flushes: u64,
    /// Commands in these entries.
    pub flushed_commands: u64,
}

/// Where answers come from.
#[derive(Clone)]
pub struct Sources {
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The rest; must not block.
    pub snapshot: Arc<dyn Fn() -> Snapshot + Send + Sync>,
}

/// Answers on this listener until the runtime ends.
///
/// # Errors
/// When the listener cannot be handed to the runtime.
pub fn start(runtime: &tokio::runtime::Handle, listener: TcpListener, sources: Sources) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let entered = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    drop(entered);
    runtime.spawn(accept(listener, sources));
    Ok(())
}

async fn accept(listener: tokio::net::TcpListener, sources: Sources) {
    let places = Arc::new(Semaphore::new(limits::HEALTH_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a health connection was not accepted");
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                continue;
            }
        };
        let sources = sources.clone();
        tokio::spawn(async move {
            serve(stream, peer, sources).await;
            drop(place);
        });
    }
}

async fn serve(stream: tokio::net::TcpStream, peer: SocketAddr, sources: Sources) {
    let answer = service_fn(move |request| {
        let response = respond(&request, &sources);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEALTH_TIME)
        .max_buf_size(limits::HEALTH_REQUEST)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    match tokio::time::timeout(limits::HEALTH_TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a health connection failed"),
        Err(_) => tracing::debug!(%peer, "a health connection took too long"),
    }
}

fn respond(request: &Request<Incoming>, sources: &Sources) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n".into());
    }
    match request.uri().path() {
        "/health/live" => text(StatusCode::OK, "live\n".into()),
        "/health/ready" => match (sources.snapshot)().not_ready {
            None => text(StatusCode::OK, "ready\n".into()),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        },
        "/metrics" => match render(&sources.metrics, &(sources.snapshot)()) {
            Ok(metrics) => typed(StatusCode::OK, metrics, "text/plain; version=0.0.4; charset=utf-8"),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n".into()),
        },
        _ => text(StatusCode::NOT_FOUND, "there are /health/live, /health/ready and /metrics\n".into()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    typed(status, body, "text/plain; charset=utf-8")
}

fn typed(status: StatusCode, body: String, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

/// The metrics in the text format of Prometheus. Methods are named by their number on the wire: its names are in
/// `client.proto`.
fn render(metrics: &Metrics, snapshot: &Snapshot) -> Result<String, std::fmt::Error> {
    let mut out = String::with_capacity(16 * 1024);
    gauges(&mut out, metrics, snapshot)?;
    head(
        &mut out,
        "kagimori_request_seconds",
        "histogram",
        "Time from a request's arrival to its reply, by method number",
    )?;
    for method in 0..METHODS {
        let latency = metrics.latency(method);
        if latency.count() == 0 {
            continue;
        }
        let mut sum = 0;
        for (position, count) in latency.buckets.iter().enumerate() {
            sum += count;
            let bound = LATENCY_BOUNDS.get(position).map_or("+Inf".to_owned(), |&bound| seconds(bound));
            writeln!(out, "kagimori_request_seconds_bucket{{method=\"{method}\",le=\"{bound}\"}} {sum}")?;
        }
        writeln!(out, "kagimori_request_seconds_sum{{method=\"{method}\"}} {}", seconds(latency.nanoseconds))?;
        writeln!(out, "kagimori_request_seconds_count{{method=\"{method}\"}} {sum}")?;
    }
    head(&mut out, "kagimori_request_failures_total", "counter", "Requests not done, by method and error code number")?;
    for method in 0..METHODS {
        for code in 1..RESULTS {
            let count = metrics.failures(method, code);
            if count > 0 {
                writeln!(out, "kagimori_request_failures_total{{method=\"{method}\",code=\"{code}\"}} {count}")?;
            }
        }
    }
    Ok(out)
}

fn gauges(out: &mut String, metrics: &Metrics, snapshot: &Snapshot) -> std::fmt::Result {
    let mut one = |name: &str, kind: &str, help: &str, value: u64| {
        head(out, name, kind, help)?;
        writeln!(out, "{name} {value}")
    };
    one("kagimori_ready", "gauge", "Whether clients are served", u64::from(snapshot.not_ready.is_none()))?;
    one(
        "kagimori_lifecycle",
        "gauge",
        "0 no cluster, 1 uninitialized, 2 initialized, 3 active, 4 zeroized",
        snapshot.lifecycle.into(),
    )?;
    one("kagimori_applied_index", "gauge", "Log index that this HSM has applied", snapshot.applied_index)?;
    one("kagimori_objects", "gauge", "Token objects", snapshot.objects)?;
    one("kagimori_users", "gauge", "Users", snapshot.users)?;
    one("kagimori_sessions", "gauge", "Login sessions", snapshot.sessions)?;
    one("kagimori_log_queue", "gauge", "Commands that wait for an entry of the log", snapshot.queued)?;
    one("kagimori_log_flushes_total", "counter", "Entries of the log made durable", snapshot.flushes)?;
    one("kagimori_log_commands_total", "counter", "Commands in these entries", snapshot.flushed_commands)?;
    one("kagimori_proposals_total", "counter", "Commands proposed to the log", metrics.proposals())?;
    one(
        "kagimori_connections_refused_total",
        "counter",
        "Connections closed at a limit",
        metrics.connections_refused(),
    )?;
    one("kagimori_handshakes_failed_total", "counter", "TLS handshakes that failed", metrics.handshakes_failed())?;
    head(out, "kagimori_connections", "gauge", "Open connections")?;
    for (transport, name) in [(Transport::Tls, "tls"), (Transport::Unix, "unix")] {
        writeln!(out, "kagimori_connections{{transport=\"{name}\"}} {}", metrics.connections_open(transport))?;
    }
    head(out, "kagimori_connections_total", "counter", "Connections accepted")?;
    for (transport, name) in [(Transport::Tls, "tls"), (Transport::Unix, "unix")] {
        writeln!(
            out,
            "kagimori_connections_total{{transport=\"{name}\"}} {}",
            metrics.connections_accepted(transport)
        )?;
    }
    Ok(())
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}")
}

/// Nanoseconds as seconds, exactly.
fn seconds(nanoseconds: u64) -> String {
    format!("{}.{:09}", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn counted_requests_appear_cumulated_and_with_their_sum() {
        let metrics = Metrics::new();
        metrics.request(50, 0, Duration::from_micros(15));
        metrics.request(50, 87, Duration::from_micros(5));
        let text = render(&metrics, &Snapshot { objects: 7, ..Snapshot::default() }).unwrap();
        for line in [
            "kagimori_request_seconds_bucket{method=\"50\",le=\"0.000010000\"} 1",
            "kagimori_request_seconds_bucket{method=\"50\",le=\"0.000020000\"} 2",
            "kagimori_request_seconds_bucket{method=\"50\",le=\"+Inf\"} 2",
            "kagimori_request_seconds_sum{method=\"50\"} 0.000020000",
            "kagimori_request_failures_total{method=\"50\",code=\"87\"} 1",
            "kagimori_objects 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
