//! [`Line`]: one line of an export.

use std::fmt;

use keystead::{
    Alias, AliasRecord, Commit, Description, DomainId, EnterpriseProjectId, Error, KeyAlias, KeyId,
    KeyRecord, KeySpec, KeyState, KeyUsage, KeystoreId, Material, Origin, Position, ProjectId, Region,
    Rotation, Scope, TagKey, TagValue, Tags, Timestamp,
};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// The format of exports. A reader refuses what is newer.
pub(super) const FORMAT: u32 = 1;

/// One line of an export.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Line {
    /// The first one: of which store.
    Export {
        format: u32,
        position: Position,
        region: Region,
        alias_scope: String,
    },
    /// What follows is of this scope, as it was at this commit.
    Scope {
        domain_id: DomainId,
        project_id: ProjectId,
        commit: Commit,
        keys: u64,
    },
    Key(Box<KeyLine>),
    /// The last one: what there was in all, and whether all scopes were read at the same commit.
    End {
        scopes: u64,
        keys: u64,
        aliases: u64,
        one_commit: bool,
    },
}

/// A key with its aliases. What a line does not say is as it is for a new key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyLine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) domain_id: Option<DomainId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) project_id: Option<ProjectId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key_id: Option<KeyId>,
    pub(super) key_alias: KeyAlias,
    #[serde(default)]
    pub(super) aliases: Vec<Alias>,
    #[serde(default)]
    pub(super) state: Option<KeyState>,
    #[serde(default)]
    pub(super) frozen_from: Option<KeyState>,
    #[serde(default)]
    pub(super) scheduled_deletion_at: Option<Timestamp>,
    #[serde(default)]
    pub(super) default: bool,
    #[serde(default)]
    pub(super) spec: Option<KeySpec>,
    #[serde(default)]
    pub(super) usage: Option<KeyUsage>,
    #[serde(default)]
    pub(super) origin: Option<Origin>,
    #[serde(default)]
    pub(super) material: Option<Material>,
    #[serde(default)]
    pub(super) rotation: Rotation,
    #[serde(default)]
    pub(super) description: Description,
    #[serde(default, deserialize_with = "tags_named_once")]
    pub(super) tags: Tags,
    #[serde(default)]
    pub(super) enterprise_project_id: Option<EnterpriseProjectId>,
    #[serde(default)]
    pub(super) keystore_id: Option<KeystoreId>,
    /// For whoever reads the export: an import can't carry times and versions over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) updated_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<Commit>,
}

/// A map of JSON keeps the last of two values for one name, and loses the other without a word.
fn tags_named_once<'de, D: Deserializer<'de>>(from: D) -> Result<Tags, D::Error> {
    struct Named;

    impl<'de> Visitor<'de> for Named {
        type Value = Tags;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("tags with their values")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tags, A::Error> {
            let mut tags = Tags::new();
            while let Some((tag, value)) = map.next_entry::<TagKey, TagValue>()? {
                if tags.insert(tag.clone(), value).is_some() {
                    return Err(A::Error::custom(Error::DuplicateTag { tag }));
                }
            }
            Ok(tags)
        }
    }

    from.deserialize_map(Named)
}

impl KeyLine {
    pub(super) fn of(key: &KeyRecord, aliases: &[impl AsRef<AliasRecord>]) -> Self {
        Self {
            domain_id: Some(key.domain_id.clone()),
            project_id: Some(key.project_id.clone()),
            key_id: Some(key.key_id),
            key_alias: key.key_alias.clone(),
            aliases: aliases.iter().map(|record| record.as_ref().alias.clone()).collect(),
            state: Some(key.state),
            frozen_from: key.frozen_from,
            scheduled_deletion_at: key.scheduled_deletion_at,
            default: key.default,
            spec: Some(key.spec),
            usage: Some(key.usage),
            origin: Some(key.origin),
            material: Some(key.material),
            rotation: key.rotation,
            description: key.description.clone(),
            tags: key.tags.clone(),
            enterprise_project_id: Some(key.enterprise_project_id.clone()),
            keystore_id: Some(key.keystore_id.clone()),
            created_at: Some(key.created_at),
            updated_at: Some(key.updated_at),
            version: Some(key.version),
        }
    }

    /// The scope that it names, or else this one.
    ///
    /// # Errors
    ///
    /// In words, if there is none, or only half of one.
    pub(super) fn scope(&self, otherwise: Option<&Scope>) -> Result<Scope, String> {
        match (&self.domain_id, &self.project_id, otherwise) {
            (Some(domain), Some(project), _) => {
                Scope::new(domain.as_str(), project.as_str()).map_err(|error| error.to_string())
            }
            (None, None, Some(scope)) => Ok(scope.clone()),
            (None, None, None) => Err("it names no scope; give --domain and --project".to_owned()),
            _ => Err("it names half a scope: domain_id and project_id belong together".to_owned()),
        }
    }
}
