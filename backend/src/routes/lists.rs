//! Lists of keys: all of them by an offset, or those with certain tags.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use keystead::{
    InvalidTagKey, InvalidTagValue, KeyFilter, KeyRecord, KeySpec, KeyState, Region, Snapshot, TagKey,
    TagValue,
};

use super::{Answer, walk_keys};
use crate::caller::Call;
use crate::error::{Refusal, Refusals, refused};
use crate::routes::tags::items_of;
use crate::state::App;
use crate::wire::{
    KeyDetails, KeyList, ListKeysBody, Number, Resource, Resources, ResourcesBody, TagBody, WantedTag, parse,
    required, sequence,
};

/// The most keys of a page of list-keys, and as many if nothing is said.
const KEYS_MAX: u64 = 2000;
/// As many keys of a page of resources, if nothing is said.
const RESOURCES_DEFAULT: u64 = 10;
/// The most keys of a page of resources.
const RESOURCES_MAX: u64 = 1000;
/// The most tags, values of a tag, and matches that may be asked for.
const CONDITIONS_MAX: usize = 20;

/// A number from 1 to `max`.
fn limit(given: Option<&Number>, default: u64, max: u64) -> Result<u64, Refusal> {
    let limit = given.map_or(Some(default), Number::value).filter(|limit| (1..=max).contains(limit));
    limit.ok_or_else(|| Refusal::of_request("KMS.1601", format!("limit is not a number from 1 to {max}")))
}

/// How many keys come before the page.
fn offset(given: Option<&Number>, name: &str) -> Result<u64, Refusal> {
    let offset = given.map_or(Some(0), Number::value);
    offset.ok_or_else(|| Refusal::of_request("KMS.1602", format!("{name} is not the number of a place")))
}

/// A part of a list of keys.
struct PageOfKeys<T> {
    items: Vec<T>,
    /// How many keys the whole list has.
    total: u64,
}

/// The keys of a list from `offset` on, at most `limit`, and how many there are. It costs the keys of
/// the project.
fn page<T>(
    snap: &Snapshot<'_>,
    filter: &KeyFilter,
    wanted: impl Fn(&KeyRecord) -> bool,
    (offset, limit): (u64, u64),
    item: impl Fn(&KeyRecord) -> T,
) -> keystead::Result<PageOfKeys<T>> {
    let mut page = PageOfKeys { items: Vec::new(), total: 0 };
    walk_keys(snap, filter, |key| {
        if wanted(key) {
            if (offset..offset.saturating_add(limit)).contains(&page.total) {
                page.items.push(item(key));
            }
            page.total += 1;
        }
        true
    })?;
    Ok(page)
}

/// What list-keys is asked for.
fn listed(body: &ListKeysBody) -> Result<(KeyFilter, bool), Refusal> {
    let mut filter = KeyFilter::all();
    match body.key_spec.as_deref().unwrap_or("AES_256") {
        "ALL" => {}
        spec => filter = filter.spec(spec.parse::<KeySpec>().map_err(refused)?),
    }
    let Some(state) = &body.key_state else { return Ok((filter, true)) };
    let number = state.value().filter(|number| (1..=5).contains(number));
    let number = number.ok_or_else(|| Refusal::invalid("key_state is not a number from 1 to 5"))?;
    match u8::try_from(number).ok().and_then(KeyState::from_number) {
        Some(state) => Ok((filter.state(state), true)),
        // Pending activation: no key is.
        None => Ok((filter, false)),
    }
}

/// Lists keys in the order of their ids.
#[utoipa::path(
    post, path = "/v1.0/{project_id}/kms/list-keys", tag = "keys",
    params(("project_id" = String, Path)), request_body = Option<ListKeysBody>,
    responses((status = 200, description = "Done", body = KeyList), Refusals),
    security(("token" = []))
)]
pub(crate) async fn list_keys(State(app): State<Arc<App>>, call: Call) -> Answer<KeyList> {
    let body: ListKeysBody = parse(call.body())?;
    sequence(body.sequence.as_deref())?;
    let limit = limit(body.limit.as_ref(), KEYS_MAX, KEYS_MAX)?;
    let offset = offset(body.marker.as_ref(), "marker")?;
    let (filter, possible) = listed(&body)?;
    let of_project = body.enterprise_project_id.filter(|id| id != "all");
    let region = app.store.region().clone();
    let list = app.read(&call, move |snap| {
        let wanted = |key: &KeyRecord| {
            possible && of_project.as_deref().is_none_or(|id| id == key.enterprise_project_id.as_str())
        };
        let details = |key: &KeyRecord| (key.key_id.to_string(), KeyDetails::of(key, &region));
        let page = page(snap, &filter, wanted, (offset, limit), details)?;
        let after = offset.saturating_add(page.items.len() as u64);
        let truncated = after < page.total;
        let (keys, key_details) = page.items.into_iter().unzip();
        Ok(KeyList {
            keys,
            key_details,
            next_marker: if truncated { after.to_string() } else { String::new() },
            truncated: truncated.to_string(),
            total: page.total,
        })
    });
    list.await.map(Json)
}

/// The tags and names that keys must have.
struct Conditions {
    tags: Vec<(TagKey, Vec<TagValue>)>,
    /// Parts of the key's own name.
    names: Vec<String>,
}

impl Conditions {
    fn read(tags: Vec<WantedTag>, matches: Vec<TagBody>) -> Result<Self, Refusal> {
        if tags.len() > CONDITIONS_MAX || matches.len() > CONDITIONS_MAX {
            return Err(Refusal::invalid(format!("more than {CONDITIONS_MAX} tags or matches")));
        }
        let tags = tags.into_iter().map(|tag| {
            let key = TagKey::new(&required(tag.key, "key")?).map_err(refused::<InvalidTagKey>)?;
            let values = tag.values.unwrap_or_default();
            if values.len() > CONDITIONS_MAX {
                return Err(Refusal::invalid(format!("more than {CONDITIONS_MAX} values of a tag")));
            }
            let values = values.iter().map(|value| TagValue::new(value)).collect::<Result<_, _>>();
            Ok((key, values.map_err(refused::<InvalidTagValue>)?))
        });
        let names = matches.into_iter().map(|wanted| match (wanted.key.as_deref(), wanted.value) {
            (Some("resource_name"), Some(value)) if !value.is_empty() => Ok(value),
            _ => Err(Refusal::of_request("KMS.0415", "matches has resource_name and a value, nothing else")),
        });
        Ok(Self { tags: tags.collect::<Result<_, Refusal>>()?, names: names.collect::<Result<_, _>>()? })
    }

    /// What the index of tags can find.
    fn filter(&self) -> KeyFilter {
        match self.tags.first() {
            Some((key, values)) => match values.first() {
                Some(value) => KeyFilter::all().tag(key.clone(), value.clone()),
                None => KeyFilter::all().tag_key(key.clone()),
            },
            None => KeyFilter::all(),
        }
    }

    fn hold_for(&self, key: &KeyRecord) -> bool {
        let tagged = self.tags.iter().all(|(tag, values)| {
            key.tags.get(tag).is_some_and(|value| values.iter().all(|wanted| wanted == value))
        });
        tagged && self.names.iter().all(|name| key.key_alias.as_str().contains(name.as_str()))
    }
}

fn resource(key: &KeyRecord, region: &Region) -> Resource {
    Resource {
        resource_id: key.key_id.to_string(),
        resource_detail: KeyDetails::of(key, region),
        resource_name: key.key_alias.to_string(),
        tags: items_of(key),
    }
}

/// Lists or counts keys by their tags.
#[utoipa::path(
    post, path = "/v1.0/{project_id}/kms/resource_instances/action", tag = "tags",
    params(("project_id" = String, Path)), request_body = Option<ResourcesBody>,
    responses((status = 200, description = "Done", body = Resources), Refusals),
    security(("token" = []))
)]
pub(crate) async fn list_resources(State(app): State<Arc<App>>, call: Call) -> Answer<Resources> {
    let body: ResourcesBody = parse(call.body())?;
    sequence(body.sequence.as_deref())?;
    // The SDKs need not say it, and what they give besides is for a list.
    let part = match body.action.as_deref().unwrap_or("filter") {
        "filter" => Some((
            offset(body.offset.as_ref(), "offset")?,
            limit(body.limit.as_ref(), RESOURCES_DEFAULT, RESOURCES_MAX)?,
        )),
        "count" => None,
        _ => return Err(Refusal::invalid("action is neither filter nor count")),
    };
    let conditions = Conditions::read(body.tags.unwrap_or_default(), body.matches.unwrap_or_default())?;
    let region = app.store.region().clone();
    let list = app.read(&call, move |snap| {
        let wanted = |key: &KeyRecord| conditions.hold_for(key);
        let item = |key: &KeyRecord| resource(key, &region);
        let page = page(snap, &conditions.filter(), wanted, part.unwrap_or((0, 0)), item)?;
        Ok(Resources { resources: part.map(|_| page.items), total_count: page.total })
    });
    list.await.map(Json)
}
