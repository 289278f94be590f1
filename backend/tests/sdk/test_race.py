"""32 clients at once, each an SDK client with connections of its own, for one name."""

import threading

import pytest
from huaweicloudsdkkms import v2 as kms

from backend import SERVICES, Account, sequence
from racing import at_once, outcome

CLIENTS = 32
ROUNDS = 4


@pytest.fixture
def racers(tenant):
    tenant.keys = [tenant.create_key(f"key-{number}") for number in range(CLIENTS)]
    return tenant


def owner_of(tenant, alias):
    """The one key that has the alias, on which every way to ask agrees."""
    owner = tenant.aliases()[alias]
    assert owner in tenant.keys
    by_key = {key: tenant.aliases(key_id=key) for key in tenant.keys}
    assert {key for key, aliases in by_key.items() if alias in aliases} == {owner}
    assert by_key[owner][alias] == owner
    urn = f"kms:cn-north-7:{tenant.account.domain}:alias:{alias}"
    assert tenant.describe(urn).key_id == tenant.describe(f"alias/{alias}").key_id == owner
    listed = {name: key for aliases in by_key.values() for name, key in aliases.items()}
    assert listed == tenant.aliases()
    return owner


def changes_of(tenant, alias):
    """All changes of an alias, the oldest first."""
    changes, after = [], ""
    while after is not None:
        path = f"/keystead/v1/{tenant.project}/aliases/{alias}/history?limit=100&after={after}"
        page = tenant.http("GET", path).json()
        changes += page["changes"]
        after = page["next"]
    return changes[::-1]


def test_one_creates_an_alias(racers):
    for turn in range(ROUNDS):
        alias = f"contended-{turn}"
        outcomes = at_once(CLIENTS, lambda number: outcome(lambda: racers.create_alias(alias, racers.keys[number])))
        assert sorted(outcomes, key=str) == ["KMS.1104"] * (CLIENTS - 1) + [None]
        assert owner_of(racers, alias) == racers.keys[outcomes.index(None)]


def test_one_renames_its_key(racers):
    for turn in range(ROUNDS):
        name = f"contended-{turn}"
        outcomes = at_once(CLIENTS, lambda number: outcome(lambda: racers.rename(racers.keys[number], name)))
        assert sorted(outcomes, key=str) == ["KMS.1104"] * (CLIENTS - 1) + [None]
        winner = racers.keys[outcomes.index(None)]
        assert [key for key in racers.keys if racers.describe(key).key_alias == name] == [winner]


def test_all_move_an_alias(racers):
    racers.create_alias("contended", racers.keys[0])
    stop, seen = threading.Event(), []

    def watch():
        # Whenever one looks, it is in the list once, and the key that it is on is one of ours.
        while not stop.is_set():
            seen.append(racers.aliases())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(ROUNDS):
            # Moving never fails, whoever else does: the last one wins.
            outcomes = at_once(CLIENTS, lambda number: outcome(lambda: racers.associate("contended", racers.keys[number])))
            assert outcomes == [None] * CLIENTS
    finally:
        stop.set()
        watcher.join(60)
    assert len(seen) > 0
    for aliases in seen:
        assert list(aliases) == ["contended"] and aliases["contended"] in racers.keys

    owner = owner_of(racers, "contended")
    changes = changes_of(racers, "contended")
    # Each move began where the one before it had ended, and the last one is what is listed.
    for earlier, later in zip(changes, changes[1:]):
        assert earlier["after"]["key_id"] == later["before"]["key_id"]
        assert earlier["commit"] < later["commit"]
    assert changes[-1]["after"]["key_id"] == owner
    # Those who came to where it was already changed nothing.
    assert ROUNDS * 2 <= len(changes) <= CLIENTS * ROUNDS + 1


def test_all_create_move_and_delete_one_alias(racers):
    def work(number):
        key, other = racers.keys[number], racers.keys[(number + 1) % CLIENTS]
        done = []
        for _ in range(ROUNDS):
            done.append(("create", outcome(lambda: racers.create_alias("contended", key))))
            done.append(("move", outcome(lambda: racers.associate("contended", other))))
            done.append(("delete", outcome(lambda: racers.delete_aliases(key, ["contended"]))))
        return done

    done = [step for steps in at_once(CLIENTS, work) for step in steps]
    allowed = {"create": {None, "KMS.1104"}, "move": {None, "KMS.0207"}, "delete": {None, "KMS.0207"}}
    assert not [step for step in done if step[1] not in allowed[step[0]]]
    created, deleted = done.count(("create", None)), done.count(("delete", None))
    assert created >= 1 and created - deleted == len(racers.aliases()) <= 1

    operations = [change["operation"] for change in changes_of(racers, "contended")]
    assert (operations.count("create_alias"), operations.count("delete_aliases")) == (created, deleted)
    outcome(lambda: racers.create_alias("contended", racers.keys[0]))
    owner_of(racers, "contended")


def test_all_are_the_first_in_a_project(tenant):
    pages = at_once(
        CLIENTS,
        lambda _: tenant.kms.list_keys(kms.ListKeysRequest(kms.ListKeysRequestBody(key_spec="ALL"))).key_details,
    )
    names = {tuple(sorted((key.key_alias, key.key_id) for key in page)) for page in pages}
    # All saw the same keys of the platform: each was made once.
    (only,) = names
    assert [name for name, _ in only] == sorted(f"{service}/default" for service in SERVICES)


def test_all_repeat_one_request(start):
    tenant = start([Account()], head="idempotent_sequence = true").tenant()
    for turn in range(ROUNDS):
        body = kms.CreateKeyRequestBody(key_alias=f"once-{turn}", sequence=sequence())
        made = at_once(CLIENTS, lambda _: tenant.kms.create_key(kms.CreateKeyRequest(body)).to_json_object())
        assert all(answer == made[0] for answer in made)
    assert tenant.kms.show_user_instances(kms.ShowUserInstancesRequest()).instance_num == ROUNDS
