"""Makes two keys and their aliases, then moves aliases by the official SDK; prints rate and times."""

import sys
import threading
import time

from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkkms.v2 import (
    AssociateAliasRequest,
    AssociateAliasRequestBody,
    CreateAliasRequest,
    CreateAliasRequestBody,
    CreateKeyRequest,
    CreateKeyRequestBody,
    KmsClient,
)

ENDPOINT = sys.argv[1]
MOVES = 150


def client():
    credentials = BasicCredentials("AKEXAMPLE", "SKEXAMPLE", "0d0466b0e7274d9cb35df84bb474a37f")
    return KmsClient.new_builder().with_credentials(credentials).with_endpoint(ENDPOINT).build()


def move(alias, keys, times):
    kms = client()
    for number in range(MOVES):
        target = keys[(number + 1) % 2]
        begin = time.perf_counter()
        moved = kms.associate_alias(AssociateAliasRequest(AssociateAliasRequestBody(alias, target)))
        times.append(time.perf_counter() - begin)
        assert moved.key_id == target, moved


def main():
    kms = client()
    keys = [
        kms.create_key(CreateKeyRequest(CreateKeyRequestBody(key_alias=name))).key_info.key_id
        for name in ("blue", "green")
    ]

    def create(alias):
        kms.create_alias(CreateAliasRequest(CreateAliasRequestBody(key_id=keys[0], alias=alias)))

    create("kms-1234")
    for threads in (1, 8):
        aliases = [f"load-{threads}-{number}" for number in range(threads)]
        for alias in aliases:
            create(alias)
        times = [[] for _ in aliases]
        movers = [threading.Thread(target=move, args=(alias, keys, mine)) for alias, mine in zip(aliases, times)]
        begin = time.perf_counter()
        for mover in movers:
            mover.start()
        for mover in movers:
            mover.join()
        elapsed = time.perf_counter() - begin
        every = sorted(sum(times, []))
        assert len(every) == threads * MOVES, "a thread ended early"
        median, late = every[len(every) // 2], every[len(every) * 99 // 100]
        print(f"associate, SDK, {threads} threads: {len(every) / elapsed:.0f}/s, "
              f"median {median * 1e3:.2f} ms, 99 % {late * 1e3:.2f} ms")


main()
