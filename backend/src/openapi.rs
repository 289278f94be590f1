//! The OpenAPI description of the service.

use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};

use crate::error::RefusalBody;
use crate::routes::{account, aliases, history, keys, lifecycle, lists, operator, rotation, tags, versions};

/// Gathers the descriptions that stand beside each handler.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "keystead-kms",
        description = "An example of keystead: keys and aliases by the Huawei Cloud KMS API v1.0.\n\n\
            Requests are signed with SDK-HMAC-SHA256, or carry a token. What lies below /keystead is not \
            part of that API.",
        version = "1.0",
        license(name = "MIT OR Apache-2.0"),
    ),
    paths(
        versions::list_versions, versions::show_version,
        keys::create_key, keys::describe_key, keys::update_key_alias, keys::update_key_description,
        lists::list_keys, lists::list_resources,
        lifecycle::enable_key, lifecycle::disable_key, lifecycle::schedule_key_deletion,
        lifecycle::cancel_key_deletion,
        aliases::create_alias, aliases::delete_aliases, aliases::list_aliases, aliases::associate_alias,
        rotation::enable_key_rotation, rotation::disable_key_rotation,
        rotation::update_key_rotation_interval, rotation::get_key_rotation_status,
        tags::create_tag, tags::list_tags, tags::batch_tags, tags::delete_tag, tags::list_project_tags,
        account::user_instances, account::user_quotas,
        history::alias_history, history::key_history,
        operator::healthz, operator::metrics, operator::openapi,
    ),
    components(schemas(RefusalBody)),
    modifiers(&Security),
)]
pub(crate) struct Description;

struct Security;

impl utoipa::Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let header = "A token. The SDK signs requests instead: `Authorization: SDK-HMAC-SHA256 ...`.";
        let token = ApiKey::Header(ApiKeyValue::with_description("X-Auth-Token", header));
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::ApiKey(token));
    }
}

/// The description as the file `docs/openapi.json` has it.
pub(crate) fn text() -> Result<String, serde_json::Error> {
    Ok(Description::openapi().to_pretty_json()? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_description_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
        let checked_in = std::fs::read_to_string(path).unwrap();
        let again = "cargo run -p keystead-kms -- --print-openapi > docs/openapi.json";
        assert!(checked_in == text().unwrap(), "docs/openapi.json is out of date: {again}");
    }
}
