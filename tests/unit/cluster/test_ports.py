from __future__ import annotations

import socket
import subprocess
import sys

from cluster.ports import FIRST, RANGE, Ports

KEEPER = """
import sys
from cluster.ports import Ports
kept = Ports(3)
print(*kept.numbers, flush=True)
sys.stdin.read()
"""


def test_what_another_process_keeps_is_given_to_nobody_until_that_ends(monkeypatch) -> None:
    keeper = subprocess.Popen([sys.executable, "-c", KEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        theirs = set(map(int, keeper.stdout.readline().split()))
        monkeypatch.setattr("cluster.ports.FIRST", min(theirs))
        monkeypatch.setattr("random.shuffle", lambda ports: ports.sort())  # the first of theirs comes first
        ours = Ports(1)
        assert len(theirs) == 3 and not theirs & set(ours.numbers)
        ours.close()
    finally:
        keeper.kill()
        keeper.wait()
    again = Ports(1)
    assert again.numbers == [min(theirs)]
    again.close()


def test_a_port_that_somebody_listens_on_is_passed_over_and_none_is_of_outgoing_connections(monkeypatch) -> None:
    monkeypatch.setattr("random.shuffle", lambda ports: ports.sort())
    with_lowest = Ports(1)
    (lowest,) = with_lowest.numbers
    with_lowest.close()
    with socket.create_server(("127.0.0.1", lowest)):
        others = Ports(5)
    assert lowest not in others.numbers
    assert all(FIRST <= number < int(RANGE.read_text().split()[0]) for number in others.numbers)
    others.close()
