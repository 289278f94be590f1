"""Who is calling: signatures and tokens."""

import json
import re
from datetime import datetime, timedelta, timezone

import pytest
from huaweicloudsdkkms import v2 as kms

from backend import refused, sha256

UNKNOWN = (401, "APIGW.0301")
DATE = "%Y%m%dT%H%M%SZ"


def at(seconds):
    return (datetime.now(timezone.utc) + timedelta(seconds=seconds)).strftime(DATE)


def create(tenant, name="a", **more):
    return tenant.sign("POST", "create-key", json.dumps({"key_alias": name}).encode(), **more)


def instances(tenant):
    return tenant.kms.show_user_instances(kms.ShowUserInstancesRequest()).instance_num


def test_what_the_sdk_signs_is_accepted(tenant):
    assert tenant.send(create(tenant)).status == 200
    assert instances(tenant) == 1


@pytest.mark.parametrize("query", [[], [("marker", "a:b/c_d-e")], [("limit", "2"), ("key_id", ""), ("marker", "z")]])
def test_queries_are_signed(tenant, query):
    request = tenant.sign("GET", "aliases", query=query)
    assert tenant.send(request).status == 200
    request.uri += ("&" if query else "?") + "limit=3"
    assert tenant.send(request).refusal() == UNKNOWN


@pytest.mark.parametrize("tag", ["a b", "a/b", "\u00e9", "~!@#$%^&*()_+", "a%2Fb", "."])
def test_paths_are_signed_as_they_are_meant(tenant, tag):
    key = tenant.create_key()
    body = kms.CreateKmsTagRequestBody(kms.TagItem(tag, "v"))
    tenant.kms.create_kms_tag(kms.CreateKmsTagRequest(key, body))
    if tag != ".":  # A client's library may shorten a path with a dot in it.
        assert tenant.kms.delete_tag(kms.DeleteTagRequest(key, tag)).status_code == 204


def test_a_wrong_secret_and_an_unknown_access_key(tenant, stranger):
    secret = tenant.client(secret_key="wrong")
    wrong = refused(*UNKNOWN, lambda: secret.create_key(kms.CreateKeyRequest(kms.CreateKeyRequestBody("a"))))
    key = tenant.client(access_key="AKUNKNOWN")
    unknown = refused(*UNKNOWN, lambda: key.create_key(kms.CreateKeyRequest(kms.CreateKeyRequestBody("a"))))
    # Nothing tells the one from the other.
    assert wrong.error_msg == unknown.error_msg
    others = tenant.client(secret_key=stranger.account.secret_key)
    refused(*UNKNOWN, lambda: others.create_key(kms.CreateKeyRequest(kms.CreateKeyRequestBody("a"))))
    assert instances(tenant) == 0


def changed_body(request):
    request.body = request.body.replace(b'"a"', b'"b"')


def more_body(request):
    request.body += b" "


def no_body(request):
    request.body = None


def other_path(request):
    request.uri = request.uri.replace("create-key", "list-keys")


def other_query(request):
    request.uri += "?x=1"


def other_date(request):
    request.header_params["X-Sdk-Date"] = at(-1)


def no_date(request):
    del request.header_params["X-Sdk-Date"]


def other_host(request):
    request.header_params["Host"] = "kms.example.com"


def other_signed_header(request):
    request.header_params["X-Project-Id"] = "other"


def no_signed_header(request):
    del request.header_params["X-Project-Id"]


def authorization(change):
    def changed(request):
        request.header_params["Authorization"] = change(request.header_params["Authorization"])

    return changed


def last_digit(header):
    return header[:-1] + ("0" if header[-1] != "0" else "1")


CHANGES = [
    changed_body,
    more_body,
    no_body,
    other_path,
    other_query,
    other_date,
    no_date,
    other_host,
    other_signed_header,
    no_signed_header,
]
HEADERS = {
    "another-signature": last_digit,
    "half-a-signature": lambda header: header[:-32],
    "no-signature": lambda header: header[:-64],
    "another-algorithm": lambda header: header.replace("SHA256", "SM3"),
    "no-algorithm": lambda header: header.removeprefix("SDK-HMAC-SHA256 "),
    "bearer": lambda header: "Bearer " + header,
    "empty": lambda header: "",
    "other-headers": lambda header: header.replace("x-project-id;", ""),
    "host-not-signed": lambda header: header.replace("host;", ""),
    "access-key-only": lambda header: header.split(",")[0],
    "not-ascii": lambda header: header.replace("Access=", "Access=\u00e9"),
}


@pytest.mark.parametrize(
    "change",
    CHANGES + [authorization(change) for change in HEADERS.values()],
    ids=[change.__name__ for change in CHANGES] + list(HEADERS),
)
def test_a_signed_request_that_was_changed(tenant, change):
    request = create(tenant)
    change(request)
    assert tenant.send(request).refusal() == UNKNOWN
    assert instances(tenant) == 0


def test_the_method_is_signed(tenant):
    request = tenant.sign("POST", "aliases", b"{}")
    request.method = "DELETE"
    assert tenant.send(request).refusal() == UNKNOWN


@pytest.mark.parametrize("seconds", [-86400, -1000, -850, 70, 800, 1000, 86400])
def test_dates_out_of_the_window(tenant, seconds):
    request = create(tenant, headers={"X-Sdk-Date": at(seconds)})
    answer = tenant.send(request)
    assert answer.refusal() == UNKNOWN
    assert ("ahead" if seconds > 0 else "ago") in answer.json()["error_msg"]
    assert instances(tenant) == 0


@pytest.mark.parametrize("seconds", [-830, -60, 50])
def test_dates_in_the_window(tenant, seconds):
    assert tenant.send(create(tenant, headers={"X-Sdk-Date": at(seconds)})).status == 200


def test_the_hash_of_the_body(tenant):
    body = json.dumps({"key_alias": "a"}).encode()
    for wrong in ("UNSIGNED-PAYLOAD", sha256(b""), sha256(body).upper()):
        request = create(tenant, headers={"X-Sdk-Content-Sha256": wrong})
        assert tenant.send(request).refusal() == UNKNOWN
        # Nor if it was not signed, but put in later.
        request = create(tenant)
        request.header_params["X-Sdk-Content-Sha256"] = wrong
        assert tenant.send(request).refusal() == UNKNOWN
    assert tenant.send(create(tenant, headers={"X-Sdk-Content-Sha256": sha256(body)})).status == 200


def test_refused_logins_are_in_the_log(start):
    backend = start(log="info,keystead_kms=warn")
    tenant = backend.tenant()
    strange = 'AK"\u202e' + "x" * 500
    tenant.send(create(tenant))
    claims = {
        "AKUNKNOWN": create(tenant, access_key="AKUNKNOWN"),
        tenant.account.access_key: create(tenant, secret_key="a-wrong-secret-key"),
        "AKOLD": create(tenant, access_key="AKOLD", headers={"X-Sdk-Date": at(-1000)}),
        "AKMALFORMED": create(tenant),
        strange: create(tenant),
    }
    authorization(lambda _: "SDK-HMAC-SHA256 Access=AKMALFORMED, Signature=x")(claims["AKMALFORMED"])
    authorization(lambda was: was.replace(tenant.account.access_key, strange).encode())(claims[strange])
    for request in claims.values():
        assert tenant.send(request).refusal() == UNKNOWN
    assert tenant.http("GET", "aliases", headers={"X-Auth-Token": "a-wrong-token"}).refusal() == UNKNOWN
    assert tenant.http("GET", "aliases", token=False).refusal() == UNKNOWN
    lines = [line for line in backend.log().splitlines() if "a login was refused" in line]
    assert len(lines) == len(claims) + 2, backend.log()
    assert all(re.search(r"peer=127\.0\.0\.1:[0-9]+", line) for line in lines), lines
    for claimed, line in zip(list(claims)[:-1], lines):
        assert f'access_key="{claimed}"' in line
    # What a stranger writes is neither long nor anything that a terminal obeys.
    assert len(lines[len(claims) - 1]) < 600
    assert all(" " <= sign <= "~" for line in lines for sign in line), lines
    assert "a-wrong-token" not in backend.log() and "a-wrong-secret-key" not in backend.log()


def test_a_signature_is_not_replaced_by_a_token(tenant):
    request = create(tenant)
    request.header_params["X-Auth-Token"] = tenant.account.token
    last = authorization(last_digit)
    last(request)
    assert tenant.send(request).refusal() == UNKNOWN


def test_tokens(tenant, stranger):
    assert tenant.http("POST", "create-key", {"key_alias": "a"}).status == 200
    wrong = ["", "x", tenant.account.token[:-1], tenant.account.token + "x", tenant.account.secret_key]
    for token in wrong:
        answer = tenant.http("POST", "create-key", {"key_alias": "b"}, {"X-Auth-Token": token})
        assert answer.refusal() == UNKNOWN, token
        assert token not in answer.text or len(token) < 2
    assert tenant.http("GET", "aliases", token=False).refusal() == UNKNOWN
    assert instances(tenant) == 1
    headers = {"X-Auth-Token": stranger.account.token}
    assert tenant.http("GET", "aliases", headers=headers).refusal() == (403, "APIGW.0302")


def test_refusals_say_nothing_secret(tenant):
    request = create(tenant)
    signature = request.header_params["Authorization"].split("Signature=")[1]
    changed_body(request)
    text = tenant.send(request).text
    assert signature not in text and tenant.account.secret_key not in text
