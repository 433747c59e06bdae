//! Health and metrics over HTTP on a loopback port: `/health/live`, `/health/ready`, `/metrics`. No login, no secrets, no
//! names. It must not change anything. `process` starts it and tells it what to show.

use std::convert::Infallible;
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
use crate::metrics::Metrics;
use crate::metrics::exposition::render;
pub use crate::metrics::exposition::{ClusterView, Snapshot};

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
