"""`sequence`: its form, and what a repeated one does."""

import pytest
from huaweicloudsdkkms import v2 as kms

from backend import Account, refused, sequence

WRONG = ["short", "x" * 35, "x" * 37, "x" * 35 + "_", "\u00e9" * 36, " " * 36]
ABSENT = "11111111-2222-4333-8444-555555555555"

# Path and body of each operation that has one.
BODIES = {
    "create-key": {"key_alias": "a"},
    "describe-key": {"key_id": ABSENT},
    "list-keys": {},
    "update-key-alias": {"key_id": ABSENT, "key_alias": "a"},
    "update-key-description": {"key_id": ABSENT, "key_description": "a"},
    "enable-key": {"key_id": ABSENT},
    "disable-key": {"key_id": ABSENT},
    "schedule-key-deletion": {"key_id": ABSENT, "pending_days": "7"},
    "cancel-key-deletion": {"key_id": ABSENT},
    "aliases": {"key_id": ABSENT, "alias": "a"},
    "alias/associate": {"target_key_id": ABSENT, "alias": "a"},
    "enable-key-rotation": {"key_id": ABSENT},
    "disable-key-rotation": {"key_id": ABSENT},
    "update-key-rotation-interval": {"key_id": ABSENT, "rotation_interval": 30},
    "get-key-rotation-status": {"key_id": ABSENT},
    f"{ABSENT}/tags": {"tag": {"key": "k", "value": "v"}},
    f"{ABSENT}/tags/action": {"action": "create", "tags": [{"key": "k", "value": "v"}]},
    "resource_instances/action": {"action": "count"},
}


@pytest.mark.parametrize("path", BODIES, ids=lambda path: path.replace(ABSENT, "key"))
def test_the_form(tenant, path):
    for wrong in WRONG:
        answer = tenant.http("POST", path, BODIES[path] | {"sequence": wrong})
        assert answer.refusal() == (400, "KMS.0206"), wrong
    # With a right one it goes on to the key, which is not there, or is done.
    answer = tenant.http("POST", path, BODIES[path] | {"sequence": "919c82d4-8046-4722-9094-35c3c6524cff"})
    assert answer.status in (200, 404)
    # An empty one is none.
    answer = tenant.http("POST", path, BODIES[path] | {"sequence": "", "key_alias": "b"})
    assert answer.status in (200, 404)


def test_the_form_in_a_delete(tenant):
    body = {"key_id": ABSENT, "aliases": ["a"], "sequence": "short"}
    assert tenant.http("DELETE", "aliases", body).refusal() == (400, "KMS.0206")


def create(tenant, name, number):
    body = kms.CreateKeyRequestBody(key_alias=name, sequence=number)
    return tenant.kms.create_key(kms.CreateKeyRequest(body))


def operations(tenant, key):
    changes = tenant.http("GET", f"/keystead/v1/{tenant.project}/keys/{key}/history").json()["changes"]
    return [(change["operation"], change["request_id"]) for change in reversed(changes)]


def test_by_default_it_is_only_kept_in_the_history(tenant):
    number = sequence()
    key = create(tenant, "a", number).key_info.key_id
    refused(400, "KMS.1104", lambda: create(tenant, "a", number))
    other = create(tenant, "b", number).key_info.key_id
    assert other != key
    for operation in (kms.DisableKeyRequest, kms.EnableKeyRequest):
        call = tenant.kms.disable_key if operation is kms.DisableKeyRequest else tenant.kms.enable_key
        assert call(operation(kms.OperateKeyRequestBody(key, number))).status_code == 200
    refused(400, "KMS.1201", lambda: tenant.kms.enable_key(kms.EnableKeyRequest(kms.OperateKeyRequestBody(key, number))))
    assert operations(tenant, key) == [("create_key", number), ("disable", number), ("enable", number)]


@pytest.fixture
def idempotent(start):
    return start([Account(), Account()], head="idempotent_sequence = true")


def test_a_repeated_request_is_answered_again(idempotent):
    tenant, number = idempotent.tenant(), sequence()
    first = create(tenant, "a", number)
    again = create(tenant, "a", number)
    assert again.to_json_object() == first.to_json_object()
    key = first.key_info.key_id
    assert tenant.kms.show_user_instances(kms.ShowUserInstancesRequest()).instance_num == 1
    # Each operation with the same body twice: the second time nothing happens.
    other = tenant.create_key()
    steps = [
        ("POST", "disable-key", {"key_id": key}, 200),
        ("POST", "enable-key", {"key_id": key}, 200),
        ("POST", "update-key-alias", {"key_id": key, "key_alias": "b"}, 200),
        ("POST", "aliases", {"key_id": key, "alias": "x"}, 201),
        ("POST", "alias/associate", {"target_key_id": other, "alias": "x"}, 200),
        ("DELETE", "aliases", {"key_id": other, "aliases": ["x"]}, 204),
        ("POST", f"{key}/tags", {"tag": {"key": "k", "value": "v"}}, 204),
        ("POST", f"{key}/tags/action", {"action": "delete", "tags": [{"key": "k"}]}, 204),
        ("POST", "enable-key-rotation", {"key_id": key}, 200),
        ("POST", "disable-key-rotation", {"key_id": key}, 200),
        ("POST", "schedule-key-deletion", {"key_id": key, "pending_days": "7"}, 200),
        ("POST", "cancel-key-deletion", {"key_id": key}, 200),
    ]
    for method, path, body, status in steps:
        body = body | {"sequence": sequence()}
        first = tenant.http(method, path, body)
        assert first.status == status, (path, first.text)
        done = operations(tenant, key)
        again = tenant.http(method, path, body)
        assert (again.status, again.text) == (first.status, first.text)
        assert operations(tenant, key) == done
    assert tenant.describe(key).key_state == "3"
    assert tenant.describe(key).key_alias == "b"


def test_another_request_with_the_same_number_is_refused(idempotent):
    tenant, number = idempotent.tenant(), sequence()
    key = create(tenant, "a", number).key_info.key_id
    refused(400, "KMS.0206", lambda: create(tenant, "b", number))
    body = kms.OperateKeyRequestBody(key, number)
    refused(400, "KMS.0206", lambda: tenant.kms.disable_key(kms.DisableKeyRequest(body)))
    assert tenant.describe(key).key_state == "2"
    # The same body for another operation is another request.
    once = {"key_id": key, "sequence": sequence()}
    assert tenant.http("POST", "disable-key", once).status == 200
    assert tenant.http("POST", "enable-key", once).refusal() == (400, "KMS.0206")
    # The numbers of others don't matter.
    assert create(tenant.other_project, "b", number).status_code == 200
    assert create(idempotent.tenant(account=1), "b", number).status_code == 200


def test_a_refused_request_may_be_repeated(idempotent):
    tenant, number = idempotent.tenant(), sequence()
    key = tenant.create_key("taken")
    refused(400, "KMS.1104", lambda: create(tenant, "taken", number))
    tenant.rename(key, "free")
    created = create(tenant, "taken", number).key_info.key_id
    assert create(tenant, "taken", number).key_info.key_id == created


def test_a_repeat_after_a_crash_is_answered_again(idempotent):
    tenant, number = idempotent.tenant(), sequence()
    first = create(tenant, "a", number).to_json_object()
    idempotent.kill()
    idempotent.start()
    assert create(tenant, "a", number).to_json_object() == first
