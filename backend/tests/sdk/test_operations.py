"""Every operation that the backend offers, through the SDK's client."""

import re

import requests
from huaweicloudsdkkms import v2 as kms

from backend import REGION, sequence


def body_of(key_id):
    return kms.OperateKeyRequestBody(key_id, sequence())


def test_a_key_is_created_and_described(tenant):
    fields = kms.CreateKeyRequestBody(
        key_alias="orders",
        key_spec="RSA_3072",
        key_usage="ENCRYPT_DECRYPT",
        key_description="f\u00fcr Bestellungen",
        origin="kms",
        sequence=sequence(),
    )
    created = tenant.kms.create_key(kms.CreateKeyRequest(fields))
    assert created.status_code == 200
    info = created.key_info.to_dict()
    assert (info["domain_id"], info["region_id"]) == (tenant.account.domain, REGION)
    assert re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", info["key_id"])

    details = tenant.describe(info["key_id"]).to_dict()
    assert all(isinstance(value, str) for value in details.values()), details
    created_at = int(details.pop("creation_date"))
    assert 1_600_000_000_000 < created_at < 10_000_000_000_000
    assert details == {
        "key_id": info["key_id"],
        "domain_id": tenant.account.domain,
        "key_alias": "orders",
        "realm": REGION,
        "key_spec": "RSA_3072",
        "key_usage": "ENCRYPT_DECRYPT",
        "key_description": "f\u00fcr Bestellungen",
        "scheduled_deletion_date": "",
        "key_state": "2",
        "default_key_flag": "0",
        "key_type": "1",
        "expiration_time": "",
        "origin": "kms",
        "key_rotation_enabled": "false",
        "sys_enterprise_project_id": "0",
        "keystore_id": "0",
    }


def test_what_is_not_said_has_the_documented_defaults(tenant):
    symmetric = tenant.describe(tenant.create_key())
    assert (symmetric.key_spec, symmetric.key_usage, symmetric.origin) == ("AES_256", "ENCRYPT_DECRYPT", "kms")
    rsa = tenant.describe(tenant.create_key(key_spec="RSA_2048"))
    assert rsa.key_usage == "SIGN_VERIFY"
    mac = tenant.describe(tenant.create_key(key_spec="HMAC_256"))
    assert mac.key_usage == "GENERATE_VERIFY_MAC"
    external = tenant.describe(tenant.create_key(origin="external"))
    assert (external.origin, external.key_state) == ("external", "5")


def test_a_key_is_renamed_and_the_old_name_is_free(tenant):
    first, second = tenant.create_key("a"), tenant.create_key("b")
    renamed = tenant.rename(first, "c").key_info
    assert (renamed.key_id, renamed.key_alias) == (first, "c")
    assert tenant.rename(second, "a").key_info.key_alias == "a"
    assert tenant.describe(first).key_alias == "c"
    assert tenant.describe(second).key_alias == "a"
    # Its own present name is no conflict.
    assert tenant.rename(first, "c").status_code == 200


def test_key_aliases_and_aliases_are_two_name_spaces(tenant):
    first, second = tenant.create_key("orders"), tenant.create_key("others")
    tenant.create_alias("orders", second)
    assert tenant.describe("alias/orders").key_id == second
    tenant.rename(second, "alias/orders")
    assert tenant.aliases() == {"orders": second}
    assert tenant.describe(first).key_alias == "orders"


def test_a_description_is_changed(tenant):
    key = tenant.create_key()
    for text in ["first", "", "\u00e9" * 255]:
        request = kms.UpdateKeyDescriptionRequest(kms.UpdateKeyDescriptionRequestBody(key, text, sequence()))
        info = tenant.kms.update_key_description(request).key_info
        assert (info.key_id, info.key_description) == (key, text)
        assert tenant.describe(key).key_description == text


def test_states(tenant):
    key = tenant.create_key()
    disabled = tenant.disable(key).key_info
    assert (disabled.key_id, disabled.key_state) == (key, "3")
    enabled = tenant.enable(key).key_info
    assert (enabled.key_id, enabled.key_state) == (key, "2")
    # These two answer without key_info.
    scheduled = tenant.schedule(key, "7").to_json_object()
    assert scheduled == {"key_id": key, "key_state": "4"}
    details = tenant.describe(key)
    days = (int(details.scheduled_deletion_date) - int(details.creation_date)) / 86_400_000
    assert details.key_state == "4" and 7 <= days < 7.1
    cancelled = tenant.cancel(key).to_json_object()
    assert cancelled == {"key_id": key, "key_state": "3"}
    assert tenant.describe(key).scheduled_deletion_date == ""
    # Material that was never imported is still to be.
    external = tenant.create_key(origin="external")
    tenant.schedule(external, "1096")
    assert tenant.cancel(external).key_state == "5"


def test_pending_days_as_a_number(tenant):
    key = tenant.create_key()
    assert tenant.http("POST", "schedule-key-deletion", {"key_id": key, "pending_days": 7}).status == 200


def test_each_alias_can_be_described(tenant):
    key = tenant.create_key()
    # A name of the URN may end as no name may that is chosen, and be as long as an alias.
    for name in ["default", "n" * 249, "m" * 250, "l" * 255, "kms:a", "x"]:
        tenant.create_alias(name, key)
        assert tenant.describe(f"alias/{name}").key_id == key
    tenant.create_alias("alias/alias/y", key)
    assert tenant.describe("alias/alias/y").key_id == key


def test_aliases(tenant):
    first, second = tenant.create_key(), tenant.create_key()
    created = tenant.create_alias("alias/orders", first)
    assert created.status_code == 201
    entity = created.to_json_object()
    assert set(entity) == {"domain_id", "key_id", "alias", "alias_urn", "create_time", "update_time"}
    assert entity["alias_urn"] == f"kms:{REGION}:{tenant.account.domain}:alias:orders"
    for name in ("create_time", "update_time"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entity[name])

    moved = tenant.associate("alias/orders", second)
    assert moved.status_code == 200 and moved.key_id == second
    assert moved.create_time == entity["create_time"]
    assert tenant.describe("alias/orders").key_id == second
    assert tenant.describe(entity["alias_urn"]).key_id == second

    tenant.create_alias("b", second)
    tenant.create_alias("a", first)
    # By the names in their URNs.
    assert list(tenant.aliases()) == ["a", "b", "alias/orders"]
    assert tenant.aliases(key_id=second) == {"alias/orders": second, "b": second}
    deleted = tenant.delete_aliases(second, ["b", "alias/orders"])
    assert deleted.status_code == 204
    request, response = tenant.sent[-1]
    assert request.method == "DELETE" and response.content == b""
    assert tenant.aliases() == {"a": first}


def test_an_alias_leaves_a_key_that_is_pending_deletion(tenant):
    dying, healthy = tenant.create_key(), tenant.create_key()
    tenant.create_alias("orders", dying)
    tenant.schedule(dying)
    tenant.disable(healthy)
    assert tenant.associate("orders", healthy).key_id == healthy
    assert tenant.aliases() == {"orders": healthy}


def tags_of(tenant, key):
    shown = tenant.kms.show_kms_tags(kms.ShowKmsTagsRequest(key))
    assert shown.exist_tags_num == len(shown.tags)
    return {tag.key: tag.value for tag in shown.tags}


def test_tags(tenant):
    key, other = tenant.create_key("tagged"), tenant.create_key("other")
    assert tags_of(tenant, key) == {}
    for name, value in [("team", "red"), ("a/b \u00e9~+%", ""), ("team", "blue")]:
        body = kms.CreateKmsTagRequestBody(kms.TagItem(name, value), sequence())
        created = tenant.kms.create_kms_tag(kms.CreateKmsTagRequest(key, body))
        assert created.status_code == 204
    assert tags_of(tenant, key) == {"team": "blue", "a/b \u00e9~+%": ""}

    def batch(action, *items):
        tags = [kms.TagItem(*item) for item in items]
        body = kms.BatchCreateKmsTagsRequestBody(tags, action, sequence())
        return tenant.kms.batch_create_kms_tags(kms.BatchCreateKmsTagsRequest(key, body)).status_code

    assert batch("create", ("x", "1"), ("y", "2"), ("team", "green")) == 204
    assert batch("delete", ("x", "1"), ("y", None)) == 204
    assert tags_of(tenant, key) == {"team": "green", "a/b \u00e9~+%": ""}
    deleted = tenant.kms.delete_tag(kms.DeleteTagRequest(key, "a/b \u00e9~+%"))
    assert deleted.status_code == 204
    assert tags_of(tenant, key) == {"team": "green"}

    body = kms.CreateKmsTagRequestBody(kms.TagItem("team", "red"))
    tenant.kms.create_kms_tag(kms.CreateKmsTagRequest(other, body))
    listed = tenant.kms.list_kms_tags(kms.ListKmsTagsRequest()).tags
    assert [(tag.key, sorted(tag.values)) for tag in listed] == [("team", ["green", "red"])]


def test_a_tag_may_be_called_action(tenant):
    key = tenant.create_key()
    body = kms.CreateKmsTagRequestBody(kms.TagItem("action", "create"))
    tenant.kms.create_kms_tag(kms.CreateKmsTagRequest(key, body))
    assert tenant.kms.delete_tag(kms.DeleteTagRequest(key, "action")).status_code == 204
    assert tags_of(tenant, key) == {}


def test_keys_by_tags(tenant):
    keys = {colour: tenant.create_key(f"key-{colour}") for colour in ("red", "green", "blue")}
    for colour, key in keys.items():
        for tag in [kms.TagItem("team", "all"), kms.TagItem("colour", colour)]:
            tenant.kms.create_kms_tag(kms.CreateKmsTagRequest(key, kms.CreateKmsTagRequestBody(tag)))

    def find(**fields):
        body = kms.ListKmsByTagsRequestBody(**fields)
        return tenant.kms.list_kms_by_tags(kms.ListKmsByTagsRequest("resource_instances", body))

    team = [kms.Tag("team", ["all"])]
    assert find(action="count", tags=team).total_count == 3
    assert find(action="count", tags=team).resources is None
    everyone = find(action="filter", tags=team, limit="10", offset="0")
    assert {item.resource_id for item in everyone.resources} == set(keys.values())
    red = find(action="filter", tags=[*team, kms.Tag("colour", ["red"])])
    (item,) = red.resources
    assert (red.total_count, item.resource_id, item.resource_name) == (1, keys["red"], "key-red")
    assert item.resource_detail.key_id == keys["red"]
    assert {tag.key: tag.value for tag in item.tags} == {"team": "all", "colour": "red"}
    named = find(action="filter", matches=[kms.TagItem("resource_name", "gree")])
    assert [item.resource_name for item in named.resources] == ["key-green"]
    assert find(action="count", tags=[kms.Tag("team", ["none"])]).total_count == 0
    pages = [find(action="filter", tags=team, limit="1", offset=str(offset)) for offset in range(4)]
    assert [len(page.resources) for page in pages] == [1, 1, 1, 0]
    assert {page.resources[0].resource_id for page in pages[:3]} == set(keys.values())
    assert {page.total_count for page in pages} == {3}


def test_rotation(tenant):
    key = tenant.create_key()

    def status():
        return tenant.kms.show_key_rotation_status(kms.ShowKeyRotationStatusRequest(body_of(key)))

    shown = status()
    assert (shown.key_rotation_enabled, shown.number_of_rotations) == (False, 0)
    assert tenant.kms.enable_key_rotation(kms.EnableKeyRotationRequest(body_of(key))).status_code == 200
    assert (status().key_rotation_enabled, status().rotation_interval) == (True, 365)
    assert tenant.describe(key).key_rotation_enabled == "true"
    for days in (30, 365, 90):
        body = kms.UpdateKeyRotationIntervalRequestBody(key, days, sequence())
        tenant.kms.update_key_rotation_interval(kms.UpdateKeyRotationIntervalRequest(body))
        assert status().rotation_interval == days
    assert tenant.kms.disable_key_rotation(kms.DisableKeyRotationRequest(body_of(key))).status_code == 200
    assert status().key_rotation_enabled is False


def test_instances_and_quotas(tenant):
    def instances():
        return tenant.kms.show_user_instances(kms.ShowUserInstancesRequest()).instance_num

    assert instances() == 0
    key = tenant.create_key()
    tenant.create_key()
    tenant.schedule(key)
    assert instances() == 2
    (quota,) = tenant.kms.show_user_quotas(kms.ShowUserQuotasRequest()).quotas.resources
    assert (quota.type, quota.used, quota.quota) == ("CMK", 2, 100)


def test_versions(tenant):
    (version,) = tenant.kms.show_versions(kms.ShowVersionsRequest()).versions
    assert (version.id, version.status) == ("v1.0", "CURRENT")
    shown = tenant.kms.show_version(kms.ShowVersionRequest("v1.0")).version
    assert shown["id"] == "v1.0"
    # Anyone may ask.
    for path in ("/", "/v1.0"):
        assert tenant.http("GET", path, token=False).status == 200


def test_each_project_has_its_default_keys(tenant):
    listed = tenant.kms.list_keys(kms.ListKeysRequest(kms.ListKeysRequestBody(key_spec="ALL"))).key_details
    assert {(key.key_alias, key.default_key_flag, key.key_state) for key in listed} == {
        ("obs/default", "1", "2"),
        ("evs/default", "1", "2"),
    }


def test_history(tenant):
    first, second = tenant.create_key(), tenant.create_key()
    tenant.create_alias("a/b", first)
    number = sequence()
    body = {"alias": "a/b", "target_key_id": second, "sequence": number}
    assert tenant.http("POST", "alias/associate", body).status == 200
    tenant.delete_aliases(second, ["a/b"])
    path = f"/keystead/v1/{tenant.project}/aliases/a%2Fb/history"
    changes = tenant.http("GET", path).json()["changes"]
    assert [change["operation"] for change in changes] == ["delete_aliases", "associate_alias", "create_alias"]
    assert changes[1]["request_id"] == number
    assert changes[1]["actor"] == f"{tenant.account.domain}/tester"
    assert changes[2]["actor"] == f"{tenant.account.domain}/{tenant.account.access_key}"
    assert (changes[1]["before"]["key_id"], changes[1]["after"]["key_id"]) == (first, second)
    assert changes[0].get("after") is None
    # Page by page it is the same.
    pages, after = [], ""
    while after is not None:
        page = tenant.http("GET", f"{path}?limit=1&after={after}").json()
        pages += page["changes"]
        after = page["next"]
    assert pages == changes
    tenant.disable(first)
    changes = tenant.http("GET", f"/keystead/v1/{tenant.project}/keys/{first}/history").json()["changes"]
    assert [change["operation"] for change in changes] == ["disable", "create_key"]


def test_every_operation_that_is_described_was_called(tenant):
    """Calls each operation once, and compares with the backend's own description."""
    key, other = tenant.create_key("one"), tenant.create_key("two")
    tenant.describe(key)
    tenant.rename(key, "three")
    tenant.kms.update_key_description(
        kms.UpdateKeyDescriptionRequest(kms.UpdateKeyDescriptionRequestBody(key, "x"))
    )
    tenant.kms.list_keys(kms.ListKeysRequest(kms.ListKeysRequestBody()))
    tenant.disable(key)
    tenant.enable(key)
    tenant.schedule(other)
    tenant.cancel(other)
    tenant.create_alias("a", key)
    tenant.associate("a", other)
    tenant.aliases()
    tenant.delete_aliases(other, ["a"])
    tenant.kms.enable_key_rotation(kms.EnableKeyRotationRequest(body_of(key)))
    interval = kms.UpdateKeyRotationIntervalRequestBody(key, 30)
    tenant.kms.update_key_rotation_interval(kms.UpdateKeyRotationIntervalRequest(interval))
    tenant.kms.show_key_rotation_status(kms.ShowKeyRotationStatusRequest(body_of(key)))
    tenant.kms.disable_key_rotation(kms.DisableKeyRotationRequest(body_of(key)))
    tag = kms.TagItem("tag", "value")
    tenant.kms.create_kms_tag(kms.CreateKmsTagRequest(key, kms.CreateKmsTagRequestBody(tag)))
    batch = kms.BatchCreateKmsTagsRequestBody([kms.TagItem("t", "v")], "create")
    tenant.kms.batch_create_kms_tags(kms.BatchCreateKmsTagsRequest(key, batch))
    tags_of(tenant, key)
    tenant.kms.list_kms_tags(kms.ListKmsTagsRequest())
    count = kms.ListKmsByTagsRequestBody(action="count")
    tenant.kms.list_kms_by_tags(kms.ListKmsByTagsRequest("resource_instances", count))
    tenant.kms.delete_tag(kms.DeleteTagRequest(key, "tag"))
    tenant.kms.show_user_instances(kms.ShowUserInstancesRequest())
    tenant.kms.show_user_quotas(kms.ShowUserQuotasRequest())
    tenant.kms.show_versions(kms.ShowVersionsRequest())
    tenant.kms.show_version(kms.ShowVersionRequest("v1.0"))

    variable = {tenant.project: "{project_id}", key: "{key_id}"}
    called = set()
    for request, response in tenant.sent:
        assert response.status_code < 300
        parts = request.path_url.split("?")[0].split("/")
        if parts[-1] == "tag":
            parts[-1] = "{key}"
        path = "/".join(variable.get(part, part) for part in parts)
        called.add((request.method, "/{version_id}" if path == "/v1.0" else path))
    description = requests.get(f"{tenant.backend.url}/openapi.json", timeout=30).json()
    own = ("/keystead/", "/healthz", "/metrics", "/openapi.json")
    described = {
        (method.upper(), path)
        for path, methods in description["paths"].items()
        for method in methods
        if method in ("get", "post", "put", "delete", "patch") and not path.startswith(own)
    }
    assert called == described
