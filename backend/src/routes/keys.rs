//! Keys: create, describe, rename, and their description.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use keystead::{
    AliasUrn, Description, EnterpriseProjectId, InvalidAlias, KeyAlias, KeyId, KeySpec, KeystoreId, NewKey,
};

use super::Answer;
use crate::caller::Call;
use crate::error::{Refusal, Refusals, refused};
use crate::state::App;
use crate::wire::{
    CreateKeyBody, CreatedKey, KeyDescription, KeyDetails, KeyInfo, KeyName, OperateKeyBody,
    UpdateKeyAliasBody, UpdateKeyDescriptionBody, key_id, parse, required, sequence,
};

/// Creates a key.
#[utoipa::path(
    post, path = "/v1.0/{project_id}/kms/create-key", tag = "keys",
    params(("project_id" = String, Path)), request_body = CreateKeyBody,
    responses((status = 200, description = "Done", body = KeyInfo<CreatedKey>), Refusals),
    security(("token" = []))
)]
pub(crate) async fn create_key(State(app): State<Arc<App>>, call: Call) -> Answer<KeyInfo<CreatedKey>> {
    let body: CreateKeyBody = parse(call.body())?;
    let sequence = sequence(body.sequence.as_deref())?;
    let new = new_key(&body)?;
    let region = app.store.region().clone();
    let create = move |txn: &mut keystead::Transaction<'_>| {
        Ok(KeyInfo { key_info: CreatedKey::of(&*txn.create_key(&new)?, &region) })
    };
    app.write(&call, "create-key", sequence, create).await.map(Json)
}

fn new_key(body: &CreateKeyBody) -> Result<NewKey, Refusal> {
    let name = required(body.key_alias.as_deref(), "key_alias")?;
    let mut new = NewKey::new(name).map_err(refused)?;
    if let Some(spec) = &body.key_spec {
        new = new.spec(spec.parse::<KeySpec>().map_err(refused)?);
    }
    if let Some(usage) = &body.key_usage {
        new = new.usage(usage.parse().map_err(refused::<keystead::InvalidKeySpec>)?);
    }
    if let Some(origin) = &body.origin {
        new = new.origin(origin.parse().map_err(refused::<keystead::InvalidKeySpec>)?);
    }
    if let Some(description) = &body.key_description {
        new = new.description(Description::new(description).map_err(refused)?);
    }
    if let Some(id) = &body.enterprise_project_id {
        new = new.enterprise_project(EnterpriseProjectId::new(id).map_err(refused)?);
    }
    if let Some(id) = &body.keystore_id {
        new = new.keystore(KeystoreId::new(id).map_err(refused)?);
    }
    Ok(new)
}

/// How describe-key may name a key.
enum Named {
    Id(KeyId),
    /// An alias, as its URN.
    Alias(AliasUrn),
}

/// Describes a key, by its id, by `alias/` and an alias, or by an alias's URN.
#[utoipa::path(
    post, path = "/v1.0/{project_id}/kms/describe-key", tag = "keys",
    params(("project_id" = String, Path)), request_body = OperateKeyBody,
    responses((status = 200, description = "Done", body = KeyInfo<KeyDetails>), Refusals),
    security(("token" = []))
)]
pub(crate) async fn describe_key(State(app): State<Arc<App>>, call: Call) -> Answer<KeyInfo<KeyDetails>> {
    let body: OperateKeyBody = parse(call.body())?;
    sequence(body.sequence.as_deref())?;
    let named = named(required(body.key_id.as_deref(), "key_id")?, &app, &call)?;
    let region = app.store.region().clone();
    let details = app.read(&call, move |snap| {
        let key = match named {
            Named::Id(key_id) => snap.key(key_id)?,
            Named::Alias(urn) => snap.resolve_urn(&urn)?,
        };
        Ok(KeyInfo { key_info: KeyDetails::of(&key, &region) })
    });
    details.await.map(Json)
}

fn named(text: &str, app: &App, call: &Call) -> Result<Named, Refusal> {
    if text.starts_with("kms:") {
        return text.parse().map(Named::Alias).map_err(refused::<InvalidAlias>);
    }
    // What follows is the name in the URN, which is that of the alias with or without this prefix. So it may
    // be `default`, and as long as an alias.
    if let Some(name) = text.strip_prefix("alias/") {
        let urn = format!("kms:{}:{}:alias:{name}", app.store.region(), call.scope.domain());
        return urn.parse().map(Named::Alias).map_err(refused::<InvalidAlias>);
    }
    key_id(Some(text)).map(Named::Id)
}

/// Renames a key.
#[utoipa::path(
    post, path = "/v1.0/{project_id}/kms/update-key-alias", tag = "keys",
    params(("project_id" = String, Path)), request_body = UpdateKeyAliasBody,
    responses((status = 200, description = "Done", body = KeyInfo<KeyName>), Refusals),
    security(("token" = []))
)]
pub(crate) async fn update_key_alias(State(app): State<Arc<App>>, call: Call) -> Answer<KeyInfo<KeyName>> {
    let body: UpdateKeyAliasBody = parse(call.body())?;
    let sequence = sequence(body.sequence.as_deref())?;
    let name = KeyAlias::new(required(body.key_alias.as_deref(), "key_alias")?).map_err(refused)?;
    if name.is_reserved() {
        // Before the key is looked for, also if its id can name none.
        return Err(refused(InvalidAlias::Reserved));
    }
    let key_id = key_id(body.key_id.as_deref())?;
    let rename = move |txn: &mut keystead::Transaction<'_>| {
        Ok(KeyInfo { key_info: KeyName::of(&txn.rename_key_alias(key_id, &name)?.key) })
    };
    app.write(&call, "update-key-alias", sequence, rename).await.map(Json)
}

/// Changes the description of a key.
#[utoipa::path(
    post, path = "/v1.0/{project_id}/kms/update-key-description", tag = "keys",
    params(("project_id" = String, Path)), request_body = UpdateKeyDescriptionBody,
    responses((status = 200, description = "Done", body = KeyInfo<KeyDescription>), Refusals),
    security(("token" = []))
)]
pub(crate) async fn update_key_description(
    State(app): State<Arc<App>>,
    call: Call,
) -> Answer<KeyInfo<KeyDescription>> {
    let body: UpdateKeyDescriptionBody = parse(call.body())?;
    let sequence = sequence(body.sequence.as_deref())?;
    let key_id = key_id(body.key_id.as_deref())?;
    let text = required(body.key_description.as_deref(), "key_description")?;
    let description = Description::new(text).map_err(refused)?;
    let update = move |txn: &mut keystead::Transaction<'_>| {
        Ok(KeyInfo { key_info: KeyDescription::of(&*txn.update_description(key_id, &description)?) })
    };
    app.write(&call, "update-key-description", sequence, update).await.map(Json)
}
