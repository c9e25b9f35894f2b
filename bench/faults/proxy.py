"""A loopback proxy in front of a broker, whose connections can be cut and delayed.

Kafka's clients go where the broker's metadata says. The proxy listens on another address of Linux's loopback at the
broker's own port and writes that, as long as the broker's, over 127.0.0.1 in each response: nothing else looks like it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

BROKER = "127.0.0.1"


class Proxy:
    """Carries frames, each `delay_s` later than it came, while it is not `cut`."""

    def __init__(self, address: str, port: int) -> None:
        assert len(address) == len(BROKER)
        self.address, self.port = address, port
        self.delay_s = 0.0
        self.severed = 0  # connections that a cut has ended
        self.delayed = 0  # frames
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def bootstrap(self) -> str:
        """What a client is to be given."""
        return f"{self.address}:{self.port}"

    def cut(self) -> None:
        """End every connection and refuse new ones."""
        self._is_cut = True
        self.severed += len(self._writers) // 2
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        """Take connections again."""
        self._is_cut = False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either side ends it."""
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            to_broker = await asyncio.open_connection(BROKER, self.port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, to_broker[1]}
        self._writers |= both
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._frames(reader, to_broker[1]))
                group.create_task(self._frames(to_broker[0], writer))
        except* (OSError, EOFError):
            pass  # either side has gone: so must the other
        finally:
            self._writers -= both
            for end in both:
                end.transport.abort()

    async def _frames(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            size = await reader.readexactly(4)
            frame = await reader.readexactly(int.from_bytes(size))
            if self.delay_s:
                self.delayed += 1
                await asyncio.sleep(self.delay_s)
            writer.write(size + frame.replace(BROKER.encode(), self.address.encode()))
            await writer.drain()


@contextlib.asynccontextmanager
async def proxied(bootstrap: str, address: str) -> AsyncIterator[Proxy]:
    """Run a proxy at this address in front of the broker at 127.0.0.1 while the block runs."""
    proxy = Proxy(address, int(bootstrap.rpartition(":")[2]))
    server = await asyncio.start_server(proxy.carry, address, proxy.port)
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
