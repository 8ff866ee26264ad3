"""What the system holds of a connection: bounded, and known."""

import asyncio
import socket
import sys

import pytest

from service.server import sockets


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_what_the_system_holds_is_bounded_and_counted():
    async def run():
        with socket.socket() as listening, socket.socket() as client:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(listening.getsockname())
            own, _ = listening.accept()
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=own)
            sockets.bound(transport)
            assert transport.max_size == 16 * 1024
            assert sockets.untaken(transport) == 0
            transport.write(b"x" * 10**6)
            left, untaken = transport.get_write_buffer_size(), sockets.untaken(transport)
            assert 10**6 - left <= 2 * 128 * 1024 + 64 * 1024  # with what the client's system has taken
            assert left < untaken <= 10**6
            transport.abort()
            await asyncio.sleep(0)
            assert sockets.untaken(transport) == 0  # of a socket that is closed

    asyncio.run(run())


def test_another_loops_transport_is_asked_for_what_it_has():
    class Transport:
        """One without a socket, whose reads nobody may bound."""

        __slots__ = ()

        def get_extra_info(self, name):
            return None

        def get_write_buffer_size(self):
            return 7

    sockets.bound(Transport())
    assert sockets.untaken(Transport()) == 7
