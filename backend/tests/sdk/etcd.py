"""A real etcd cluster of three members on loopback, ended by their process ids."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import requests

MEMBERS = 3
START_SECONDS = 60


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Cluster:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.ports = [free_port() for _ in range(MEMBERS)]
        self.peers = [free_port() for _ in range(MEMBERS)]
        self.members = [None] * MEMBERS

    @property
    def endpoints(self):
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def __enter__(self):
        try:
            for member in range(MEMBERS):
                self.start(member)
            self.wait_until_healthy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for member in range(MEMBERS):
            self.kill(member)

    def start(self, member):
        assert self.members[member] is None
        peers = [f"n{number}=http://127.0.0.1:{port}" for number, port in enumerate(self.peers)]
        client, peer = self.endpoints[member], f"http://127.0.0.1:{self.peers[member]}"
        command = [
            "etcd",
            f"--name=n{member}",
            f"--data-dir={self.folder / f'n{member}'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={','.join(peers)}",
            "--initial-cluster-token=kms",
            "--initial-cluster-state=new",
            "--max-txn-ops=512",
            "--log-level=error",
        ]
        with open(self.folder / f"n{member}.log", "ab") as log:
            self.members[member] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_until_healthy(self):
        deadline = time.monotonic() + START_SECONDS
        for member, endpoint in enumerate(self.endpoints):
            while self.members[member] is not None:
                try:
                    if requests.get(f"{endpoint}/health", timeout=5).json()["health"] == "true":
                        break
                except requests.RequestException:
                    pass
                log = (self.folder / f"n{member}.log").read_text(encoding="utf-8", errors="replace")
                assert time.monotonic() < deadline, f"member {member} does not answer: {log}"
                time.sleep(0.05)

    def pause(self, member):
        os.kill(self.members[member].pid, signal.SIGSTOP)

    def resume(self, member):
        os.kill(self.members[member].pid, signal.SIGCONT)

    def kill(self, member):
        process, self.members[member] = self.members[member], None
        if process is not None:
            process.kill()
            process.wait()
