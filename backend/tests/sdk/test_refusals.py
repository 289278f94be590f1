"""Every refusal that can be reached through the API: its status and its code.

What only the platform does can't be reached: KMS.0309, 0310 and 2701 (key material is imported and
deleted) and KMS.0320 (keys are frozen).
"""

import uuid

import pytest
from huaweicloudsdkkms import v2 as kms

from backend import Account, refused

ABSENT = "11111111-2222-4333-8444-555555555555"
# It has the form of the API's own pattern, but is no UUID: it names no key.
NO_UUID = "zz6a3d22-dc93-47ac-b5bd-88df7ad35f1e"
WRONG_IDS = ["x", ABSENT.upper().replace("1", "A"), ABSENT + "0", f"{{{ABSENT}}}", ABSENT.replace("-", "")]


def on_key(operation, request):
    return lambda tenant, key: getattr(tenant.kms, operation)(request(kms.OperateKeyRequestBody(key)))


def schedule(tenant, key):
    return tenant.schedule(key)


def rename(tenant, key):
    return tenant.rename(key, f"renamed-{uuid.uuid4()}")


def describe_text(tenant, key):
    body = kms.UpdateKeyDescriptionRequestBody(key, "text")
    return tenant.kms.update_key_description(kms.UpdateKeyDescriptionRequest(body))


def interval(tenant, key, days=30):
    body = kms.UpdateKeyRotationIntervalRequestBody(key, days)
    return tenant.kms.update_key_rotation_interval(kms.UpdateKeyRotationIntervalRequest(body))


def create_alias(tenant, key):
    return tenant.create_alias(f"alias-{uuid.uuid4()}", key)


def associate(tenant, key):
    source = tenant.create_key()
    alias = f"alias-{uuid.uuid4()}"
    tenant.create_alias(alias, source)
    return tenant.associate(alias, key)


def delete_alias(tenant, key):
    return tenant.delete_aliases(key, ["absent"])


def tag(tenant, key, name="tag", value="value"):
    body = kms.CreateKmsTagRequestBody(kms.TagItem(name, value))
    return tenant.kms.create_kms_tag(kms.CreateKmsTagRequest(key, body))


def tags(tenant, key, items, action="create"):
    body = kms.BatchCreateKmsTagsRequestBody([kms.TagItem(*item) for item in items], action)
    return tenant.kms.batch_create_kms_tags(kms.BatchCreateKmsTagsRequest(key, body))


def one_tag_of_a_batch(tenant, key):
    return tags(tenant, key, [("tag", "value")])


def delete_tag(tenant, key):
    return tenant.kms.delete_tag(kms.DeleteTagRequest(key, "tag"))


def show_tags(tenant, key):
    return tenant.kms.show_kms_tags(kms.ShowKmsTagsRequest(key))


def list_aliases(tenant, key):
    return tenant.aliases_page(key_id=key)


describe = on_key("list_key_detail", kms.ListKeyDetailRequest)
enable = on_key("enable_key", kms.EnableKeyRequest)
disable = on_key("disable_key", kms.DisableKeyRequest)
cancel = on_key("cancel_key_deletion", kms.CancelKeyDeletionRequest)
rotate = on_key("enable_key_rotation", kms.EnableKeyRotationRequest)
stop_rotating = on_key("disable_key_rotation", kms.DisableKeyRotationRequest)
rotation = on_key("show_key_rotation_status", kms.ShowKeyRotationStatusRequest)

CHANGES = {
    "update-key-alias": rename,
    "update-key-description": describe_text,
    "enable-key": enable,
    "disable-key": disable,
    "schedule-key-deletion": schedule,
    "cancel-key-deletion": cancel,
    "create-alias": create_alias,
    "associate-alias": associate,
    "delete-alias": delete_alias,
    "create-tag": tag,
    "batch-tags": one_tag_of_a_batch,
    "delete-tag": delete_tag,
    "enable-key-rotation": rotate,
    "disable-key-rotation": stop_rotating,
    "update-key-rotation-interval": interval,
}
LOOKS = {
    "describe-key": describe,
    "get-key-rotation-status": rotation,
    "show-tags": show_tags,
    "list-aliases": list_aliases,
}
ALL = CHANGES | LOOKS


def named(operations):
    return pytest.mark.parametrize("operation", operations.values(), ids=operations)


@named(ALL)
def test_no_such_key(tenant, operation):
    refused(404, "KMS.0207", lambda: operation(tenant, ABSENT))
    refused(404, "KMS.0207", lambda: operation(tenant, NO_UUID))


@named(ALL)
@pytest.mark.parametrize("key", WRONG_IDS)
def test_no_key_id(tenant, operation, key):
    refused(400, "KMS.0205", lambda: operation(tenant, key))


# An empty parameter of the query is none, and an empty part of a path is another path.
@named({name: call for name, call in ALL.items() if "tag" not in name and call is not list_aliases})
def test_an_empty_key_id(tenant, operation):
    refused(400, "KMS.0205", lambda: operation(tenant, ""))


@named(CHANGES)
def test_a_default_key_is_not_changed(tenant, operation):
    refused(400, "KMS.0211", lambda: operation(tenant, tenant.default_key()))
    assert tenant.describe(tenant.default_key()).key_state == "2"


@named({name: call for name, call in CHANGES.items() if call not in (cancel, schedule, delete_alias)})
def test_pending_deletion(tenant, operation):
    key = tenant.create_key()
    tenant.schedule(key)
    refused(400, "KMS.0210", lambda: operation(tenant, key))
    assert tenant.describe(key).key_state == "4"


@named(LOOKS)
def test_a_key_that_is_pending_deletion_is_seen(tenant, operation):
    key = tenant.create_key()
    tenant.schedule(key)
    assert operation(tenant, key) is not None


def test_states(tenant):
    key = tenant.create_key()
    refused(400, "KMS.1201", lambda: enable(tenant, key))
    refused(400, "KMS.1501", lambda: cancel(tenant, key))
    disable(tenant, key)
    refused(400, "KMS.1301", lambda: disable(tenant, key))
    refused(400, "KMS.1501", lambda: cancel(tenant, key))
    refused(400, "KMS.0209", lambda: rotate(tenant, key))
    tenant.schedule(key)
    refused(400, "KMS.1402", lambda: schedule(tenant, key))
    external = tenant.create_key(origin="external")
    refused(400, "KMS.1201", lambda: enable(tenant, external))
    refused(400, "KMS.1301", lambda: disable(tenant, external))


@pytest.mark.parametrize("days", ["6", "1097", "0", "-7", "seven", "", "7.5", "99999999999999999999"])
def test_pending_days(tenant, days):
    key = tenant.create_key()
    refused(400, "KMS.1401", lambda: tenant.schedule(key, days))
    assert tenant.describe(key).key_state == "2"


WRONG_NAMES = ["", " ", "a b", "a.b", "\u00e9", "a\n", "a\x00", "n" * 256, "obs/default", "/default"]


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_names(tenant, name):
    key = tenant.create_key("present")
    body = kms.CreateKeyRequestBody(key_alias=name)
    refused(400, "KMS.1101", lambda: tenant.kms.create_key(kms.CreateKeyRequest(body)))
    refused(400, "KMS.1101", lambda: tenant.rename(key, name))
    refused(400, "KMS.1101", lambda: tenant.create_alias(name, key))
    refused(400, "KMS.1101", lambda: tenant.associate(name, key))
    refused(400, "KMS.1101", lambda: tenant.delete_aliases(key, [name]))
    # A name that can be no name is told before a key that is not there.
    refused(400, "KMS.1101", lambda: tenant.rename(ABSENT, name))
    refused(400, "KMS.1101", lambda: tenant.create_alias(name, ABSENT))
    assert tenant.describe(key).key_alias == "present"


@pytest.mark.parametrize("name", ["default", "/defaults", "a/Default", "/default/x", "n" * 255, "a:b/c_d-e"])
def test_names_that_are_none_of_the_platforms(tenant, name):
    key = tenant.create_key(name)
    tenant.create_alias(name, key)
    assert (tenant.describe(key).key_alias, tenant.aliases()) == (name, {name: key})


def test_names_that_are_taken(tenant):
    first, second = tenant.create_key("one"), tenant.create_key("two")
    body = kms.CreateKeyRequestBody(key_alias="one")
    refused(400, "KMS.1104", lambda: tenant.kms.create_key(kms.CreateKeyRequest(body)))
    refused(400, "KMS.1104", lambda: tenant.rename(second, "one"))
    tenant.create_alias("a", first)
    refused(400, "KMS.1104", lambda: tenant.create_alias("a", second))
    refused(400, "KMS.1104", lambda: tenant.create_alias("a", first))
    # Their URNs would be the same.
    refused(400, "KMS.1104", lambda: tenant.create_alias("alias/a", second))
    refused(404, "KMS.0207", lambda: tenant.associate("alias/a", second))
    # A key holds its name until it is purged.
    tenant.schedule(first)
    refused(400, "KMS.1104", lambda: tenant.rename(second, "one"))
    assert tenant.aliases() == {"a": first}


def test_no_such_alias(tenant):
    key, other = tenant.create_key(), tenant.create_key()
    refused(404, "KMS.0207", lambda: tenant.associate("absent", key))
    refused(404, "KMS.0207", lambda: tenant.describe("alias/absent"))
    domain = tenant.account.domain
    for urn in [
        f"kms:cn-north-7:{domain}:alias:absent",
        f"kms:cn-north-1:{domain}:alias:a",
        "kms:cn-north-7:another:alias:a",
    ]:
        refused(404, "KMS.0207", lambda urn=urn: tenant.describe(urn))
    tenant.create_alias("a", key)
    refused(404, "KMS.0207", lambda: tenant.delete_aliases(other, ["a"]))
    refused(404, "KMS.0207", lambda: tenant.delete_aliases(key, ["a", "absent"]))
    assert tenant.aliases() == {"a": key}


def test_lists_of_aliases_to_delete(tenant):
    key = tenant.create_key()
    tenant.create_alias("a", key)
    for names in ([], ["a", "a"], [f"n{number}" for number in range(51)]):
        refused(400, "KMS.0308", lambda names=names: tenant.delete_aliases(key, names))
    assert tenant.aliases() == {"a": key}


def test_descriptions(tenant):
    key = tenant.create_key()
    for text in ("x" * 256, "\u00e9" * 256):
        body = kms.UpdateKeyDescriptionRequestBody(key, text)
        request = kms.UpdateKeyDescriptionRequest(body)
        refused(400, "KMS.1103", lambda request=request: tenant.kms.update_key_description(request))
        body = kms.CreateKeyRequestBody(key_alias="long", key_description=text)
        refused(400, "KMS.1103", lambda body=body: tenant.kms.create_key(kms.CreateKeyRequest(body)))


@pytest.mark.parametrize(
    ("spec", "usage", "origin"),
    [
        ("AES_128", None, None),
        ("aes_256", None, None),
        ("AES_256", "SIGN_VERIFY", None),
        ("SM4", "GENERATE_VERIFY_MAC", None),
        ("RSA_2048", "GENERATE_VERIFY_MAC", None),
        ("EC_P256", "ENCRYPT_DECRYPT", None),
        ("ED25519", "ENCRYPT_DECRYPT", None),
        ("SECP256K1", "GENERATE_VERIFY_MAC", None),
        ("HMAC_256", "ENCRYPT_DECRYPT", None),
        ("HMAC_SM3", "SIGN_VERIFY", None),
        (None, "DERIVE", None),
        (None, None, "hsm"),
    ],
)
def test_specs(tenant, spec, usage, origin):
    body = kms.CreateKeyRequestBody(key_alias="a", key_spec=spec, key_usage=usage, origin=origin)
    refused(400, "KMS.1110", lambda: tenant.kms.create_key(kms.CreateKeyRequest(body)))


def test_rotation(tenant):
    key = tenant.create_key()
    refused(400, "KMS.0313", lambda: stop_rotating(tenant, key))
    refused(400, "KMS.0313", lambda: interval(tenant, key))
    rotate(tenant, key)
    refused(400, "KMS.2901", lambda: rotate(tenant, key))
    for days in (29, 366, 0, -1, 70000):
        refused(400, "KMS.3001", lambda days=days: interval(tenant, key, days))
    refused(400, "KMS.0312", lambda: rotate(tenant, tenant.create_key(origin="external")))
    for spec in ("RSA_2048", "EC_P256"):
        refused(400, "KMS.0325", lambda spec=spec: rotate(tenant, tenant.create_key(key_spec=spec)))


def test_tags(tenant):
    key = tenant.create_key()
    refused(404, "KMS.0416", lambda: delete_tag(tenant, key))
    for name in ("", "k" * 129):
        refused(400, "KMS.0406", lambda name=name: tag(tenant, key, name))
    refused(400, "KMS.0405", lambda: tag(tenant, key, "tag", "v" * 256))
    tag(tenant, key, "k" * 128, "v" * 255)
    refused(400, "KMS.0406", lambda: tags(tenant, key, [("a", "1"), ("a", "2")]))
    refused(400, "KMS.0409", lambda: tags(tenant, key, [(f"t{number}", "v") for number in range(20)]))
    tags(tenant, key, [(f"t{number}", "v") for number in range(19)])
    refused(400, "KMS.0409", lambda: tag(tenant, key, "one more"))
    # Another value for a tag that is there is no tag more.
    tag(tenant, key, "t0", "other")
    refused(404, "KMS.0416", lambda: tags(tenant, key, [("t0", None), ("absent", None)], "delete"))
    refused(400, "KMS.0308", lambda: tags(tenant, key, [("t0", "v")], "replace"))
    assert len(show_tags(tenant, key).tags) == 20


def test_keys_by_tags(tenant):
    def find(**fields):
        body = kms.ListKmsByTagsRequestBody(**fields)
        return tenant.kms.list_kms_by_tags(kms.ListKmsByTagsRequest("resource_instances", body))

    refused(400, "KMS.0308", lambda: find(action="delete"))
    # What need not be said is a list.
    for nothing in ({}, {"action": ""}, {"tags": [], "limit": "", "offset": ""}):
        found = find(**nothing)
        assert found.total_count == len(found.resources)
    for limit in ("0", "1001", "x"):
        refused(400, "KMS.1601", lambda limit=limit: find(action="filter", limit=limit))
    refused(400, "KMS.1602", lambda: find(action="filter", offset="-1"))
    refused(400, "KMS.0406", lambda: find(action="count", tags=[kms.Tag("k" * 129, [])]))
    refused(400, "KMS.0405", lambda: find(action="count", tags=[kms.Tag("k", ["v" * 256])]))
    refused(400, "KMS.0415", lambda: find(action="count", matches=[kms.TagItem("colour", "red")]))


def test_quota_of_keys(start):
    backend = start([Account()], tables="[quotas]\nkeys_per_project = 3")
    tenant = backend.tenant()
    keys = [tenant.create_key() for _ in range(3)]
    tenant.schedule(keys[0])
    body = kms.CreateKeyRequestBody(key_alias="one-more")
    refused(400, "KMS.1105", lambda: tenant.kms.create_key(kms.CreateKeyRequest(body)))
    (quota,) = tenant.kms.show_user_quotas(kms.ShowUserQuotasRequest()).quotas.resources
    assert (quota.used, quota.quota) == (3, 3)
    # Each project has its own.
    tenant.other_project.create_key()


def test_quota_of_aliases(tenant):
    key, other = tenant.create_key(), tenant.create_key()
    for number in range(50):
        tenant.create_alias(f"a{number}", key)
    refused(400, "KMS.1105", lambda: tenant.create_alias("one-more", key))
    tenant.create_alias("one-more", other)
    refused(400, "KMS.1105", lambda: tenant.associate("one-more", key))
    # To where it is already, it may always go.
    assert tenant.associate("a0", key).key_id == key
    tenant.delete_aliases(key, ["a7"])
    assert tenant.associate("one-more", key).key_id == key
    assert len(tenant.aliases(key_id=key)) == 50


def test_a_refusal_leaves_no_trace(tenant):
    key, other = tenant.create_key("one"), tenant.create_key("two")
    tenant.create_alias("a", key)
    before = tenant.http("GET", f"/keystead/v1/{tenant.project}/keys/{key}/history").json()
    refused(400, "KMS.1104", lambda: tenant.rename(key, "two"))
    refused(404, "KMS.0207", lambda: tenant.delete_aliases(key, ["a", "b"]))
    refused(400, "KMS.1104", lambda: tenant.create_alias("a", other))
    assert tenant.http("GET", f"/keystead/v1/{tenant.project}/keys/{key}/history").json() == before
    assert tenant.aliases() == {"a": key}
