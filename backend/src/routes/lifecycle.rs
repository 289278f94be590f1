//! The states of keys: enable, disable, schedule and cancel deletion.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use keystead::{KeyId, PendingDays, RequestId, Transaction};

use super::Answer;
use crate::caller::Call;
use crate::error::{Refusal, Refusals, refused};
use crate::state::App;
use crate::wire::{
    KeyInfo, KeyStatus, OperateKeyBody, ScheduleKeyDeletionBody, key_id, parse, required, sequence,
};

fn operated(call: &Call) -> Result<(KeyId, Option<RequestId>), Refusal> {
    let body: OperateKeyBody = parse(call.body())?;
    let sequence = sequence(body.sequence.as_deref())?;
    Ok((key_id(body.key_id.as_deref())?, sequence))
}

/// Enables a key.
#[utoipa::path(
    post, path = "/v1.0/{project_id}/kms/enable-key", tag = "keys",
    params(("project_id" = String, Path)), request_body = OperateKeyBody,
    responses((status = 200, description = "Done", body = KeyInfo<KeyStatus>), Refusals),
    security(("token" = []))
)]
pub(crate) async fn enable_key(State(app): State<Arc<App>>, call: Call) -> Answer<KeyInfo<KeyStatus>> {
    let (key_id, sequence) = operated(&call)?;
    let enable =
        move |txn: &mut Transaction<'_>| Ok(KeyInfo { key_info: KeyStatus::of(&*txn.enable(key_id)?) });
    app.write(&call, "enable-key", sequence, enable).await.map(Json)
}

/// Disables a key.
#[utoipa::path(
    post, path = "/v1.0/{project_id}/kms/disable-key", tag = "keys",
    params(("project_id" = String, Path)), request_body = OperateKeyBody,
    responses((status = 200, description = "Done", body = KeyInfo<KeyStatus>), Refusals),
    security(("token" = []))
)]
pub(crate) async fn disable_key(State(app): State<Arc<App>>, call: Call) -> Answer<KeyInfo<KeyStatus>> {
    let (key_id, sequence) = operated(&call)?;
    let disable =
        move |txn: &mut Transaction<'_>| Ok(KeyInfo { key_info: KeyStatus::of(&*txn.disable(key_id)?) });
    app.write(&call, "disable-key", sequence, disable).await.map(Json)
}

/// Schedules the deletion of a key.
#[utoipa::path(
    post, path = "/v1.0/{project_id}/kms/schedule-key-deletion", tag = "keys",
    params(("project_id" = String, Path)), request_body = ScheduleKeyDeletionBody,
    responses((status = 200, description = "Done", body = KeyStatus), Refusals),
    security(("token" = []))
)]
pub(crate) async fn schedule_key_deletion(State(app): State<Arc<App>>, call: Call) -> Answer<KeyStatus> {
    let body: ScheduleKeyDeletionBody = parse(call.body())?;
    let sequence = sequence(body.sequence.as_deref())?;
    let key_id = key_id(body.key_id.as_deref())?;
    let days = required(body.pending_days, "pending_days")?.value();
    let days = days
        .and_then(|days| u16::try_from(days).ok())
        .ok_or_else(|| Refusal::of_request("KMS.1401", "pending_days is not a number from 7 to 1096"))?;
    let days = PendingDays::new(days).map_err(refused)?;
    let schedule = move |txn: &mut Transaction<'_>| Ok(KeyStatus::of(&*txn.schedule_deletion(key_id, days)?));
    app.write(&call, "schedule-key-deletion", sequence, schedule).await.map(Json)
}

/// Cancels the scheduled deletion of a key.
#[utoipa::path(
    post, path = "/v1.0/{project_id}/kms/cancel-key-deletion", tag = "keys",
    params(("project_id" = String, Path)), request_body = OperateKeyBody,
    responses((status = 200, description = "Done", body = KeyStatus), Refusals),
    security(("token" = []))
)]
pub(crate) async fn cancel_key_deletion(State(app): State<Arc<App>>, call: Call) -> Answer<KeyStatus> {
    let (key_id, sequence) = operated(&call)?;
    let cancel = move |txn: &mut Transaction<'_>| Ok(KeyStatus::of(&*txn.cancel_deletion(key_id)?));
    app.write(&call, "cancel-key-deletion", sequence, cancel).await.map(Json)
}
