"""The two requests that the API reference shows, byte for byte."""

import json

import pytest
from huaweicloudsdkkms import v2 as kms

from backend import Account

PROJECT = "0d0466b0e7274d9cb35df84bb474a37f"
DOMAIN = "3bab8e245e854f68af5967c00dd43127"
# The key of both examples, and the one that has the alias before.
KEY = "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e"
OTHER = "0d0466b0-e727-4d9c-b35d-f84bb474a37f"
ASSOCIATE = {"alias": "kms-1234", "target_key_id": KEY}
RENAME = {"key_id": KEY, "key_alias": "test"}


@pytest.fixture
def documented(start):
    # An id can't be chosen through the API: the backend's configuration makes these keys.
    account = Account(1, [(0, OTHER, "first", ["kms-1234"]), (0, KEY, "orders", [])])
    account.domain, account.projects = DOMAIN, [PROJECT]
    return start([account]).tenant()


def the_answers_are_the_documented_ones(associated, renamed):
    assert {name: associated[name] for name in ("domain_id", "key_id", "alias", "alias_urn")} == {
        "domain_id": DOMAIN,
        "key_id": KEY,
        "alias": "kms-1234",
        "alias_urn": f"kms:cn-north-7:{DOMAIN}:alias:kms-1234",
    }
    assert set(associated) == {"domain_id", "key_id", "alias", "alias_urn", "create_time", "update_time"}
    assert renamed == {"key_info": {"key_id": KEY, "key_alias": "test"}}


def test_through_the_sdk(documented):
    assert documented.aliases() == {"kms-1234": OTHER}
    associated = documented.kms.associate_alias(
        kms.AssociateAliasRequest(kms.AssociateAliasRequestBody(**ASSOCIATE))
    )
    renamed = documented.kms.update_key_alias(
        kms.UpdateKeyAliasRequest(kms.UpdateKeyAliasRequestBody(**RENAME))
    )
    the_answers_are_the_documented_ones(associated.to_json_object(), renamed.to_json_object())

    # What the SDK sent is what is documented: path, method, body.
    sent = [
        (request.method, request.path_url, json.loads(request.body)) for request, _ in documented.sent[-2:]
    ]
    assert sent == [
        ("POST", f"/v1.0/{PROJECT}/kms/alias/associate", ASSOCIATE),
        ("POST", f"/v1.0/{PROJECT}/kms/update-key-alias", RENAME),
    ]
    assert documented.aliases() == {"kms-1234": KEY}
    assert documented.aliases(key_id=OTHER) == {}
    assert documented.describe(KEY).key_alias == "test"
    assert documented.describe(f"kms:cn-north-7:{DOMAIN}:alias:kms-1234").key_id == KEY


def test_as_raw_http(documented):
    associated = documented.http(
        "POST",
        f"/v1.0/{PROJECT}/kms/alias/associate",
        b'{\n  "alias" : "kms-1234",\n  "target_key_id" : "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e"\n}',
    )
    renamed = documented.http(
        "POST",
        f"/v1.0/{PROJECT}/kms/update-key-alias",
        b'{\n  "key_id" : "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e",\n  "key_alias" : "test"\n}',
    )
    assert (associated.status, renamed.status) == (200, 200)
    assert associated.headers["Content-Type"].startswith("application/json")
    the_answers_are_the_documented_ones(associated.json(), renamed.json())


def test_both_again_change_nothing(documented):
    for _ in range(2):
        first = documented.associate("kms-1234", KEY).to_json_object()
        documented.rename(KEY, "test")
    assert documented.associate("kms-1234", KEY).to_json_object() == first
    history = documented.http("GET", f"/keystead/v1/{PROJECT}/aliases/kms-1234/history").json()["changes"]
    assert [change["operation"] for change in history] == ["associate_alias", "create_key"]
    assert history[0]["before"]["key_id"] == OTHER and history[0]["after"]["key_id"] == KEY
