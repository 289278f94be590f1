"""Requests signed as the service's SDKs in other languages do, header set by header set."""

from datetime import datetime, timedelta, timezone

import pytest
from huaweicloudsdkkms import v2 as kms

from signing import CLIENTS, DATE, Go, Java, Node, OnlyTheDate, Terraform

UNKNOWN = (401, "APIGW.0301")

every_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)


def instances(tenant):
    return tenant.kms.show_user_instances(kms.ShowUserInstancesRequest()).instance_num


@every_client
def test_a_request_with_a_body(tenant, client):
    created = client.of(tenant).request("POST", tenant.path("create-key"), {"key_alias": "a", "key_description": "f\u00fcr Bestellungen"})
    answer = created.send(tenant)
    assert answer.status == 200, answer.text
    assert tenant.describe(answer.json()["key_info"]["key_id"]).key_description == "f\u00fcr Bestellungen"


@every_client
def test_a_query(tenant, client):
    key = tenant.create_key()
    for name in ("a/b:c", "d", "e"):
        tenant.create_alias(name, key)
    query = [("marker", "a/b:c"), ("limit", "1"), ("key_id", "")]
    answer = client.of(tenant).request("GET", tenant.path("aliases"), query=query).send(tenant)
    assert answer.status == 200, answer.text
    assert [alias["alias"] for alias in answer.json()["aliases"]] == ["d"]


@every_client
def test_a_body_of_a_delete(tenant, client):
    key = tenant.create_key()
    tenant.create_alias("a", key)
    body = {"key_id": key, "aliases": ["a"]}
    answer = client.of(tenant).request("DELETE", tenant.path("aliases"), body).send(tenant)
    assert answer.status == 204, answer.text
    assert tenant.aliases() == {}


@pytest.mark.parametrize("client", [Go, Terraform, Node], ids=lambda client: client.__name__)
@pytest.mark.parametrize("tag", ["a/b", "/a", "a/", "a//b", "tags/action", "action", "action/a", "a:b"])
def test_a_slash_in_a_path_is_sent_as_it_is(tenant, client, tag):
    key = tenant.create_key()
    body = kms.CreateKmsTagRequestBody(kms.TagItem(tag, "v"))
    tenant.kms.create_kms_tag(kms.CreateKmsTagRequest(key, body))
    request = client.of(tenant).request("DELETE", tenant.path(f"{key}/tags/{tag}"))
    assert request.target.endswith(f"/tags/{tag}")
    assert request.send(tenant).status == 204
    assert tenant.kms.show_kms_tags(kms.ShowKmsTagsRequest(key)).tags == []


@pytest.mark.parametrize("client", [Go, Terraform], ids=lambda client: client.__name__)
@pytest.mark.parametrize("tag", ["a b", "\u00e9/\u00e9", "a?b#c", "100%", "a%2Fb"])
def test_a_path_is_signed_before_it_is_encoded(tenant, client, tag):
    key = tenant.create_key()
    body = kms.CreateKmsTagRequestBody(kms.TagItem(tag, "v"))
    tenant.kms.create_kms_tag(kms.CreateKmsTagRequest(key, body))
    assert client.of(tenant).request("DELETE", tenant.path(f"{key}/tags/{tag}")).send(tenant).status == 204


def other_body(request):
    request.body = request.body.replace(b'"a"', b'"b"')


def other_path(request):
    request.target = request.target.replace("create-key", "list-keys")


def other_query(request):
    request.target += "?x=1"


def other_method(request):
    request.method = {"POST": "DELETE", "DELETE": "POST"}[request.method]


def other_date(request):
    request.header("X-Sdk-Date", (datetime.now(timezone.utc) - timedelta(seconds=7)).strftime(DATE))


def no_date(request):
    request.header("X-Sdk-Date", None)


def hash_of_another_body(request):
    request.headers.append(("X-Sdk-Content-Sha256", "0" * 64))


def no_hash(request):
    request.headers.append(("X-Sdk-Content-Sha256", "UNSIGNED-PAYLOAD"))


CHANGES = [other_body, other_path, other_query, other_date, no_date, hash_of_another_body, no_hash]


@every_client
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_is_signed_can_not_be_changed(tenant, client, change):
    request = client.of(tenant).request("POST", tenant.path("create-key"), {"key_alias": "a"})
    change(request)
    assert request.send(tenant).refusal() == UNKNOWN
    assert instances(tenant) == 0


@every_client
def test_the_method_can_not_be_changed(tenant, client):
    """Of an operation that has both, each of which would be done."""
    key = tenant.create_key()
    tenant.create_alias("a", key)
    for method, body in (
        ("POST", {"key_id": key, "aliases": ["a"]}),
        ("DELETE", {"key_id": key, "alias": "b"}),
    ):
        request = client.of(tenant).request(method, tenant.path("aliases"), body)
        other_method(request)
        assert request.send(tenant).refusal() == UNKNOWN
        assert tenant.aliases() == {"a": key}
    for method, body, status in (
        ("DELETE", {"key_id": key, "aliases": ["a"]}, 204),
        ("POST", {"key_id": key, "alias": "b"}, 201),
    ):
        assert client.of(tenant).request(method, tenant.path("aliases"), body).send(tenant).status == status
    assert tenant.aliases() == {"b": key}


@pytest.mark.parametrize("header", ["Authorization", "X-Auth-Token"])
@pytest.mark.parametrize("other", ["right", "wrong"])
@pytest.mark.parametrize("place", ["before", "behind"])
def test_two_headers_that_say_who_is_calling(tenant, header, other, place):
    request = OnlyTheDate.of(tenant).request("POST", tenant.path("create-key"), {"key_alias": "a"})
    if header == "X-Auth-Token":
        request.headers[-1] = (header, tenant.account.token)
    name, right = request.headers[-1]
    assert name == header
    second = (header.lower(), right if other == "right" else right[:-1] + ("0" if right[-1] != "0" else "1"))
    request.headers.insert(len(request.headers) - (place == "before"), second)
    answer = request.send(tenant)
    assert answer.refusal() == UNKNOWN and "more than one" in answer.json()["error_msg"]
    # Once it is right.
    request.headers.remove(second)
    assert request.send(tenant).status == 200


@every_client
def test_each_signed_header_can_not_be_changed(tenant, client):
    names = client.of(tenant).signed(client.of(tenant).headers(b""))
    assert "x-sdk-date" in [name.lower() for name in names]
    for name in names:
        for value in (None, "other"):
            if name.lower() == "host" and value is None:
                continue  # That is no HTTP/1.1.
            request = client.of(tenant).request("POST", tenant.path("create-key"), {"key_alias": "a"})
            request.header(name, value)
            assert request.send(tenant).refusal() == UNKNOWN, (name, value)
    assert instances(tenant) == 0


@every_client
def test_a_signed_host_is_the_one_that_was_called(tenant, client):
    request = client.of(tenant).request("POST", tenant.path("create-key"), {"key_alias": "a"})
    request.header("Host", "kms.example.com")
    answer = request.send(tenant)
    if client.host_is_signed:
        assert answer.refusal() == UNKNOWN
    else:
        assert answer.status == 200


@pytest.mark.parametrize("client", [Go, Java, OnlyTheDate], ids=lambda client: client.__name__)
def test_the_date_must_be_among_the_signed_headers(tenant, client):
    class Undated(client):
        def signed(self, headers):
            return [name for name in super().signed(headers) if name.lower() != "x-sdk-date"]

    request = Undated.of(tenant).request("POST", tenant.path("create-key"), {"key_alias": "a"})
    assert request.send(tenant).refusal() == UNKNOWN


@pytest.mark.parametrize("client", [Go, Java], ids=lambda client: client.__name__)
def test_a_header_can_not_be_signed_twice(tenant, client):
    class Twice(client):
        def signed(self, headers):
            return [*super().signed(headers), "X-SDK-DATE"]

    request = Twice.of(tenant).request("POST", tenant.path("create-key"), {"key_alias": "a"})
    assert request.send(tenant).refusal() == UNKNOWN
