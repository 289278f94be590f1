//! Rotation of keys: on, off, how often, and what came of it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use keystead::{RotationInterval, Transaction};

use super::Answer;
use crate::caller::Call;
use crate::error::{Refusal, Refusals, refused};
use crate::state::App;
use crate::text;
use crate::wire::{
    Empty, OperateKeyBody, RotationStatus, UpdateRotationIntervalBody, key_id, parse, required, sequence,
};

/// Enables the rotation of a key, every 365 days.
#[utoipa::path(
    post, path = "/v1.0/{project_id}/kms/enable-key-rotation", tag = "rotation",
    params(("project_id" = String, Path)), request_body = OperateKeyBody,
    responses((status = 200, description = "Done", body = Empty), Refusals),
    security(("token" = []))
)]
pub(crate) async fn enable_key_rotation(State(app): State<Arc<App>>, call: Call) -> Answer<Empty> {
    let body: OperateKeyBody = parse(call.body())?;
    let sequence = sequence(body.sequence.as_deref())?;
    let key_id = key_id(body.key_id.as_deref())?;
    let enable = move |txn: &mut Transaction<'_>| {
        txn.enable_rotation(key_id, RotationInterval::default()).map(|_| Empty {})
    };
    app.write(&call, "enable-key-rotation", sequence, enable).await.map(Json)
}

/// Disables the rotation of a key.
#[utoipa::path(
    post, path = "/v1.0/{project_id}/kms/disable-key-rotation", tag = "rotation",
    params(("project_id" = String, Path)), request_body = OperateKeyBody,
    responses((status = 200, description = "Done", body = Empty), Refusals),
    security(("token" = []))
)]
pub(crate) async fn disable_key_rotation(State(app): State<Arc<App>>, call: Call) -> Answer<Empty> {
    let body: OperateKeyBody = parse(call.body())?;
    let sequence = sequence(body.sequence.as_deref())?;
    let key_id = key_id(body.key_id.as_deref())?;
    let disable = move |txn: &mut Transaction<'_>| txn.disable_rotation(key_id).map(|_| Empty {});
    app.write(&call, "disable-key-rotation", sequence, disable).await.map(Json)
}

/// Changes how often a key is rotated.
#[utoipa::path(
    post, path = "/v1.0/{project_id}/kms/update-key-rotation-interval", tag = "rotation",
    params(("project_id" = String, Path)), request_body = UpdateRotationIntervalBody,
    responses((status = 200, description = "Done", body = Empty), Refusals),
    security(("token" = []))
)]
pub(crate) async fn update_key_rotation_interval(State(app): State<Arc<App>>, call: Call) -> Answer<Empty> {
    let body: UpdateRotationIntervalBody = parse(call.body())?;
    let sequence = sequence(body.sequence.as_deref())?;
    let key_id = key_id(body.key_id.as_deref())?;
    let days = required(body.rotation_interval, "rotation_interval")?.value();
    let days = days
        .and_then(|days| u16::try_from(days).ok())
        .ok_or_else(|| Refusal::of_request("KMS.3001", "rotation_interval is not a number from 30 to 365"))?;
    let interval = RotationInterval::new(days).map_err(refused)?;
    let update =
        move |txn: &mut Transaction<'_>| txn.set_rotation_interval(key_id, interval).map(|_| Empty {});
    app.write(&call, "update-key-rotation-interval", sequence, update).await.map(Json)
}

/// Shows the rotation of a key.
#[utoipa::path(
    post, path = "/v1.0/{project_id}/kms/get-key-rotation-status", tag = "rotation",
    params(("project_id" = String, Path)), request_body = OperateKeyBody,
    responses((status = 200, description = "Done", body = RotationStatus), Refusals),
    security(("token" = []))
)]
pub(crate) async fn get_key_rotation_status(
    State(app): State<Arc<App>>,
    call: Call,
) -> Answer<RotationStatus> {
    let body: OperateKeyBody = parse(call.body())?;
    sequence(body.sequence.as_deref())?;
    let key_id = key_id(body.key_id.as_deref())?;
    let status = app.read(&call, move |snap| {
        let rotation = snap.key(key_id)?.rotation;
        Ok(RotationStatus {
            key_rotation_enabled: rotation.enabled,
            rotation_interval: rotation.interval_days.days(),
            last_rotation_time: text::millis(rotation.last_rotated_at),
            number_of_rotations: rotation.count,
        })
    });
    status.await.map(Json)
}
