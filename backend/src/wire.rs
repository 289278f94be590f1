//! The JSON of requests and answers, field for field as the SDK's own classes have it.

mod given;

use keystead::{AliasRecord, KeyRecord, Region};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::text;

pub(crate) use self::given::{Number, digits, key_id, parse, required, sequence};

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct CreateKeyBody {
    #[schema(required, nullable = false, pattern = "^[a-zA-Z0-9:/_-]{1,255}$", example = "orders")]
    pub(crate) key_alias: Option<String>,
    #[schema(example = "AES_256")]
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) key_spec: Option<String>,
    #[schema(example = "ENCRYPT_DECRYPT")]
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) key_usage: Option<String>,
    #[schema(max_length = 255)]
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) key_description: Option<String>,
    #[schema(example = "kms")]
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) origin: Option<String>,
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) enterprise_project_id: Option<String>,
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) keystore_id: Option<String>,
    #[schema(pattern = "^([0-9A-Za-z-]{36})?$")]
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) sequence: Option<String>,
}

/// The body of every operation that takes one key and nothing else: its id, or, to describe it, also
/// `alias/` and an alias, or an alias's URN.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct OperateKeyBody {
    #[schema(required, nullable = false, example = "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e")]
    pub(crate) key_id: Option<String>,
    #[schema(pattern = "^([0-9A-Za-z-]{36})?$")]
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) sequence: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct ScheduleKeyDeletionBody {
    #[schema(
        required,
        nullable = false,
        pattern = "^[0-9a-z]{8}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{12}$"
    )]
    pub(crate) key_id: Option<String>,
    /// 7 to 1096.
    #[schema(required, nullable = false)]
    pub(crate) pending_days: Option<Number>,
    #[schema(pattern = "^([0-9A-Za-z-]{36})?$")]
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) sequence: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct UpdateKeyAliasBody {
    #[schema(
        required,
        nullable = false,
        example = "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e",
        pattern = "^[0-9a-z]{8}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{12}$"
    )]
    pub(crate) key_id: Option<String>,
    #[schema(required, nullable = false, example = "test")]
    pub(crate) key_alias: Option<String>,
    #[schema(pattern = "^([0-9A-Za-z-]{36})?$")]
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) sequence: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct UpdateKeyDescriptionBody {
    #[schema(
        required,
        nullable = false,
        pattern = "^[0-9a-z]{8}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{12}$"
    )]
    pub(crate) key_id: Option<String>,
    #[schema(required, nullable = false, max_length = 255)]
    pub(crate) key_description: Option<String>,
    #[schema(pattern = "^([0-9A-Za-z-]{36})?$")]
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) sequence: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct UpdateRotationIntervalBody {
    #[schema(
        required,
        nullable = false,
        pattern = "^[0-9a-z]{8}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{12}$"
    )]
    pub(crate) key_id: Option<String>,
    /// 30 to 365.
    #[schema(required, nullable = false)]
    pub(crate) rotation_interval: Option<Number>,
    #[schema(pattern = "^([0-9A-Za-z-]{36})?$")]
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) sequence: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct ListKeysBody {
    /// 1 to 2000, which is the default.
    #[serde(default, deserialize_with = "given::number")]
    pub(crate) limit: Option<Number>,
    /// The `next_marker` of the page before.
    #[serde(default, deserialize_with = "given::number")]
    pub(crate) marker: Option<Number>,
    /// `1` to `5`.
    #[serde(default, deserialize_with = "given::number")]
    pub(crate) key_state: Option<Number>,
    /// `AES_256` by default; `ALL` for all.
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) key_spec: Option<String>,
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) enterprise_project_id: Option<String>,
    #[schema(pattern = "^([0-9A-Za-z-]{36})?$")]
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) sequence: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct CreateAliasBody {
    #[schema(
        required,
        nullable = false,
        pattern = "^[0-9a-z]{8}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{12}$"
    )]
    pub(crate) key_id: Option<String>,
    #[schema(required, nullable = false, example = "kms-1234")]
    pub(crate) alias: Option<String>,
    #[schema(pattern = "^([0-9A-Za-z-]{36})?$")]
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) sequence: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct DeleteAliasBody {
    #[schema(
        required,
        nullable = false,
        pattern = "^[0-9a-z]{8}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{12}$"
    )]
    pub(crate) key_id: Option<String>,
    /// 1 to 50 distinct aliases of the key.
    #[schema(required, nullable = false)]
    pub(crate) aliases: Option<Vec<String>>,
    #[schema(pattern = "^([0-9A-Za-z-]{36})?$")]
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) sequence: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct AssociateAliasBody {
    #[schema(
        required,
        nullable = false,
        example = "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e",
        pattern = "^[0-9a-z]{8}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{12}$"
    )]
    pub(crate) target_key_id: Option<String>,
    #[schema(required, nullable = false, example = "kms-1234")]
    pub(crate) alias: Option<String>,
    #[schema(pattern = "^([0-9A-Za-z-]{36})?$")]
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) sequence: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct CreateTagBody {
    #[schema(required, nullable = false)]
    pub(crate) tag: Option<TagBody>,
    #[schema(pattern = "^([0-9A-Za-z-]{36})?$")]
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) sequence: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct BatchTagsBody {
    /// `create` or `delete`.
    #[schema(required, nullable = false)]
    pub(crate) action: Option<String>,
    #[schema(required, nullable = false)]
    pub(crate) tags: Option<Vec<TagBody>>,
    #[schema(pattern = "^([0-9A-Za-z-]{36})?$")]
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) sequence: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct TagBody {
    #[schema(required, nullable = false)]
    pub(crate) key: Option<String>,
    pub(crate) value: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct ResourcesBody {
    /// `filter`, which is the default, or `count`.
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) action: Option<String>,
    /// 1 to 1000, 10 by default.
    #[serde(default, deserialize_with = "given::number")]
    pub(crate) limit: Option<Number>,
    /// How many keys to leave out.
    #[serde(default, deserialize_with = "given::number")]
    pub(crate) offset: Option<Number>,
    /// A key must have all of these tags.
    pub(crate) tags: Option<Vec<WantedTag>>,
    /// `resource_name` and a part of the key's own name.
    pub(crate) matches: Option<Vec<TagBody>>,
    #[schema(pattern = "^([0-9A-Za-z-]{36})?$")]
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) sequence: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct WantedTag {
    #[schema(required, nullable = false)]
    pub(crate) key: Option<String>,
    /// The tag must have each of these values; any, if there are none.
    pub(crate) values: Option<Vec<String>>,
}

/// An answer without fields.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Empty {}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct KeyInfo<T> {
    pub(crate) key_info: T,
}

/// A created key.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct CreatedKey {
    key_id: String,
    domain_id: String,
    region_id: String,
}

impl CreatedKey {
    pub(crate) fn of(key: &KeyRecord, region: &Region) -> Self {
        Self {
            key_id: key.key_id.to_string(),
            domain_id: key.domain_id.to_string(),
            region_id: region.to_string(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct KeyStatus {
    key_id: String,
    #[schema(example = "2")]
    key_state: String,
}

impl KeyStatus {
    pub(crate) fn of(key: &KeyRecord) -> Self {
        Self { key_id: key.key_id.to_string(), key_state: key.state.number().to_string() }
    }
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct KeyName {
    key_id: String,
    key_alias: String,
}

impl KeyName {
    pub(crate) fn of(key: &KeyRecord) -> Self {
        Self { key_id: key.key_id.to_string(), key_alias: key.key_alias.to_string() }
    }
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct KeyDescription {
    key_id: String,
    key_description: String,
}

impl KeyDescription {
    pub(crate) fn of(key: &KeyRecord) -> Self {
        Self { key_id: key.key_id.to_string(), key_description: key.description.to_string() }
    }
}

/// Everything about a key. Every field is a string; dates are milliseconds since the epoch.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct KeyDetails {
    key_id: String,
    domain_id: String,
    key_alias: String,
    realm: String,
    key_spec: String,
    key_usage: String,
    key_description: String,
    creation_date: String,
    /// Empty unless the key is pending deletion.
    scheduled_deletion_date: String,
    #[schema(example = "2")]
    key_state: String,
    /// `1` for a key of the platform, else `0`.
    default_key_flag: String,
    key_type: String,
    /// Empty unless imported material expires.
    expiration_time: String,
    origin: String,
    key_rotation_enabled: String,
    sys_enterprise_project_id: String,
    keystore_id: String,
}

impl KeyDetails {
    pub(crate) fn of(key: &KeyRecord, region: &Region) -> Self {
        Self {
            key_id: key.key_id.to_string(),
            domain_id: key.domain_id.to_string(),
            key_alias: key.key_alias.to_string(),
            realm: region.to_string(),
            key_spec: key.spec.to_string(),
            key_usage: key.usage.to_string(),
            key_description: key.description.to_string(),
            creation_date: text::millis(Some(key.created_at)),
            scheduled_deletion_date: text::millis(key.scheduled_deletion_at),
            key_state: key.state.number().to_string(),
            default_key_flag: u8::from(key.default).to_string(),
            key_type: "1".to_owned(),
            expiration_time: text::millis(key.material.expires_at),
            origin: key.origin.to_string(),
            key_rotation_enabled: key.rotation.enabled.to_string(),
            sys_enterprise_project_id: key.enterprise_project_id.to_string(),
            keystore_id: key.keystore_id.to_string(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyList {
    pub(crate) keys: Vec<String>,
    pub(crate) key_details: Vec<KeyDetails>,
    /// Empty on the last page.
    pub(crate) next_marker: String,
    /// `true` or `false`.
    pub(crate) truncated: String,
    /// How many keys there are on all pages.
    pub(crate) total: u64,
}

/// An alias. Times are RFC 3339, UTC, in seconds.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct AliasEntity {
    domain_id: String,
    key_id: String,
    alias: String,
    #[schema(example = "kms:cn-north-7:3bab8e245e854f68af5967c00dd43127:alias:kms-1234")]
    alias_urn: String,
    #[schema(example = "2024-04-01T00:00:00Z")]
    create_time: String,
    update_time: String,
}

impl AliasEntity {
    pub(crate) fn of(record: &AliasRecord, region: &Region) -> Self {
        Self {
            domain_id: record.domain_id.to_string(),
            key_id: record.key_id.to_string(),
            alias: record.alias.to_string(),
            alias_urn: record.urn(region).to_string(),
            create_time: text::rfc3339(record.created_at),
            update_time: text::rfc3339(record.updated_at),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AliasList {
    pub(crate) aliases: Vec<AliasEntity>,
    pub(crate) page_info: PageInfo,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PageInfo {
    /// The last alias of the page; empty on the last page.
    pub(crate) next_marker: String,
    pub(crate) current_count: usize,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TagItem {
    pub(crate) key: String,
    pub(crate) value: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyTags {
    pub(crate) tags: Vec<TagItem>,
    #[serde(rename = "existTagsNum")]
    pub(crate) exist_tags_num: usize,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProjectTags {
    pub(crate) tags: Vec<TagValues>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TagValues {
    pub(crate) key: String,
    pub(crate) values: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Resources {
    /// Left out of the answer to `count`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) resources: Option<Vec<Resource>>,
    pub(crate) total_count: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Resource {
    pub(crate) resource_id: String,
    pub(crate) resource_detail: KeyDetails,
    pub(crate) resource_name: String,
    pub(crate) tags: Vec<TagItem>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RotationStatus {
    pub(crate) key_rotation_enabled: bool,
    pub(crate) rotation_interval: u16,
    /// Milliseconds since the epoch; empty if it was never rotated.
    pub(crate) last_rotation_time: String,
    pub(crate) number_of_rotations: u32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UserInstances {
    pub(crate) instance_num: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UserQuotas {
    pub(crate) quotas: QuotaList,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QuotaList {
    pub(crate) resources: Vec<QuotaOfResource>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QuotaOfResource {
    #[serde(rename = "type")]
    #[schema(example = "CMK")]
    pub(crate) kind: String,
    pub(crate) used: u64,
    pub(crate) quota: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Versions {
    pub(crate) versions: Vec<ApiVersion>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Version {
    pub(crate) version: ApiVersion,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApiVersion {
    pub(crate) id: String,
    pub(crate) links: Vec<ApiLink>,
    pub(crate) version: String,
    pub(crate) status: String,
    pub(crate) updated: String,
    pub(crate) min_version: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApiLink {
    pub(crate) href: String,
    pub(crate) rel: String,
}

/// A key in its history: besides its details all else that its owner can change.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyImage {
    #[serde(flatten)]
    pub(crate) details: KeyDetails,
    pub(crate) tags: Vec<TagItem>,
    /// In days.
    pub(crate) rotation_interval: u16,
}

/// What happened to a key or an alias; not part of the service's API.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct History<T> {
    /// The newest first.
    pub(crate) changes: Vec<HistoryEntry<T>>,
    /// For `after`; null on the last page.
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) next: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HistoryEntry<T> {
    pub(crate) commit: u64,
    /// RFC 3339.
    pub(crate) time: String,
    #[schema(example = "associate_alias")]
    pub(crate) operation: String,
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) actor: Option<String>,
    /// The caller's `sequence`.
    #[serde(default, deserialize_with = "given::text")]
    pub(crate) request_id: Option<String>,
    /// Left out if it was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<T>,
    /// Left out if it is no longer there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<T>,
}

#[cfg(test)]
mod tests {
    use keystead::{NewKey, Request, Scope, Store};
    use serde_json::json;

    use super::*;

    #[test]
    fn details_of_a_key_are_strings() {
        let store = Store::in_memory().unwrap();
        let region = Region::new("cn-north-7").unwrap();
        let request = Request::new(&Scope::new("d", "p").unwrap()).at(keystead::Timestamp::from_millis(5));
        let new = NewKey::new("orders").unwrap().alias("alias/x".parse().unwrap());
        let key = store.write(&request, |txn| txn.create_key(&new)).unwrap().value;
        let details = serde_json::to_value(KeyDetails::of(&key, &region)).unwrap();
        assert!(details.as_object().unwrap().values().all(serde_json::Value::is_string), "{details}");
        assert_eq!(details["creation_date"], "5");
        assert_eq!(details["scheduled_deletion_date"], "");
        assert_eq!(details["key_rotation_enabled"], "false");

        let alias = store.read(request.scope(), |snap| snap.alias(&new.aliases[0])).unwrap();
        let expected = json!({
            "domain_id": "d",
            "key_id": key.key_id.to_string(),
            "alias": "alias/x",
            "alias_urn": "kms:cn-north-7:d:alias:x",
            "create_time": "1970-01-01T00:00:00Z",
            "update_time": "1970-01-01T00:00:00Z",
        });
        assert_eq!(serde_json::to_value(AliasEntity::of(&alias, &region)).unwrap(), expected);
    }
}
