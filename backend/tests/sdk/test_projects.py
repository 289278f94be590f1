"""Nothing of one project or account can be seen or changed from another."""

import pytest
from huaweicloudsdkkms import v2 as kms

from backend import Account, refused
from test_refusals import ALL


def keys_of(tenant):
    page = tenant.kms.list_keys(kms.ListKeysRequest(kms.ListKeysRequestBody(key_spec="ALL")))
    return {key.key_id for key in page.key_details if key.default_key_flag == "0"}


def test_projects_of_other_accounts_are_forbidden(tenant, stranger):
    key = stranger.create_key()
    stranger.create_alias("a", key)
    intruder = tenant.client(project=stranger.project)
    requests = [
        lambda: intruder.list_keys(kms.ListKeysRequest(kms.ListKeysRequestBody())),
        lambda: intruder.list_aliases(kms.ListAliasesRequest()),
        lambda: intruder.disable_key(kms.DisableKeyRequest(kms.OperateKeyRequestBody(key))),
        lambda: intruder.list_key_detail(kms.ListKeyDetailRequest(kms.OperateKeyRequestBody(key))),
        lambda: intruder.delete_alias(kms.DeleteAliasRequest(kms.DeleteAliasRequestBody(["a"], key))),
        lambda: intruder.create_key(kms.CreateKeyRequest(kms.CreateKeyRequestBody("x"))),
        lambda: intruder.show_user_quotas(kms.ShowUserQuotasRequest()),
    ]
    for request in requests:
        refused(403, "APIGW.0302", request)
    # It looks as a project that nobody has, and a token opens no more than a signature.
    nobody = tenant.client(project="0" * 32)
    refused(403, "APIGW.0302", lambda: nobody.list_aliases(kms.ListAliasesRequest()))
    for path in (f"/v1.0/{stranger.project}/kms/aliases", f"/keystead/v1/{stranger.project}/keys/{key}/history"):
        assert tenant.http("GET", path).refusal() == (403, "APIGW.0302")
    assert stranger.describe(key).key_state == "2"
    assert stranger.aliases() == {"a": key}


@pytest.mark.parametrize("name", ["X-Project-Id", "X-Domain-Id"])
def test_headers_choose_neither_project_nor_account(tenant, stranger, name):
    key = tenant.create_key()
    value = stranger.project if name == "X-Project-Id" else stranger.account.domain
    answer = tenant.http("POST", "describe-key", {"key_id": key}, {name: value})
    assert (answer.status, answer.json()["key_info"]["domain_id"]) == (200, tenant.account.domain)


@pytest.mark.parametrize("operation", ALL.values(), ids=ALL)
def test_keys_of_another_project_are_not_there(tenant, operation):
    key = tenant.other_project.create_key("same")
    refused(404, "KMS.0207", lambda: operation(tenant, key))
    before = tenant.other_project.describe(key).to_dict()
    assert (before["key_alias"], before["key_state"]) == ("same", "2")
    # Key aliases are of a project.
    assert tenant.create_key("same") != key


def test_aliases_of_another_project_are_taken_but_not_seen(tenant):
    """The documented rule: an alias is unique in the account."""
    other = tenant.other_project
    mine, theirs = tenant.create_key(), other.create_key()
    other.create_alias("a", theirs)
    refused(400, "KMS.1104", lambda: tenant.create_alias("a", mine))
    refused(404, "KMS.0207", lambda: tenant.associate("a", mine))
    refused(404, "KMS.0207", lambda: tenant.associate("a", theirs))
    refused(404, "KMS.0207", lambda: tenant.delete_aliases(mine, ["a"]))
    refused(404, "KMS.0207", lambda: tenant.describe("alias/a"))
    refused(404, "KMS.0207", lambda: tenant.describe(f"kms:cn-north-7:{tenant.account.domain}:alias:a"))
    assert tenant.aliases() == {}
    history = tenant.http("GET", f"/keystead/v1/{tenant.project}/aliases/a/history")
    assert history.refusal() == (404, "KMS.0207")
    assert other.aliases() == {"a": theirs}
    # Once it is gone, it is free for all.
    other.delete_aliases(theirs, ["a"])
    tenant.create_alias("a", mine)
    assert tenant.aliases() == {"a": mine}
    refused(400, "KMS.1104", lambda: other.create_alias("a", theirs))


def test_another_account_may_have_the_same_alias(tenant, stranger):
    mine, theirs = tenant.create_key("same"), stranger.create_key("same")
    tenant.create_alias("a", mine)
    stranger.create_alias("a", theirs)
    assert (tenant.aliases(), stranger.aliases()) == ({"a": mine}, {"a": theirs})
    urn = f"kms:cn-north-7:{stranger.account.domain}:alias:a"
    refused(404, "KMS.0207", lambda: tenant.describe(urn))
    refused(404, "KMS.0207", lambda: tenant.describe(theirs))
    refused(404, "KMS.0207", lambda: tenant.associate("a", theirs))


def test_alias_scope_project(start):
    tenant = start([Account()], head='alias_scope = "project"').tenant()
    other = tenant.other_project
    mine, theirs = tenant.create_key(), other.create_key()
    tenant.create_alias("a", mine)
    other.create_alias("a", theirs)
    assert (tenant.aliases(), other.aliases()) == ({"a": mine}, {"a": theirs})
    assert other.describe("alias/a").key_id == theirs
    refused(404, "KMS.0207", lambda: tenant.associate("a", theirs))


def test_instances_and_tags_are_of_a_project(tenant):
    key = tenant.create_key()
    tag = kms.CreateKmsTagRequestBody(kms.TagItem("team", "red"))
    tenant.kms.create_kms_tag(kms.CreateKmsTagRequest(key, tag))
    other = tenant.other_project
    assert other.kms.show_user_instances(kms.ShowUserInstancesRequest()).instance_num == 0
    assert other.kms.list_kms_tags(kms.ListKmsTagsRequest()).tags == []
    assert keys_of(other) == set()
    assert keys_of(tenant) == {key}
