//! What happens to every request, whatever it is: an id, a line in the log, metrics, a time-out.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus::IntGauge;
use tokio::time::timeout;
use tracing::{Instrument, field};

use crate::error::Refusal;
use crate::random;
use crate::state::{App, now};

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives a request an id, counts it and logs it.
pub(crate) async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let id = random::request_id();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str);
    // The description's name of it: that a tag's key may have slashes is a matter of the router.
    let route = route.replace("{*", "{");
    let method = known_method(request.method().as_str());
    let span = tracing::info_span!(
        "request",
        id,
        method,
        route,
        operation = field::Empty,
        project = field::Empty,
        actor = field::Empty,
        sequence = field::Empty,
        code = field::Empty,
    );
    let begin = now();
    let in_work = InWork::begin(&app.metrics.requests_in_work);
    let mut response = next.run(request).instrument(span.clone()).await;
    drop(in_work);
    let (time, status) = (begin.elapsed(), response.status().as_u16());
    app.metrics.answered(method, &route, status, time);
    span.in_scope(|| tracing::info!(status, milliseconds = time.as_secs_f64() * 1e3, "answered"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID.clone(), id);
    }
    response
}

/// Counts a request that is in work, also if its client goes away.
struct InWork<'a>(&'a IntGauge);

impl<'a> InWork<'a> {
    fn begin(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InWork<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The methods that there are, so that a client can't make up labels of metrics.
fn known_method(method: &str) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("other")
}

/// Bounds how long a request may take, its waiting included.
pub(crate) async fn bound(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    timeout(app.limits.request_time(), next.run(request)).await.unwrap_or_else(|_| {
        let message = "the request took too long; whether it was carried out is unknown";
        let mut response = Refusal::unavailable(message).into_response();
        // Tried again blindly, it might be done twice.
        response.headers_mut().remove(RETRY_AFTER);
        response
    })
}
