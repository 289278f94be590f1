//! The paths of the service, by topic, and the router over them.

pub(crate) mod account;
pub(crate) mod aliases;
pub(crate) mod history;
pub(crate) mod keys;
pub(crate) mod lifecycle;
pub(crate) mod lists;
pub(crate) mod operator;
pub(crate) mod rotation;
pub(crate) mod tags;
pub(crate) mod versions;

use std::sync::Arc;

use axum::http::header::ALLOW;
use axum::routing::{delete, get, post};
use axum::{Json, Router, middleware};
use keystead::{KeyFilter, KeyRecord, Limit, Snapshot};

use crate::edge;
use crate::error::Refusal;
use crate::state::App;

/// What a handler answers with.
type Answer<T> = Result<Json<T>, Refusal>;

pub(crate) fn router(app: Arc<App>) -> Router {
    let kms = Router::new()
        .route("/create-key", post(keys::create_key))
        .route("/describe-key", post(keys::describe_key))
        .route("/update-key-alias", post(keys::update_key_alias))
        .route("/update-key-description", post(keys::update_key_description))
        .route("/list-keys", post(lists::list_keys))
        .route("/enable-key", post(lifecycle::enable_key))
        .route("/disable-key", post(lifecycle::disable_key))
        .route("/schedule-key-deletion", post(lifecycle::schedule_key_deletion))
        .route("/cancel-key-deletion", post(lifecycle::cancel_key_deletion))
        .route(
            "/aliases",
            post(aliases::create_alias).delete(aliases::delete_aliases).get(aliases::list_aliases),
        )
        .route("/alias/associate", post(aliases::associate_alias))
        .route("/enable-key-rotation", post(rotation::enable_key_rotation))
        .route("/disable-key-rotation", post(rotation::disable_key_rotation))
        .route("/update-key-rotation-interval", post(rotation::update_key_rotation_interval))
        .route("/get-key-rotation-status", post(rotation::get_key_rotation_status))
        .route("/tags", get(tags::list_project_tags))
        .route("/resource_instances/action", post(lists::list_resources))
        .route("/{key_id}/tags", post(tags::create_tag).get(tags::list_tags))
        .route("/{key_id}/tags/action", post(tags::batch_tags).delete(tags::delete_tag))
        .route("/{key_id}/tags/{*key}", delete(tags::delete_tag))
        .route("/user-instances", get(account::user_instances))
        .route("/user-quotas", get(account::user_quotas));
    let own = Router::new()
        .route("/aliases/{alias}/history", get(history::alias_history))
        .route("/keys/{key_id}/history", get(history::key_history));
    let bounded = Router::new()
        .route("/", get(versions::list_versions))
        .route("/{version_id}", get(versions::show_version))
        .nest("/v1.0/{project_id}/kms", kms)
        .nest("/keystead/v1/{project_id}", own)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), edge::bound));
    bounded
        .route("/healthz", get(operator::healthz))
        .route("/metrics", get(operator::metrics))
        .route("/openapi.json", get(operator::openapi))
        // No method is allowed where there is no path.
        .fallback(async || ([(ALLOW, "")], Refusal::not_offered()))
        .method_not_allowed_fallback(async || Refusal::not_offered())
        .layer(middleware::from_fn_with_state(Arc::clone(&app), edge::observe))
        .with_state(app)
}

/// Shows every key of the project that the filter means, in the order of their ids, until `each`
/// returns false. It costs the keys that are shown and, with a filter, those between them.
fn walk_keys(
    snap: &Snapshot<'_>,
    filter: &KeyFilter,
    mut each: impl FnMut(&KeyRecord) -> bool,
) -> keystead::Result<()> {
    let mut cursor = None;
    loop {
        let page = snap.keys_by_id(filter, cursor.as_ref().into(), Limit::MAX)?;
        if !page.items.iter().all(|key| each(key)) {
            return Ok(());
        }
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
