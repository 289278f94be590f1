"""What holds for every request, whatever it asks for."""

import http.client
import json
import re
import socket

import pytest
from huaweicloudsdkkms import v2 as kms

from backend import CALL_SECONDS, ROOT, Account, refused

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("method", "tail"),
    [
        ("GET", "create-key"),
        ("PUT", "create-key"),
        ("PATCH", "aliases"),
        ("DELETE", "list-keys"),
        ("POST", "user-quotas"),
        ("POST", "tags"),
        ("GET", "alias/associate"),
        ("OPTIONS", "describe-key"),
        ("POST", "/"),
        ("DELETE", "/v1.0"),
        ("POST", "/healthz"),
        ("POST", "/metrics"),
    ],
)
def test_wrong_methods(tenant, method, tail):
    assert tenant.http(method, tail, {}).refusal() == (405, "KMS.0215")


@pytest.mark.parametrize("tail", ["", "unheard-of", "create-key/", "aliases/a", "/keystead/v1", "/a/b/c"])
def test_paths_that_are_not_offered(tenant, tail):
    answer = tenant.http("GET", tail)
    assert answer.refusal() == (405, "KMS.0215")
    assert answer.headers["Allow"] == ""


@pytest.mark.parametrize("tail", ["/v2", "/v1.0x", "/favicon.ico", "/keystead"])
def test_no_such_version(tenant, tail):
    assert tenant.http("GET", tail).refusal() == (404, "KMS.0201")


def test_an_operation_that_is_not_offered_does_not_look_as_if_a_key_was_gone(tenant):
    """404 has a meaning for clients: Terraform takes a resource from its state."""
    key = tenant.create_key()
    gone = refused(404, "KMS.0207", lambda: tenant.describe(ID))
    body = kms.EncryptDataRequestBody(key_id=key, plain_text="text")
    grants = kms.ListGrantsRequest(kms.ListGrantsRequestBody(key_id=key))
    for call in [
        lambda: tenant.kms.encrypt_data(kms.EncryptDataRequest(body)),
        lambda: tenant.kms.list_grants(grants),
        lambda: tenant.kms.create_random(kms.CreateRandomRequest(kms.GenRandomRequestBody("512"))),
    ]:
        answer = refused(405, "KMS.0215", call)
        assert (answer.status_code, answer.error_code) != (gone.status_code, gone.error_code)
        assert "does not offer" in answer.error_msg


WITH_BODY = ["create-key", "describe-key", "list-keys", "update-key-alias", "schedule-key-deletion", "aliases"]


@pytest.mark.parametrize("tail", WITH_BODY)
@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"7", b'"x"', b"{]", b'{"key_id":}', b"\xff\xfe", b'{"a":1}x', b"[" * 100_000, b'{"a":' * 10_000]
)
def test_bad_json(tenant, tail, body):
    assert tenant.http("POST", tail, body).refusal() == (400, "KMS.0202")


@pytest.mark.parametrize(
    ("tail", "body"),
    [
        ("describe-key", {"key_id": 7}),
        ("describe-key", {"key_id": {"a": 1}}),
        ("create-key", {"key_alias": ["a"]}),
        ("list-keys", {"limit": [1]}),
        ("list-keys", {"limit": 1.5}),
        ("aliases", {"key_id": "x", "alias": True}),
        ("list-keys", {"sequence": 919}),
    ],
)
def test_values_of_a_wrong_type(tenant, tail, body):
    assert tenant.http("POST", tail, body).refusal() == (400, "KMS.0308")


ID = "11111111-2222-4333-8444-555555555555"
COMPLETE = {
    ("POST", "create-key"): {"key_alias": "a"},
    ("POST", "describe-key"): {"key_id": ID},
    ("POST", "update-key-alias"): {"key_id": ID, "key_alias": "a"},
    ("POST", "update-key-description"): {"key_id": ID, "key_description": "a"},
    ("POST", "enable-key"): {"key_id": ID},
    ("POST", "disable-key"): {"key_id": ID},
    ("POST", "schedule-key-deletion"): {"key_id": ID, "pending_days": "7"},
    ("POST", "cancel-key-deletion"): {"key_id": ID},
    ("POST", "aliases"): {"key_id": ID, "alias": "a"},
    ("DELETE", "aliases"): {"key_id": ID, "aliases": ["a"]},
    ("POST", "alias/associate"): {"target_key_id": ID, "alias": "a"},
    ("POST", "enable-key-rotation"): {"key_id": ID},
    ("POST", "disable-key-rotation"): {"key_id": ID},
    ("POST", "update-key-rotation-interval"): {"key_id": ID, "rotation_interval": 30},
    ("POST", "get-key-rotation-status"): {"key_id": ID},
    ("POST", f"{ID}/tags"): {"tag": {"key": "k", "value": "v"}},
    ("POST", f"{ID}/tags/action"): {"action": "create", "tags": [{"key": "k", "value": "v"}]},
}
MISSING = [(operation, name) for operation, body in COMPLETE.items() for name in body]


@pytest.mark.parametrize(
    ("operation", "name"), MISSING, ids=[f"{m}-{p}-{n}".replace(ID, "key") for (m, p), n in MISSING]
)
def test_missing_parameters(tenant, operation, name):
    method, tail = operation
    without = {other: value for other, value in COMPLETE[operation].items() if other != name}
    for body in (without, without | {name: None}):
        answer = tenant.http(method, tail, body)
        assert answer.refusal() == (400, "KMS.0204")
        assert name in answer.json()["error_msg"]
    if not without:
        assert tenant.http(method, tail).refusal() == (400, "KMS.0204")
    # With it, it is no longer the form that is wrong.
    answer = tenant.http(method, tail, COMPLETE[operation])
    assert answer.status in (200, 404), answer.text


def padded(length):
    body = json.dumps({"key_alias": "padded"}).encode()
    return body + b" " * (length - len(body))


def refusal_of(tenant, head, body=b""):
    """Sends a request as far as it is said here, and reads the answer."""
    host, port = tenant.backend.url.removeprefix("http://").split(":")
    lines = [f"POST {tenant.path('create-key')} HTTP/1.1", f"Host: {host}", "Connection: close", *head, "", ""]
    with socket.create_connection((host, int(port)), timeout=CALL_SECONDS) as connection:
        connection.sendall("\r\n".join(lines).encode() + body)
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert re.fullmatch("[0-9a-f]{32}", response.headers["X-Request-Id"])
        return response.status, json.loads(response.read())["error_code"]


def test_bodies_of_up_to_one_mebibyte(tenant):
    token = f"X-Auth-Token: {tenant.account.token}"
    # What says that it is too long is not waited for; what does not say it is read up to the limit. Nothing
    # is sent after that: where unread bytes remain, a connection that is closed may take its answer along.
    announced = [token, f"Content-Length: {MIB + 1}"]
    assert refusal_of(tenant, announced) == (400, "KMS.0203")
    chunk = f"{MIB + 1:x}\r\n".encode() + padded(MIB + 1)
    assert refusal_of(tenant, [token, "Transfer-Encoding: chunked"], chunk) == (400, "KMS.0203")
    assert tenant.http("POST", "create-key", padded(MIB)).status == 200
    in_chunks = iter([padded(MIB - 1), b" "])
    assert tenant.http("POST", "create-key", in_chunks).refusal() == (400, "KMS.1104")


def test_chunks_count_and_not_a_length_beside_them(tenant):
    """What docs/backend.md says to whoever has a proxy in front."""
    token = f"X-Auth-Token: {tenant.account.token}"
    for length in (3, 7, 2000):
        both = [token, f"Content-Length: {length}", "Transfer-Encoding: chunked"]
        for head in (both, [both[0], *both[:0:-1]]):
            # A whole object without the parameter; less or more of what was sent is none.
            assert refusal_of(tenant, head, b"2\r\n{}\r\n0\r\n\r\n") == (400, "KMS.0204")


def test_the_answer_to_a_body_that_is_too_long_is_not_lost(tenant):
    for number in range(30):
        body = iter([padded(MIB)] * 3) if number % 2 else padded(3 * MIB)
        assert tenant.http("POST", "create-key", body).refusal() == (400, "KMS.0203")


def test_a_body_that_is_too_long_is_not_waited_for_from_strangers(tenant):
    assert refusal_of(tenant, [f"Content-Length: {MIB + 1}"]) == (401, "APIGW.0301")


@pytest.mark.parametrize("content_type", [None, "application/json", "application/json;charset=utf-8", "text/plain", "x"])
def test_content_types(tenant, content_type):
    headers = {"Content-Type": content_type} if content_type else {}
    assert tenant.http("POST", "create-key", b'{"key_alias":"a"}', headers).status == 200
    assert tenant.http("GET", "aliases", headers=headers).status == 200


def test_unknown_fields_are_left_out(tenant):
    assert tenant.http("POST", "create-key", {"key_alias": "a", "unheard_of": [{}]}).status == 200


@pytest.mark.parametrize("query", ["limit=1&limit=2", "marker=a&marker=a", "key_id=x&key_id=y"])
def test_a_parameter_that_is_there_twice(tenant, query):
    assert tenant.http("GET", f"aliases?{query}").refusal() == (400, "KMS.0308")


def test_request_ids(tenant):
    # Answer looks at the id of every answer; here: each has another, and the caller does not choose it.
    paths = ["aliases", "unheard-of", "create-key", "/healthz", "/metrics", "/openapi.json", "/"]
    answers = [tenant.http("GET", path, headers={"X-Request-Id": "0" * 32}) for path in paths * 2]
    answers += [tenant.http("GET", "aliases", token=False), tenant.http("POST", "create-key", b"{")]
    ids = {answer.headers["X-Request-Id"] for answer in answers}
    assert len(ids) == len(answers) and "0" * 32 not in ids
    log = tenant.backend.log()
    assert all(number in log for number in ids)


def test_health(tenant):
    before = tenant.http("GET", "/healthz", token=False).json()
    tenant.create_key()
    after = tenant.http("GET", "/healthz", token=False).json()
    assert before["status"] == after["status"] == "ok"
    assert after["commit"] > before["commit"]


def sample(text, start):
    values = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(start)]
    assert len(values) <= 1, values
    return float(values[0]) if values else 0.0


def test_metrics(start):
    backend = start([Account()])
    tenant = backend.tenant()

    def metrics():
        answer = tenant.http("GET", "/metrics", token=False)
        assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/plain")
        return answer.text

    created = 'kms_requests_total{method="POST",path="/v1.0/{project_id}/kms/create-key",status="200"}'
    before = metrics()
    assert sample(before, created) == 0
    for _ in range(3):
        tenant.create_key()
    refused(404, "KMS.0207", lambda: tenant.describe(ID))
    assert tenant.http("GET", "aliases", token=False).status == 401
    tenant.http("BREW", f"/{'x' * 50}")
    after = metrics()
    assert sample(after, created) == 3
    described = 'kms_requests_total{method="POST",path="/v1.0/{project_id}/kms/describe-key",status="404"}'
    assert sample(after, described) == 1
    assert sample(after, "kms_unauthenticated_total") == 1
    # What clients write does not become a label.
    for text in (tenant.project, "BREW", "xxx", tenant.account.access_key, tenant.account.domain):
        assert text not in after


def test_the_description_is_served_as_it_is_checked_in(tenant):
    served = tenant.http("GET", "/openapi.json", token=False).json()
    assert served == json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))


def test_nothing_secret_is_in_the_log(start):
    backend = start([Account(), Account()], log="trace")
    tenant = backend.tenant()
    key = tenant.create_key("orders")
    tenant.create_alias("a", key)
    request = tenant.sign("GET", "aliases")
    signature = request.header_params["Authorization"].split("Signature=")[1]
    tenant.send(request)
    wrong_secret = tenant.client(secret_key="a-wrong-secret-key")
    refused(401, "APIGW.0301", lambda: wrong_secret.list_aliases(kms.ListAliasesRequest()))
    tenant.http("GET", "aliases", headers={"X-Auth-Token": "a-wrong-token"})
    tenant.http("GET", "aliases", headers={"Authorization": "Bearer a-wrong-bearer"})
    tenant.http("POST", "create-key", b'{"key_alias": "a-wrong-body')
    answer = tenant.http("POST", "disable-key", {"key_id": key})
    backend.stop()
    log = backend.log()
    assert answer.headers["X-Request-Id"] in log and tenant.account.access_key in log
    unsaid = [*backend.secrets(), signature, "a-wrong-secret-key", "a-wrong-token", "a-wrong-bearer", "a-wrong-body"]
    assert not [text for text in unsaid if text in log]


def test_it_listens_on_this_machine_only(tenant):
    assert tenant.backend.url.startswith("http://127.0.0.1:")
