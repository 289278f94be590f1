//! The versions of the API. Anyone may ask.

use axum::Json;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;

use super::Answer;
use crate::error::{Refusal, RefusalBody};
use crate::wire::{ApiLink, ApiVersion, Version, Versions};

fn current() -> ApiVersion {
    ApiVersion {
        id: "v1.0".to_owned(),
        links: vec![ApiLink { href: "/v1.0".to_owned(), rel: "self".to_owned() }],
        version: String::new(),
        status: "CURRENT".to_owned(),
        updated: "2016-10-29T00:00:00Z".to_owned(),
        min_version: String::new(),
    }
}

/// Lists the versions of the API.
#[utoipa::path(get, path = "/", tag = "versions", responses((status = 200, description = "Done", body = Versions)))]
pub(crate) async fn list_versions() -> Json<Versions> {
    Json(Versions { versions: vec![current()] })
}

/// Shows one version of the API.
#[utoipa::path(
    get, path = "/{version_id}", tag = "versions",
    params(("version_id" = String, Path, example = "v1.0")),
    responses((status = 200, description = "Done", body = Version), (status = 404, description = "There is no such version", body = RefusalBody))
)]
pub(crate) async fn show_version(path: Result<Path<String>, PathRejection>) -> Answer<Version> {
    match path {
        Ok(Path(version_id)) if version_id == "v1.0" => Ok(Json(Version { version: current() })),
        _ => Err(Refusal::no_such_version()),
    }
}
