"""Many clients at once, and what became of what each of them asked for."""

import threading
from concurrent.futures import ThreadPoolExecutor

from huaweicloudsdkcore.exceptions.exceptions import ClientRequestException


def at_once(clients, work):
    """Calls work(number) for each client, all of them let go at the same time; answers what they answer."""
    barrier = threading.Barrier(clients)

    def one(number):
        barrier.wait(60)
        return work(number)

    with ThreadPoolExecutor(clients) as pool:
        return [done.result(300) for done in [pool.submit(one, number) for number in range(clients)]]


def outcome(call):
    """The code of a refusal, or None. All other trouble fails the test."""
    try:
        call()
    except ClientRequestException as refusal:
        return refusal.error_code
    return None
