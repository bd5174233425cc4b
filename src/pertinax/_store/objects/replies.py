# SPDX-License-Identifier: Apache-2.0
"""Replies that are no success, and those that never came, as the errors that a disk would raise.

Knows the exceptions of `obstore` and what they look like as text. Knows nothing of requests. What
a URL may hide behind its question mark is not repeated; nor is an exception that holds a whole
request kept.
"""

import errno
import re
from typing import Final
from urllib.parse import urlsplit

_ASKED: Final = re.compile(
    r"Error performing (?P<method>[A-Z]+) (?P<url>\S+) in [^ ,]+"
    r"(?:, after (?P<retries>\d+) retries)? *- +"
)
_LIMITS: Final = re.compile(r", max_retries: \d+, retry_timeout: \S+")
_STATUS: Final = re.compile(r"^Server returned non-2xx status code: (\d{3} ?[A-Za-z ]*):?")
_XML: Final = re.compile(r"<(Code|Message)>([^<]*)<")
_CAUSE: Final = re.compile(r'(?:message|error): "([^"]+)"')
_QUERY: Final = re.compile(r"\?[^\s\"')]*")
_SECRET: Final = re.compile(r"(?i)(signature|sig|token|secret|key)=[^\s&\"')]+")
_SHOWN: Final = 300


class NoSuchRangeError(OSError):
    """The object ends before the range begins."""


def as_os_error(error: Exception, url: str) -> OSError:
    """The error for what `obstore` raised about `url`."""
    from obstore import exceptions as theirs

    text, code = _said(error)
    if isinstance(error, FileNotFoundError | theirs.NotFoundError):
        return FileNotFoundError(errno.ENOENT, "no such object", url)
    if isinstance(error, theirs.AlreadyExistsError | theirs.PreconditionError):
        return FileExistsError(errno.EEXIST, "there is an object", url)
    if isinstance(error, theirs.PermissionDeniedError | theirs.UnauthenticatedError) or code in (
        401,
        403,
    ):
        return PermissionError(errno.EACCES, f"the store refuses: {text}", url)
    if code == 416 or "Invalid range" in text:
        return NoSuchRangeError(errno.EINVAL, "no such range", url)
    if "timed out" in text or "timeout" in text.lower():
        return TimeoutError(errno.ETIMEDOUT, text, url)
    return OSError(errno.EIO, text, url)


def _said(error: Exception) -> tuple[str, int]:
    """What went wrong, in a line, and the status of the reply; 0 if there was none."""
    first, _, debug = str(error).partition("\n\nDebug source")
    text = _LIMITS.sub("", " ".join(first.split()))
    status = re.search(r"status code: (\d{3})", text)
    code = int(status[1]) if status else 0
    asked = _ASKED.search(text)
    if asked is not None:
        text = _reply(text[asked.end() :], debug)
        text = f"{_server(asked['url'])} {text} ({asked['method']}{_retries(asked['retries'])})"
    text = _SECRET.sub(r"\1=...", _QUERY.sub("?...", text))
    return (text if len(text) <= _SHOWN else text[:_SHOWN] + "..."), code


def _reply(rest: str, debug: str) -> str:
    status = _STATUS.match(rest)
    if status is not None:
        found = dict(_XML.findall(rest))  # stores explain themselves in XML
        told = [found[name] for name in ("Code", "Message") if name in found]
        said = ": ".join(told) if told else rest[status.end() :].strip()
        return f"answered {status[1].strip()}{', ' + said if said else ''}"
    if "TimedOut" in debug or "kind: Timeout" in debug:
        return "did not answer: the request timed out"
    cause = _CAUSE.findall(debug)
    rest = rest.removeprefix("HTTP error: ")
    return f"did not answer: {cause[-1] if cause else rest}"


def _retries(count: str | None) -> str:
    return "" if count is None else f", after {count} retries"


def _server(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
