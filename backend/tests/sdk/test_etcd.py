"""Two processes on one etcd cluster: together they are one service."""

import os
import subprocess
import time
import uuid

import pytest
from huaweicloudsdkkms import v2 as kms

import racing
from backend import Account, binary, sequence
from etcd import Cluster
from racing import outcome

CLIENTS = 16
ROUNDS = 3
STALENESS_SECONDS = 0.5
# What passes between the moments at which a test and a backend look at the clock.
SLACK_SECONDS = 0.05


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    arguments = ["--engine", "etcd", "--endpoints", "http://127.0.0.1:1", "--config", "/nonexistent"]
    said = subprocess.run([binary(), *arguments], capture_output=True, text=True, timeout=60).stderr
    if "built without etcd" in said:
        reason = "the backend was built without etcd: cargo build -p keystead-kms --features etcd"
        assert "KEYSTEAD_ETCD_REQUIRED" not in os.environ, reason
        pytest.skip(reason)
    with Cluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture
def pair(start, cluster):
    """Starts two backends on a store of their own, of one customer, who calls through each."""

    def pair(accounts=None, **more):
        accounts = accounts or [Account()]
        place = ["--engine", "etcd", "--endpoints", ",".join(cluster.endpoints), "--prefix", f"kms-{uuid.uuid4().hex}"]
        return [start(accounts, place=place, **more).tenant() for _ in range(2)]

    return pair


def at_once(nodes, work):
    """Calls work(tenant, number) for clients of both nodes, all of them let go at the same time."""
    return racing.at_once(CLIENTS, lambda number: work(nodes[number % 2], number))


def history(tenant, alias):
    page = tenant.http("GET", f"/keystead/v1/{tenant.project}/aliases/{alias}/history?limit=1000").json()
    assert page["next"] is None
    return page["changes"][::-1]


def test_clients_of_two_processes_race_for_one_alias(pair):
    nodes = pair()
    keys = [nodes[number % 2].create_key() for number in range(CLIENTS)]
    for turn in range(ROUNDS):
        alias = f"contended-{turn}"
        outcomes = at_once(nodes, lambda node, number: outcome(lambda: node.create_alias(alias, keys[number])))
        assert sorted(outcomes, key=str) == ["KMS.1104"] * (CLIENTS - 1) + [None]
        winner = keys[outcomes.index(None)]
        for node in nodes:
            assert node.aliases()[alias] == node.describe(f"alias/{alias}").key_id == winner
            assert [key for key in keys if alias in node.aliases(key_id=key)] == [winner]
        # Moving never fails, whoever else does.
        moved = at_once(nodes, lambda node, number: outcome(lambda: node.associate(alias, keys[number])))
        assert moved == [None] * CLIENTS
        one, other = [history(node, alias) for node in nodes]
        assert one == other
        for earlier, later in zip(one, one[1:]):
            assert earlier["after"]["key_id"] == later["before"]["key_id"]
            assert earlier["commit"] < later["commit"]
        assert {node.aliases()[alias] for node in nodes} == {one[-1]["after"]["key_id"]}


def test_each_sees_at_once_what_the_other_did(pair):
    nodes = pair()
    keys = [nodes[0].create_key("first"), nodes[1].create_key("second")]
    nodes[0].create_alias("moved", keys[0])
    for turn in range(1, 41):
        writer, reader = nodes[turn % 2], nodes[(turn + 1) % 2]
        writer.associate("moved", keys[turn % 2])
        assert reader.describe("alias/moved").key_id == keys[turn % 2]
        writer.rename(keys[0], f"first-{turn}")
        assert reader.describe(keys[0]).key_alias == f"first-{turn}"
        # A refusal, too, is of now.
        assert outcome(lambda: reader.rename(keys[1], f"first-{turn}")) == "KMS.1104"


def test_both_are_the_first_in_a_project(pair):
    account = Account(keys=[(0, str(uuid.uuid4()), "orders", ["kms-1234"])])
    nodes = pair([account])
    pages = at_once(
        nodes,
        lambda node, _: node.kms.list_keys(kms.ListKeysRequest(kms.ListKeysRequestBody(key_spec="ALL"))).key_details,
    )
    names = {tuple(sorted((key.key_alias, key.key_id) for key in page)) for page in pages}
    (only,) = names
    assert [name for name, _ in only] == ["evs/default", "obs/default", "orders"]


def test_a_request_that_comes_to_both_is_done_once(pair):
    nodes = pair(head="idempotent_sequence = true")
    for turn in range(ROUNDS):
        body = kms.CreateKeyRequestBody(key_alias=f"once-{turn}", sequence=sequence())
        made = at_once(nodes, lambda node, _: node.kms.create_key(kms.CreateKeyRequest(body)).to_json_object())
        assert all(answer == made[0] for answer in made)
    for node in nodes:
        assert node.kms.show_user_instances(kms.ShowUserInstancesRequest()).instance_num == ROUNDS


def test_what_one_shows_is_no_older_than_the_bound(pair, cluster):
    nodes = pair(tables=f"[etcd]\nstaleness_ms = {int(STALENESS_SECONDS * 1000)}")
    keys = [nodes[0].create_key("first"), nodes[0].create_key("second")]
    nodes[0].create_alias("moved", keys[0])
    assert nodes[0].describe("alias/moved").key_id == keys[0], "what it wrote itself it shows at once"
    latest = 0
    for turn in range(1, 25):
        if turn == 10:
            # A member that stands still does not make it longer.
            cluster.pause(turn % 3)
        nodes[0].associate("moved", keys[turn % 2])
        done = time.monotonic()
        while True:
            asked = time.monotonic()
            if nodes[1].describe("alias/moved").key_id == keys[turn % 2]:
                break
            assert asked - done <= STALENESS_SECONDS + SLACK_SECONDS
            latest = max(latest, asked - done)
        if turn == 20:
            cluster.resume(10 % 3)
    print(f"the last that showed what was before was asked {latest * 1000:.1f} ms after the change")


def test_the_loss_of_a_process_or_a_member_stops_nobody(pair, cluster):
    nodes = pair()
    keys = [nodes[0].create_key("first"), nodes[0].create_key("second")]
    nodes[0].create_alias("moved", keys[0])
    nodes[0].backend.kill()
    for lost in range(3):
        cluster.kill(lost)
        for turn in (1, 0):
            nodes[1].associate("moved", keys[turn])
            assert nodes[1].describe("alias/moved").key_id == keys[turn]
        cluster.start(lost)
        cluster.wait_until_healthy()
    nodes[0].backend.start()
    for turn in (1, 0):
        nodes[1].associate("moved", keys[turn])
        assert nodes[0].describe("alias/moved").key_id == keys[turn]
    assert len(history(nodes[0], "moved")) == 9


def test_a_cluster_that_is_not_there_is_told(cluster, tmp_path):
    config = tmp_path / "kms.toml"
    config.write_text('region = "cn-north-7"\naccount = []\n[etcd]\ndeadline_ms = 300\n', encoding="utf-8")
    config.chmod(0o600)
    place = ["--engine", "etcd", "--endpoints", "http://127.0.0.1:1", "--config", config, "--listen", "127.0.0.1:0"]
    ran = subprocess.run([binary(), *place], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1 and ran.stdout == ""
    assert ran.stderr.splitlines()[-1].startswith("keystead-kms: http://127.0.0.1:1: the storage engine can't be reached")
