"""An HTTP client for hostile servers: a time limit and a size limit for each answer as a whole, one origin.

The time limit of a blocking read starts again with every byte, so a server that sends one byte at a time is
never given up. Here the request runs in an event loop, in which it can be ended wherever it stands:
connecting, waiting for the headers, or between two bytes of the body.
"""

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curation.teacher.address import origin

HOPS = 3
"""Redirections that are followed, all of them within one origin."""
ERROR_BYTES = 65_536
"""Of the body of an error, which is only quoted."""


class Late(Exception):
    """No whole answer in time. `sent`: whether the request may have reached the server."""

    def __init__(self, sent: bool) -> None:
        self.sent = sent


class Lost(Exception):
    """The connection could not be made, or it ended before the answer did. `sent`: as above."""

    def __init__(self, problem: str, sent: bool) -> None:
        super().__init__(problem)
        self.sent = sent


class TooLong(Exception):
    """The answer has more bytes than allowed; reading was stopped."""


class Redirected(Exception):
    """The server sends the request to another origin, or in circles; the message names both origins."""


@dataclass(frozen=True)
class Response:
    """The status, the headers (names in lower case) and the body, that of an error cut."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class _Sent:
    """Whether a request has begun to leave this machine."""

    flag: bool = False

    async def __call__(self, event: str, info: Any) -> None:
        self.flag |= ".send_request" in event


@dataclass
class Connection:
    """Requests to one server from any thread, all run in an event loop in one background thread.

    base_url: with a slash at its end. key: sent as a bearer token to that origin alone. The thread starts
    with the first request. Not usable in a fork of the process that made it.
    """

    base_url: str
    key: str = field(repr=False)
    _loop: asyncio.AbstractEventLoop | None = None
    _http: Any = None
    _lock: Any = field(default_factory=threading.Lock)

    def request(
        self,
        method: str,
        path: str,
        *,
        seconds: float,
        max_bytes: int,
        body: Any = None,
        upload: Path | None = None,
    ) -> Response:
        """The answer to `method` at `path`, after redirections within the origin.

        body: sent as JSON. upload: a file that is sent as a form instead, with the fields in `body`. Raises
        Late, Lost, TooLong or Redirected.
        """
        work = self._limited(method, path, seconds, max_bytes, body, upload)
        return asyncio.run_coroutine_threadsafe(work, self._started()).result()

    async def _limited(
        self, method: str, path: str, seconds: float, max_bytes: int, body: Any, upload: Path | None
    ) -> Response:
        import httpx

        sent = _Sent()
        try:
            async with asyncio.timeout(max(seconds, 0)):
                return await self._followed(method, path, max_bytes, body, upload, sent)
        except TimeoutError as error:
            raise Late(sent.flag) from error
        except httpx.RequestError as error:
            problem = str(error.__cause__ or error) or type(error).__name__
            raise Lost(problem, sent.flag) from error

    async def _followed(
        self, method: str, path: str, max_bytes: int, body: Any, upload: Path | None, sent: _Sent
    ) -> Response:
        url = self.base_url + path
        for _ in range(HOPS + 1):
            response, target = await self._once(method, url, max_bytes, body, upload, sent)
            if target is None:
                return response
            if origin(target) != origin(url):
                raise Redirected(
                    f"{origin(url)} redirects (status {response.status}) to {origin(target)}; a request is "
                    "never sent to another origin"
                )
            url = target
        raise Redirected(f"{origin(url)} redirects within itself more than {HOPS} times")

    async def _once(
        self, method: str, url: str, max_bytes: int, body: Any, upload: Path | None, sent: _Sent
    ) -> tuple[Response, str | None]:
        """The response, and the address that it redirects to."""
        async with contextlib.AsyncExitStack() as held:
            content: dict[str, Any] = {"json": body}
            if upload is not None:
                file = held.enter_context(await asyncio.to_thread(upload.open, "rb"))
                content = {"data": body, "files": {"file": (upload.name, file)}}
            stream = self._http.stream(method, url, extensions={"trace": sent}, **content)
            answer = await held.enter_async_context(stream)
            moved = answer.status_code in (301, 302, 303, 307, 308) and answer.headers.get("location")
            limit = max_bytes if answer.is_success else ERROR_BYTES
            read = bytearray()
            async for part in answer.aiter_bytes():
                read += part
                if len(read) > limit:
                    break
            if answer.is_success and len(read) > limit:
                raise TooLong(f"the answer has more than {limit:,} bytes")
            target = str(answer.url.join(moved)) if moved else None
            return Response(answer.status_code, dict(answer.headers), bytes(read[:limit])), target

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._http = _client(self.key)
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run, args=(self._loop,), name="requests", daemon=True).start()
                weakref.finalize(self, _end, self._loop, self._http)
            return self._loop


def _client(key: str) -> Any:
    import httpx

    return httpx.AsyncClient(
        # Not compressed: a small body would otherwise unpack to any size within one read.
        headers={"authorization": f"Bearer {key}", "accept-encoding": "identity"},
        timeout=None,  # the time limit is that of the whole answer
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
        follow_redirects=False,
    )


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _end(loop: asyncio.AbstractEventLoop, client: Any) -> None:
    """Close the client's connections, then end the loop and with it the thread."""
    closed = asyncio.run_coroutine_threadsafe(client.aclose(), loop)
    closed.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
