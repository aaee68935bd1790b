"""Addresses and keys of servers: what is accepted, and what of them may be shown.

An address is written into recipes, logs and trackers, so it must not hold a secret; a key is read from an
environment variable and shown nowhere.
"""

import os
import re
from urllib.parse import urlsplit

OPENAI = "https://api.openai.com/v1"
MASK = "***"
_USER = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#'\"<>]*@")
_QUERY = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://[^\s?'\"<>]*\?)[^\s'\"<>#]+")


def masked(text: str) -> str:
    """The text with the user, the password and the query of every URL in it replaced by ***."""
    return _QUERY.sub(rf"\1{MASK}", _USER.sub(rf"\1{MASK}@", text))


def checked(url: str) -> str:
    """A server's address with a slash at its end. Raises ValueError, whose message repeats no secret.

    A user, a password, a query and a fragment are refused, not masked: whatever records the address may then
    do so.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:  # its message may repeat what is taken for the port
        raise ValueError("the address of the server is no URL: give http://HOST:PORT/v1") from error
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError(
            "an address must not contain a user, a password or a query; put the key into an environment "
            "variable and name that in key_env"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(f"the address of the server must be http://... or https://..., got {url[:80]!r}")
    return url.strip().rstrip("/") + "/"


def origin(url: str) -> str:
    """Scheme, host and port of a URL, which may be shown."""
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = None
    return f"{parts.scheme}://{parts.hostname or '?'}:{port or '?'}"


def key_in(variable: str) -> str:
    """The key in an environment variable, without white space around it.

    Raises ValueError, which names the variable, if there is none or it cannot be sent in a header.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"the environment variable {variable} holds no key: set it, or name another one")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError(
            f"the environment variable {variable} holds a key with a line break, a space or a letter outside "
            "ASCII, which no server accepts: set it again"
        )
    return key
