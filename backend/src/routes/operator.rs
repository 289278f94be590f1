//! What the operator asks: whether the service is well, what it counts, what it offers.

use std::sync::{Arc, LazyLock};

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use keystead::AsyncQueue;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::{OpenApi, ToSchema};

use super::Answer;
use crate::error::{Refusal, RefusalBody};
use crate::openapi::Description;
use crate::state::App;

/// The service can read its store.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    status: String,
    /// The number of the newest commit.
    commit: u64,
}

/// Whether the service can read its store.
#[utoipa::path(
    get, path = "/healthz", tag = "operator",
    responses((status = 200, description = "Done", body = Health), (status = 500, description = "It can't", body = RefusalBody))
)]
pub(crate) async fn healthz(State(app): State<Arc<App>>) -> Answer<Health> {
    let look = app.blocking(AsyncQueue::Reads, |store| Ok(store.position()?.commit().number()));
    let late = |elapsed| Refusal::internal(&format_args!("the store did not answer: {elapsed}"));
    let commit = timeout(app.limits.request_time(), look).await.map_err(late)??;
    Ok(Json(Health { status: "ok".to_owned(), commit }))
}

/// The metrics, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operator",
    responses((status = 200, description = "Done", body = String, content_type = "text/plain; version=0.0.4"))
)]
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Result<impl IntoResponse, Refusal> {
    let text = app.metrics.text().map_err(|error| Refusal::internal(&error))?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}

/// This description.
#[utoipa::path(
    get, path = "/openapi.json", tag = "operator",
    responses((status = 200, description = "Done", body = Object, content_type = "application/json"))
)]
pub(crate) async fn openapi() -> Json<&'static utoipa::openapi::OpenApi> {
    static DESCRIPTION: LazyLock<utoipa::openapi::OpenApi> = LazyLock::new(Description::openapi);
    Json(&DESCRIPTION)
}
