//! What happened to an alias or a key: our own, not part of the service's API.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use keystead::{
    Alias, AliasRecord, ChangeRecord, Cursor, HistoryOf, Images, InvalidCursor, KeyRecord, Limit, Order,
    Page, Region,
};

use super::Answer;
use super::tags::items_of;
use crate::caller::Call;
use crate::error::{Refusal, RefusalBody, Refusals, refused};
use crate::state::App;
use crate::text;
use crate::wire::{AliasEntity, History, HistoryEntry, KeyDetails, KeyImage, digits, key_id};

fn part(call: &Call) -> Result<(Option<Cursor>, Limit), Refusal> {
    let after = call.query("after")?.map(str::parse).transpose().map_err(refused::<InvalidCursor>)?;
    let limit = match call.query("limit")? {
        None => Some(Limit::default()),
        Some(text) => digits(text).and_then(|limit| Limit::new(usize::try_from(limit).ok()?).ok()),
    };
    let limit = limit.ok_or_else(|| Refusal::of_request("KMS.1601", "limit is not a number from 1 to 1000"));
    Ok((after, limit?))
}

fn entry<T>(change: ChangeRecord, images: impl FnOnce(&Images) -> [Option<T>; 2]) -> HistoryEntry<T> {
    let [before, after] = images(&change.change.images);
    let operation = serde_json::to_value(change.change.operation).ok();
    HistoryEntry {
        commit: change.info.commit.number(),
        time: text::rfc3339(change.change.time),
        operation: operation.and_then(|name| Some(name.as_str()?.to_owned())).unwrap_or_default(),
        actor: change.info.actor.as_deref().map(str::to_owned),
        request_id: change.info.request_id.map(|id| id.to_string()),
        before,
        after,
    }
}

fn history<T>(page: Page<ChangeRecord>, images: impl Fn(&Images) -> [Option<T>; 2]) -> History<T> {
    let next = page.next.map(|cursor| cursor.to_string());
    History { changes: page.items.into_iter().map(|change| entry(change, &images)).collect(), next }
}

fn alias_images(images: &Images, region: &Region) -> [Option<AliasEntity>; 2] {
    let show = |record: &Arc<AliasRecord>| AliasEntity::of(record, region);
    match images {
        Images::Alias { before, after } => [before.as_ref().map(show), after.as_ref().map(show)],
        Images::Key { .. } => [None, None],
    }
}

fn key_images(images: &Images, region: &Region) -> [Option<KeyImage>; 2] {
    let show = |record: &Arc<KeyRecord>| KeyImage {
        details: KeyDetails::of(record, region),
        tags: items_of(record),
        rotation_interval: record.rotation.interval_days.days(),
    };
    match images {
        Images::Key { before, after } => [before.as_ref().map(show), after.as_ref().map(show)],
        Images::Alias { .. } => [None, None],
    }
}

/// What happened to an alias, also after it was deleted.
#[utoipa::path(
    get, path = "/keystead/v1/{project_id}/aliases/{alias}/history", tag = "keystead",
    params(
        ("project_id" = String, Path),
        ("alias" = String, Path),
        ("limit" = Option<String>, Query, description = "1 to 1000, 100 by default"),
        ("after" = Option<String>, Query, description = "The `next` of the page before"),
    ),
    responses(
        (status = 200, description = "Done", body = History<AliasEntity>),
        (status = 410, body = RefusalBody, description = "That part of the history was trimmed"),
        Refusals,
    ),
    security(("token" = []))
)]
pub(crate) async fn alias_history(State(app): State<Arc<App>>, call: Call) -> Answer<History<AliasEntity>> {
    let (after, limit) = part(&call)?;
    let alias = Alias::new(call.part("alias")?).map_err(refused)?;
    let region = app.store.region().clone();
    let history = app.read(&call, move |snap| {
        let page =
            snap.history(HistoryOf::Alias(&alias), Order::NewestFirst, after.as_ref().into(), limit)?;
        Ok(history(page, |images| alias_images(images, &region)))
    });
    history.await.map(Json)
}

/// What happened to a key, also after it was purged.
#[utoipa::path(
    get, path = "/keystead/v1/{project_id}/keys/{key_id}/history", tag = "keystead",
    params(
        ("project_id" = String, Path),
        ("key_id" = String, Path),
        ("limit" = Option<String>, Query, description = "1 to 1000, 100 by default"),
        ("after" = Option<String>, Query, description = "The `next` of the page before"),
    ),
    responses(
        (status = 200, description = "Done", body = History<KeyImage>),
        (status = 410, body = RefusalBody, description = "That part of the history was trimmed"),
        Refusals,
    ),
    security(("token" = []))
)]
pub(crate) async fn key_history(State(app): State<Arc<App>>, call: Call) -> Answer<History<KeyImage>> {
    let (after, limit) = part(&call)?;
    let key_id = key_id(Some(call.part("key_id")?))?;
    let region = app.store.region().clone();
    let history = app.read(&call, move |snap| {
        let page = snap.history(HistoryOf::Key(key_id), Order::NewestFirst, after.as_ref().into(), limit)?;
        Ok(history(page, |images| key_images(images, &region)))
    });
    history.await.map(Json)
}
