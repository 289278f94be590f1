//! What a project has and may have: its number of keys, its quotas.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::Answer;
use crate::caller::Call;
use crate::error::Refusals;
use crate::state::App;
use crate::wire::{QuotaList, QuotaOfResource, UserInstances, UserQuotas};

/// How many keys the project has, those of the platform not counted.
#[utoipa::path(
    get, path = "/v1.0/{project_id}/kms/user-instances", tag = "account",
    params(("project_id" = String, Path)),
    responses((status = 200, description = "Done", body = UserInstances), Refusals),
    security(("token" = []))
)]
pub(crate) async fn user_instances(State(app): State<Arc<App>>, call: Call) -> Answer<UserInstances> {
    let instance_num = app.read(&call, |snap| snap.count_keys_in_quota()).await?;
    Ok(Json(UserInstances { instance_num }))
}

/// The project's quotas. Grants are not part of this service.
#[utoipa::path(
    get, path = "/v1.0/{project_id}/kms/user-quotas", tag = "account",
    params(("project_id" = String, Path)),
    responses((status = 200, description = "Done", body = UserQuotas), Refusals),
    security(("token" = []))
)]
pub(crate) async fn user_quotas(State(app): State<Arc<App>>, call: Call) -> Answer<UserQuotas> {
    let used = app.read(&call, |snap| snap.count_keys_in_quota()).await?;
    let quota = app.store.quotas().keys_per_project;
    let keys = QuotaOfResource { kind: "CMK".to_owned(), used, quota };
    Ok(Json(UserQuotas { quotas: QuotaList { resources: vec![keys] } }))
}
