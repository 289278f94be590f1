"""The keys of `[[account.key]]`: whatever is the matter with one of them, its project goes on."""

import json
import re

import pytest
from huaweicloudsdkkms import v2 as kms

from backend import Account, refused

FIRST = "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e"
SECOND = "0d0466b0-e727-4d9c-b35d-f84bb474a37f"
WRONG = {
    "two-keys": [(0, FIRST, "a", ["x"]), (0, SECOND, "b", ["x"])],
    "two-keys-with-and-without-prefix": [(0, FIRST, "a", ["x"]), (0, SECOND, "b", ["alias/x"])],
    "one-key": [(0, FIRST, "a", ["x", "alias/x"])],
    "two-projects": [(0, FIRST, "a", ["x"]), (1, SECOND, "b", ["x"])],
    "too-many": [(0, FIRST, "a", [f"x{number}" for number in range(51)])],
}


@pytest.mark.parametrize("keys", WRONG.values(), ids=WRONG)
def test_keys_that_exclude_each_other_are_found_at_the_start(start, keys):
    account = Account(2, keys)
    with pytest.raises(RuntimeError, match="did not start") as failed:
        start([account])
    said = str(failed.value)
    assert account.domain in said and account.projects[keys[-1][0]] in said and keys[-1][1] in said
    assert re.search(r"alias (alias/)?x\b|aliases_per_key", said), said
    assert account.secret_key not in said and account.token not in said


def test_an_alias_in_two_projects_is_right_where_it_is_unique_in_each(start):
    account = Account(2, WRONG["two-projects"])
    backend = start([account], head='alias_scope = "project"')
    assert backend.tenant().aliases() == {"x": FIRST}
    assert backend.tenant(project=1).aliases() == {"x": SECOND}


def test_a_customer_who_was_first_costs_one_key_and_no_more(start):
    account = Account(2, [(0, FIRST, "a", ["free", "x"]), (0, SECOND, "b", ["y"])])
    backend = start([account])
    other, tenant = backend.tenant(project=1), backend.tenant()
    mine = other.create_key()
    other.create_alias("alias/x", mine)
    # The first request, and all after it.
    for _ in range(3):
        assert tenant.aliases() == {"y": SECOND}
    refused(404, "KMS.0207", lambda: tenant.describe(FIRST))
    assert tenant.describe(SECOND).key_alias == "b"
    assert tenant.describe(tenant.default_key()).default_key_flag == "1"
    tenant.create_alias("free", tenant.create_key("a"))
    assert tenant.kms.show_user_instances(kms.ShowUserInstancesRequest()).instance_num == 2

    # It can be seen, by its account, project and names.
    def seen(times):
        assert "\nkms_first_keys_absent 1\n" in tenant.http("GET", "/metrics").text
        lines = [line for line in backend.log().splitlines() if "a key of the configuration is absent" in line]
        assert len(lines) == times, lines
        for part in ("ERROR", account.domain, account.projects[0], FIRST, json.dumps(["free", "x"])):
            assert part in lines[-1], lines

    seen(1)
    # And after another start it is as it was.
    backend.stop()
    backend.start()
    # Before the first request too.
    seen(2)
    assert tenant.describe(SECOND).key_alias == "b"
    refused(404, "KMS.0207", lambda: tenant.describe(FIRST))
    seen(2)
