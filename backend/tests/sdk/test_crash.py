"""kill -9 in the middle of writes: nothing that was acknowledged is lost, nothing is done by half."""

import threading

from huaweicloudsdkcore.exceptions.exceptions import SdkException, ServiceResponseException
from requests.exceptions import RequestException

from backend import Account

WRITERS = 6
# In each round the process dies after so many acknowledged writes of all writers together.
ACKNOWLEDGED = [40, 5, 61, 23, 90]


class Writer:
    """Has two keys and an alias, and changes them one after the other. `state` is what was acknowledged
    last; `attempt` is what the write in work would make of it."""

    def __init__(self, tenant, number):
        self.tenant = tenant
        self.number = number
        self.keys = [tenant.create_key(f"writer-{number}-{index}") for index in range(2)]
        self.alias = f"alias-{number}"
        self.state = {"owner": None, "name": f"writer-{number}-0", "tags": 0}
        self.attempt = None
        self.turn = 0

    def step(self):
        turn, self.turn = self.turn, self.turn + 1
        state = dict(self.state)
        if turn % 4 == 3:
            state["name"] = f"writer-{self.number}-renamed-{turn}"
            call = lambda: self.tenant.rename(self.keys[0], state["name"])
        elif turn % 4 == 2:
            state["tags"] += 1
            tags = [{"key": name, "value": str(state["tags"])} for name in ("one", "two", "three")]
            body = {"action": "create", "tags": tags}
            call = lambda: self.tag(body)
        elif state["owner"] is None:
            state["owner"] = self.keys[0]
            call = lambda: self.tenant.create_alias(self.alias, self.keys[0])
        elif turn % 8 == 5:
            owner, state["owner"] = state["owner"], None
            call = lambda: self.tenant.delete_aliases(owner, [self.alias])
        else:
            state["owner"] = self.keys[1] if state["owner"] == self.keys[0] else self.keys[0]
            call = lambda: self.tenant.associate(self.alias, state["owner"])
        self.attempt = state
        call()
        self.state, self.attempt = state, None

    def tag(self, body):
        answer = self.tenant.http("POST", f"{self.keys[0]}/tags/action", body)
        assert answer.status == 204, answer.text

    def found(self):
        """What the store says now; every way to ask must agree."""
        owners = {self.tenant.aliases().get(self.alias)}
        listed = {key for key in self.keys if self.alias in self.tenant.aliases(key_id=key)}
        assert listed == owners - {None}, "the lists of a key and of the project differ"
        tags = self.tenant.http("GET", f"{self.keys[0]}/tags").json()["tags"]
        values = {tag["value"] for tag in tags}
        # Three tags are written in one request: all or none.
        assert (len(tags), len(values)) in [(0, 0), (3, 1)], tags
        return {
            "owner": owners.pop(),
            "name": self.tenant.describe(self.keys[0]).key_alias,
            "tags": int(values.pop()) if values else 0,
        }

    def check(self):
        found = self.found()
        allowed = [self.state] + ([self.attempt] if self.attempt else [])
        assert found in allowed, f"writer {self.number}: {found} is none of {allowed}"
        self.state, self.attempt = found, None


class Crash:
    """Lets the writers write until enough is acknowledged, then kills the process."""

    def __init__(self, backend, writers, acknowledged):
        self.backend = backend
        self.writers = writers
        self.wanted = acknowledged
        self.enough = threading.Condition()
        self.acknowledged = 0
        self.killed = threading.Event()
        self.wrong = []

    def write(self, writer):
        try:
            while True:
                writer.step()
                with self.enough:
                    self.acknowledged += 1
                    self.enough.notify_all()
        except (SdkException, RequestException) as error:
            # The connection is gone: right, once the process is being killed. A refusal is never right.
            if isinstance(error, ServiceResponseException) or not self.killed.is_set():
                self.failed(error)
        except BaseException as error:
            self.failed(error)

    def failed(self, error):
        with self.enough:
            self.wrong.append(error)
            self.enough.notify_all()

    def run(self):
        threads = [threading.Thread(target=self.write, args=(writer,)) for writer in self.writers]
        for thread in threads:
            thread.start()
        with self.enough:
            reached = self.enough.wait_for(lambda: self.wrong or self.acknowledged >= self.wanted, 120)
        # From here on a connection may break, not before.
        self.killed.set()
        self.backend.kill()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
        assert not self.wrong, self.wrong
        assert reached and self.acknowledged >= self.wanted


def test_what_was_acknowledged_is_there_after_a_crash(start):
    backend = start([Account()])
    tenant = backend.tenant()
    writers = [Writer(tenant, number) for number in range(WRITERS)]
    for acknowledged in ACKNOWLEDGED:
        before = tenant.http("GET", "/healthz").json()["commit"]
        Crash(backend, writers, acknowledged).run()
        backend.start()
        after = tenant.http("GET", "/healthz").json()["commit"]
        assert after >= before + acknowledged
        for writer in writers:
            writer.check()
    # And it goes on.
    for writer in writers:
        for _ in range(8):
            writer.step()
        writer.check()
    assert set(tenant.aliases()) == {writer.alias for writer in writers if writer.state["owner"]}


def test_a_crash_right_after_an_answer(start):
    backend = start([Account()])
    tenant = backend.tenant()
    keys = []
    for _ in range(5):
        keys.append(tenant.create_key())
        backend.kill()
        backend.start()
        assert [tenant.describe(key).key_id for key in keys] == keys
