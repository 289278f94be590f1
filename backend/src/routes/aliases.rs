//! Aliases: create, delete, list, and associate with another key.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use keystead::{After, Alias, InvalidAlias, InvalidKeyId, Limit, Transaction};

use super::Answer;
use crate::caller::Call;
use crate::error::{Refusal, Refusals, refused};
use crate::state::App;
use crate::wire::{
    AliasEntity, AliasList, AssociateAliasBody, CreateAliasBody, DeleteAliasBody, Empty, PageInfo, digits,
    key_id, parse, required, sequence,
};

/// The most aliases of a page, and as many if nothing is said.
const PAGE_MAX: u64 = 100;

fn alias(text: Option<&str>) -> Result<Alias, Refusal> {
    Alias::new(required(text, "alias")?).map_err(refused)
}

/// Creates an alias of a key.
#[utoipa::path(
    post, path = "/v1.0/{project_id}/kms/aliases", tag = "aliases",
    params(("project_id" = String, Path)), request_body = CreateAliasBody,
    responses((status = 201, description = "Done", body = AliasEntity), Refusals),
    security(("token" = []))
)]
pub(crate) async fn create_alias(
    State(app): State<Arc<App>>,
    call: Call,
) -> Result<(StatusCode, Json<AliasEntity>), Refusal> {
    let body: CreateAliasBody = parse(call.body())?;
    let sequence = sequence(body.sequence.as_deref())?;
    let alias = alias(body.alias.as_deref())?;
    let key_id = key_id(body.key_id.as_deref())?;
    let region = app.store.region().clone();
    let create =
        move |txn: &mut Transaction<'_>| Ok(AliasEntity::of(&*txn.create_alias(&alias, key_id)?, &region));
    let created = app.write(&call, "create-alias", sequence, create).await?;
    Ok((StatusCode::CREATED, Json(created)))
}

/// Deletes aliases of a key: all of those named, or none.
#[utoipa::path(
    delete, path = "/v1.0/{project_id}/kms/aliases", tag = "aliases",
    params(("project_id" = String, Path)), request_body = DeleteAliasBody,
    responses((status = 204, description = "They are gone"), Refusals),
    security(("token" = []))
)]
pub(crate) async fn delete_aliases(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, Refusal> {
    let body: DeleteAliasBody = parse(call.body())?;
    let sequence = sequence(body.sequence.as_deref())?;
    let names = required(body.aliases, "aliases")?;
    let aliases =
        names.iter().map(|name| Alias::new(name)).collect::<Result<Vec<_>, _>>().map_err(refused)?;
    let key_id = key_id(body.key_id.as_deref())?;
    let delete = move |txn: &mut Transaction<'_>| txn.delete_aliases(key_id, &aliases).map(|()| Empty {});
    app.write(&call, "delete-alias", sequence, delete).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the aliases of the project, or of one key, by name.
#[utoipa::path(
    get, path = "/v1.0/{project_id}/kms/aliases", tag = "aliases",
    params(
        ("project_id" = String, Path),
        ("key_id" = Option<String>, Query, description = "Only the aliases of this key"),
        ("limit" = Option<String>, Query, description = "1 to 100, which is the default"),
        ("marker" = Option<String>, Query, description = "The last alias of the page before"),
    ),
    responses((status = 200, description = "Done", body = AliasList), Refusals),
    security(("token" = []))
)]
pub(crate) async fn list_aliases(State(app): State<Arc<App>>, call: Call) -> Answer<AliasList> {
    let key_id = call.query("key_id")?.map(str::parse).transpose().map_err(refused::<InvalidKeyId>)?;
    let limit = call.query("limit")?.map_or(Some(PAGE_MAX), digits).filter(|limit| *limit <= PAGE_MAX);
    let limit = limit.and_then(|limit| Limit::new(usize::try_from(limit).ok()?).ok());
    let limit =
        limit.ok_or_else(|| Refusal::of_request("KMS.1601", "limit is not a number from 1 to 100"))?;
    let marker = call.query("marker")?.map(Alias::new).transpose().map_err(|_: InvalidAlias| {
        Refusal::of_request("KMS.1602", "marker is not the last alias of a page")
    })?;
    let region = app.store.region().clone();
    let list = app.read(&call, move |snap| {
        let after = marker.as_ref().map_or(After::Start, After::Item);
        let page = match key_id {
            Some(key_id) => snap.aliases_of_key(key_id, after, limit)?,
            None => snap.aliases(after, limit)?,
        };
        let last = page.items.last().filter(|_| page.next.is_some());
        let next_marker = last.map(|record| record.alias.to_string()).unwrap_or_default();
        let aliases: Vec<_> = page.items.iter().map(|record| AliasEntity::of(record, &region)).collect();
        let page_info = PageInfo { next_marker, current_count: aliases.len() };
        Ok(AliasList { aliases, page_info })
    });
    list.await.map(Json)
}

/// Moves an alias to another key.
#[utoipa::path(
    post, path = "/v1.0/{project_id}/kms/alias/associate", tag = "aliases",
    params(("project_id" = String, Path)), request_body = AssociateAliasBody,
    responses((status = 200, description = "Done", body = AliasEntity), Refusals),
    security(("token" = []))
)]
pub(crate) async fn associate_alias(State(app): State<Arc<App>>, call: Call) -> Answer<AliasEntity> {
    let body: AssociateAliasBody = parse(call.body())?;
    let sequence = sequence(body.sequence.as_deref())?;
    let alias = alias(body.alias.as_deref())?;
    let target = required(body.target_key_id.as_deref(), "target_key_id")?;
    let target = target.parse().map_err(refused::<InvalidKeyId>)?;
    let region = app.store.region().clone();
    let associate = move |txn: &mut Transaction<'_>| {
        Ok(AliasEntity::of(&txn.associate_alias(&alias, target)?.alias, &region))
    };
    app.write(&call, "associate-alias", sequence, associate).await.map(Json)
}
