"""Lists, page by page."""

import pytest
from huaweicloudsdkkms import v2 as kms

from backend import refused


def list_keys(tenant, **fields):
    return tenant.kms.list_keys(kms.ListKeysRequest(kms.ListKeysRequestBody(**fields)))


@pytest.fixture
def seven(tenant):
    tenant.keys = sorted(tenant.create_key() for _ in range(7))
    tenant.everything = sorted(tenant.keys + [tenant.default_key()] + [
        key.key_id for key in list_keys(tenant, key_spec="ALL").key_details if key.default_key_flag == "1"
    ][1:])
    assert len(tenant.everything) == 9
    return tenant


def test_all_keys_are_on_one_page_by_default(seven):
    page = list_keys(seven)
    assert page.keys == seven.everything
    assert [key.key_id for key in page.key_details] == page.keys
    assert (page.next_marker, page.truncated, page.total) == ("", "false", 9)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 8, 9, 10, 2000])
def test_keys_page_by_page(seven, limit):
    found, marker, pages = [], None, 0
    while marker != "":
        page = list_keys(seven, limit=str(limit), marker=marker)
        assert page.total == 9
        assert page.truncated == ("true" if page.next_marker else "false")
        assert len(page.keys) == limit or not page.next_marker
        found += page.keys
        marker, pages = page.next_marker, pages + 1
        if marker:
            # An offset.
            assert marker == str(len(found))
    assert found == seven.everything
    assert pages == -(-9 // limit)


def test_a_marker_behind_the_end(seven):
    for marker in ("9", "1000000", str(2**63)):
        page = list_keys(seven, marker=marker)
        assert (page.keys, page.next_marker, page.truncated, page.total) == ([], "", "false", 9)


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"  ", b'{"limit": 2000}', b'{"limit": "2000", "marker": ""}'])
def test_bodies_of_list_keys(seven, body):
    for headers in ({}, {"Content-Type": "application/json"}, {"Content-Type": "application/json;charset=UTF-8"}):
        answer = seven.http("POST", "list-keys", body, headers)
        assert answer.status == 200 and answer.json()["keys"] == seven.everything


def test_numbers_as_numbers_and_as_strings(seven):
    pages = [
        seven.http("POST", "list-keys", {"limit": limit, "marker": marker}).json()
        for limit in (2, "2")
        for marker in (3, "3")
    ]
    assert all(page["keys"] == seven.everything[3:5] for page in pages)
    # The answer has strings, but for the total.
    assert (pages[0]["next_marker"], pages[0]["truncated"], pages[0]["total"]) == ("5", "true", 9)


@pytest.mark.parametrize("limit", ["0", "2001", "-1", "x", "1.5", "99999999999999999999"])
def test_wrong_limits_of_keys(tenant, limit):
    refused(400, "KMS.1601", lambda: list_keys(tenant, limit=limit))


@pytest.mark.parametrize("marker", ["-1", "x", "1.5", "99999999999999999999"])
def test_wrong_markers_of_keys(tenant, marker):
    refused(400, "KMS.1602", lambda: list_keys(tenant, marker=marker))


def test_filters_of_keys(tenant):
    aes, rsa = tenant.create_key(), tenant.create_key(key_spec="RSA_2048")
    external, dying = tenant.create_key(origin="external"), tenant.create_key()
    tenant.disable(aes)
    tenant.schedule(dying)

    def own(**fields):
        page = list_keys(tenant, **fields)
        own = [key.key_id for key in page.key_details if key.default_key_flag == "0"]
        assert page.total == len(page.keys)
        return set(own)

    assert own() == {aes, external, dying}
    assert own(key_spec="ALL") == {aes, rsa, external, dying}
    assert own(key_spec="RSA_2048") == {rsa}
    assert own(key_state="2", key_spec="ALL") == {rsa}
    assert own(key_state="3") == {aes}
    assert own(key_state="4") == {dying}
    assert own(key_state="5") == {external}
    assert own(key_state="1") == set()
    assert own(enterprise_project_id="all") == {aes, external, dying}
    assert own(enterprise_project_id="another") == set()
    for state in ("0", "6", "x"):
        refused(400, "KMS.0308", lambda state=state: list_keys(tenant, key_state=state))
    refused(400, "KMS.1110", lambda: list_keys(tenant, key_spec="AES_128"))


@pytest.fixture
def aliases(tenant):
    """Aliases of two keys; some begin with `alias/`, which does not count for the order."""
    keys = [tenant.create_key(), tenant.create_key()]
    names = [f"{'alias/' if number % 3 == 0 else ''}name-{number:02}" for number in range(11)]
    for number, name in enumerate(names):
        tenant.create_alias(name, keys[number % 2])
    tenant.keys = keys
    tenant.expected = {name: keys[number % 2] for number, name in enumerate(names)}
    return tenant


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 10, 11, 12, 100])
def test_aliases_page_by_page(aliases, limit):
    found, marker, pages = [], None, 0
    while marker != "":
        page = aliases.aliases_page(limit=str(limit), marker=marker)
        found += [entity.alias for entity in page.aliases]
        marker, pages = page.page_info.next_marker, pages + 1
        if marker:
            assert len(page.aliases) == limit and marker == found[-1]
    assert found == list(aliases.expected)
    assert pages == -(-11 // limit)


@pytest.mark.parametrize("limit", [1, 3, 6])
def test_aliases_of_a_key_page_by_page(aliases, limit):
    for key in aliases.keys:
        expected = {name: owner for name, owner in aliases.expected.items() if owner == key}
        assert aliases.aliases(key_id=key, limit=str(limit)) == expected


def test_a_marker_need_not_be_there_any_more(aliases):
    first = aliases.aliases_page(limit="2")
    marker = first.page_info.next_marker
    aliases.delete_aliases(aliases.expected[marker], [marker])
    rest = aliases.aliases_page(marker=marker)
    assert [entity.alias for entity in rest.aliases] == list(aliases.expected)[2:]
    assert rest.page_info.next_marker == ""
    assert aliases.aliases_page(marker="zzz").aliases == []


def test_more_aliases_than_a_page_holds(tenant):
    keys = [tenant.create_key() for _ in range(3)]
    for number in range(101):
        tenant.create_alias(f"n{number:03}", keys[number // 40])
    page = tenant.aliases_page()
    assert (len(page.aliases), page.page_info.next_marker) == (100, "n099")
    assert len(tenant.aliases()) == 101
    exactly = tenant.aliases_page(marker="n000")
    assert (len(exactly.aliases), exactly.page_info.next_marker) == (100, "")


def test_an_empty_list(tenant):
    page = tenant.http("GET", "aliases").json()
    assert page == {"aliases": [], "page_info": {"next_marker": "", "current_count": 0}}


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "1.5", "99999999999999999999"])
def test_wrong_limits_of_aliases(tenant, limit):
    refused(400, "KMS.1601", lambda: tenant.aliases_page(limit=limit))


@pytest.mark.parametrize("marker", ["a b", "n" * 256, "\u00e9", "a/default"])
def test_wrong_markers_of_aliases(tenant, marker):
    refused(400, "KMS.1602", lambda: tenant.aliases_page(marker=marker))
