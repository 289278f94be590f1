//! Tags of keys, and all tags of a project.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use keystead::{KeyFilter, KeyId, KeyRecord, RequestId, TagKey, TagValue, Tags, Transaction};

use super::{Answer, walk_keys};
use crate::caller::Call;
use crate::error::{Refusal, Refusals, refused};
use crate::state::App;
use crate::wire::{
    BatchTagsBody, CreateTagBody, Empty, KeyTags, ProjectTags, TagBody, TagItem, TagValues, key_id, parse,
    required, sequence,
};

/// The tags of a key, as the API writes them.
pub(crate) fn items_of(key: &KeyRecord) -> Vec<TagItem> {
    let tags = key.tags.iter();
    tags.map(|(key, value)| TagItem { key: key.to_string(), value: value.to_string() }).collect()
}

fn tag_key(text: Option<&str>) -> Result<TagKey, Refusal> {
    TagKey::new(required(text, "key")?).map_err(refused)
}

fn tag(tag: &TagBody) -> Result<(TagKey, TagValue), Refusal> {
    let value = TagValue::new(tag.value.as_deref().unwrap_or_default()).map_err(refused)?;
    Ok((tag_key(tag.key.as_deref())?, value))
}

async fn set_tags(
    app: &Arc<App>,
    call: &Call,
    (key_id, tags): (KeyId, Tags),
    sequence: Option<RequestId>,
) -> Result<StatusCode, Refusal> {
    let set = move |txn: &mut Transaction<'_>| txn.set_tags(key_id, &tags).map(|_| Empty {});
    app.write(call, "create-tags", sequence, set).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove_tags(
    app: &Arc<App>,
    call: &Call,
    (key_id, tags): (KeyId, Vec<TagKey>),
    sequence: Option<RequestId>,
) -> Result<StatusCode, Refusal> {
    let remove = move |txn: &mut Transaction<'_>| txn.remove_tags(key_id, &tags).map(|_| Empty {});
    app.write(call, "delete-tags", sequence, remove).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Adds a tag to a key, or changes its value.
#[utoipa::path(
    post, path = "/v1.0/{project_id}/kms/{key_id}/tags", tag = "tags",
    params(("project_id" = String, Path), ("key_id" = String, Path)), request_body = CreateTagBody,
    responses((status = 204, description = "It is there"), Refusals),
    security(("token" = []))
)]
pub(crate) async fn create_tag(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, Refusal> {
    let body: CreateTagBody = parse(call.body())?;
    let sequence = sequence(body.sequence.as_deref())?;
    let tags = Tags::from([tag(&required(body.tag, "tag")?)?]);
    set_tags(&app, &call, (key_id(Some(call.part("key_id")?))?, tags), sequence).await
}

/// Shows the tags of a key.
#[utoipa::path(
    get, path = "/v1.0/{project_id}/kms/{key_id}/tags", tag = "tags",
    params(("project_id" = String, Path), ("key_id" = String, Path)),
    responses((status = 200, description = "Done", body = KeyTags), Refusals),
    security(("token" = []))
)]
pub(crate) async fn list_tags(State(app): State<Arc<App>>, call: Call) -> Answer<KeyTags> {
    let key_id = key_id(Some(call.part("key_id")?))?;
    let tags = app.read(&call, move |snap| Ok(items_of(&*snap.key(key_id)?))).await?;
    Ok(Json(KeyTags { exist_tags_num: tags.len(), tags }))
}

/// Adds or deletes several tags of a key: all or none.
#[utoipa::path(
    post, path = "/v1.0/{project_id}/kms/{key_id}/tags/action", tag = "tags",
    params(("project_id" = String, Path), ("key_id" = String, Path)), request_body = BatchTagsBody,
    responses((status = 204, description = "Done"), Refusals),
    security(("token" = []))
)]
pub(crate) async fn batch_tags(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, Refusal> {
    let body: BatchTagsBody = parse(call.body())?;
    let sequence = sequence(body.sequence.as_deref())?;
    let given = required(body.tags.filter(|tags| !tags.is_empty()), "tags")?;
    let keys = given.iter().map(|tag| tag_key(tag.key.as_deref())).collect::<Result<Vec<_>, _>>()?;
    if keys.iter().collect::<BTreeSet<_>>().len() < keys.len() {
        return Err(Refusal::of_request("KMS.0406", "a tag key is there twice"));
    }
    let key_id = key_id(Some(call.part("key_id")?))?;
    match required(body.action.as_deref(), "action")? {
        "create" => {
            let tags = given.iter().map(tag).collect::<Result<Tags, _>>()?;
            set_tags(&app, &call, (key_id, tags), sequence).await
        }
        "delete" => remove_tags(&app, &call, (key_id, keys), sequence).await,
        _ => Err(Refusal::invalid("action is neither create nor delete")),
    }
}

/// Deletes a tag of a key.
#[utoipa::path(
    delete, path = "/v1.0/{project_id}/kms/{key_id}/tags/{key}", tag = "tags",
    params(("project_id" = String, Path), ("key_id" = String, Path), ("key" = String, Path)),
    responses((status = 204, description = "It is gone"), Refusals),
    security(("token" = []))
)]
pub(crate) async fn delete_tag(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, Refusal> {
    // `tags/action` has a route of its own; to delete, it names a tag like any other.
    let tags = vec![tag_key(Some(call.part("key").unwrap_or("action")))?];
    remove_tags(&app, &call, (key_id(Some(call.part("key_id")?))?, tags), None).await
}

/// Lists all tags of the project's keys. It costs the keys of the project.
#[utoipa::path(
    get, path = "/v1.0/{project_id}/kms/tags", tag = "tags",
    params(("project_id" = String, Path)),
    responses((status = 200, description = "Done", body = ProjectTags), Refusals),
    security(("token" = []))
)]
pub(crate) async fn list_project_tags(State(app): State<Arc<App>>, call: Call) -> Answer<ProjectTags> {
    let tags = app.read(&call, |snap| {
        let mut tags: BTreeMap<TagKey, BTreeSet<TagValue>> = BTreeMap::new();
        walk_keys(snap, &KeyFilter::all(), |key| {
            for (tag, value) in &key.tags {
                tags.entry(tag.clone()).or_default().insert(value.clone());
            }
            true
        })?;
        Ok(tags)
    });
    let tags = tags.await?.into_iter().map(|(key, values)| TagValues {
        key: key.to_string(),
        values: values.iter().map(TagValue::to_string).collect(),
    });
    Ok(Json(ProjectTags { tags: tags.collect() }))
}
