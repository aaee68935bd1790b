"""An HTTP client whose requests have a time limit as a whole, for threads that wait for their answers.

The time limit of a blocking read starts again with every byte, so a server that sends one byte at a time is
never given up. Here the request runs in an event loop, in which it can be ended wherever it stands:
connecting, waiting for the headers, or between two bytes of the body.
"""

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class Connection:
    """The event loop, in one background thread, of an asynchronous client (with `close`); thread-safe.

    The thread starts with the first request. Not usable in a fork of the process that made it.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def wait_for(self, request: Callable[[], Awaitable[Answer]], seconds: float) -> Answer:
        """The result of a request of the client. Raises TimeoutError if it is not complete in `seconds`."""

        async def limited() -> Answer:
            async with asyncio.timeout(seconds):
                return await request()

        return asyncio.run_coroutine_threadsafe(limited(), self._started()).result()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run, args=(self._loop,), name="requests", daemon=True).start()
                weakref.finalize(self, _end, self._loop, self.client)
            return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _end(loop: asyncio.AbstractEventLoop, client: Any) -> None:
    """Close the client's connections, then end the loop and with it the thread."""
    closed = asyncio.run_coroutine_threadsafe(client.close(), loop)
    closed.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
