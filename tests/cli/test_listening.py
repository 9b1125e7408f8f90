"""Sockets that a supervisor opens for its workers."""

import errno
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from websuckets.cli import listening
from websuckets.cli.listening import listening_on

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it needs a system like Unix")

NOT_OURS = "192.0.2.1"
"""Address for documentation, which no machine has."""


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that sets the addresses of every name."""

    def resolve(*addresses: str) -> None:
        def infos(host: str, port: int, **_: Any) -> Any:
            return [(socket.AF_INET, 0, 0, "", (address, port)) for address in addresses]

        monkeypatch.setattr(listening.socket, "getaddrinfo", infos)

    return resolve


def names(sockets: Any) -> list[Any]:
    return [each.getsockname()[:2] for each in sockets]


def test_port_0_is_one_port_on_each_address() -> None:
    with listening_on("localhost", 0, None) as sockets:
        hosts, ports = zip(*names(sockets), strict=True)
        assert set(hosts) == {info[4][0] for info in socket.getaddrinfo("localhost", None)}
        assert len(set(ports)) == 1
        socket.create_connection(("127.0.0.1", ports[0])).close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", ports[0]))


def test_an_empty_name_is_every_interface() -> None:
    with listening_on("", 0, None) as sockets:
        assert {host for host, _ in names(sockets)} <= {"0.0.0.0", "::"}


def test_an_address_that_this_machine_does_not_have_is_left_out(resolve: Any) -> None:
    resolve(NOT_OURS, "127.0.0.1")
    with listening_on("both", 0, None) as sockets:
        ((host, port),) = names(sockets)
        assert (host, bool(port)) == ("127.0.0.1", True)


def test_a_name_without_an_address_of_this_machine_is_refused(resolve: Any) -> None:
    resolve(NOT_OURS)
    with (
        pytest.raises(OSError, match=f"{NOT_OURS}, port 80: cannot assign requested address"),
        listening_on("other", 80, None),
    ):
        pass


def test_a_port_is_chosen_again_if_it_is_taken_on_another_address(
    resolve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the second address refuse the first port, as if the port were taken there."""
    resolve("127.0.0.1", "127.0.0.2")
    refused: list[int] = []

    class Refusing(socket.socket):
        def bind(self, address: Any) -> None:
            if address[0] == "127.0.0.2" and not refused:
                refused.append(address[1])
                raise OSError(errno.EADDRINUSE, "taken")
            super().bind(address)

    monkeypatch.setattr(listening.socket, "socket", Refusing)
    with listening_on("both", 0, None) as sockets:
        (_, one), (_, two) = names(sockets)
        assert one == two != refused[0]


def test_a_choice_of_ports_in_vain_ends_with_the_error(
    resolve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve("0.0.0.0", "127.0.0.1")  # which exclude each other
    with pytest.raises(OSError, match=r"(?i)address already in use"), listening_on("x", 0, None):
        pass


def test_a_socket_is_removed_unless_another_process_has_replaced_it(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with listening_on("", 0, path) as (own,):
        assert own.getsockname() == path
        os.remove(path)
    with listening_on("", 0, path):
        os.rename(path, f"{path}.old")  # which keeps its number from being used again
        (tmp_path / "s").touch()
    assert os.path.isfile(path)


def test_a_socket_whose_queue_is_full_is_served(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
        other.bind(path)
        other.listen(0)
        client.connect(path)
        with pytest.raises(OSError, match="s: address already in use"), listening_on("", 0, path):
            pass
