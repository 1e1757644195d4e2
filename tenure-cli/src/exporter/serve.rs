//! The exporter's HTTP server: `/metrics`, a page that says so, and `/healthz`.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use crate::clock;
use crate::exporter::look::Watcher;
use crate::exporter::text;

/// How many connections are served at the same time; others wait until the system takes no more.
const CONNECTIONS: usize = 64;
/// How long a client may take for its request.
const PATIENCE: Duration = Duration::from_secs(10);

const PAGE: &str = "<!doctype html><title>tenure exporter</title>\n\
                    <h1>tenure exporter</h1><p><a href=\"/metrics\">Metrics</a></p>\n";

/// Serves for ever.
pub(super) async fn serve(listener: TcpListener, watcher: &Watcher<'_>) -> Infallible {
    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => connections.push(converse(stream, watcher)),
                // Too many open files, say: it passes.
                Err(_) => clock::sleep(Duration::from_millis(100)).await,
            },
            Some(()) = connections.next() => {}
        }
    }
}

async fn converse(stream: TcpStream, watcher: &Watcher<'_>) {
    let mut server = http1::Builder::new();
    // A look that was begun is ended and kept, whoever hangs up: else there were no rest after it.
    server.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(16 * 1024).half_close(true);
    let answer = service_fn(|request| async move { Ok::<_, Infallible>(answer(&request, watcher).await) });
    // A client that goes away is its own affair.
    let _ = server.serve_connection(TokioIo::new(stream), answer).await;
}

async fn answer<B>(request: &Request<B>, watcher: &Watcher<'_>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET it\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => respond(StatusCode::OK, text::TYPE, watcher.text().await),
        "/" => respond(StatusCode::OK, "text/html; charset=utf-8", PAGE),
        // That it runs. Whether the store does is a figure.
        "/healthz" => respond(StatusCode::OK, "text/plain", "ok\n"),
        _ => respond(StatusCode::NOT_FOUND, "text/plain", "there are /metrics and /healthz\n"),
    }
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
