"""Errors between a retrieval server and its clients."""

from __future__ import annotations

from retrieval.errors import RetrievalError
from retrieval.http.retry_policy import TemporaryError


class RemoteError(RetrievalError):
    """A retrieval server did not do what was asked of it."""


class TemporaryRemoteError(RemoteError, TemporaryError):
    """The same request may well succeed later."""


class ServerUnavailableError(TemporaryRemoteError, ConnectionError):
    """The server could not be reached, is overloaded or failed, for as long as was allowed."""


class ServerFailedError(ServerUnavailableError):
    """The server answers that it failed (500), at these queries or at any."""


class RemoteDeadlineError(TemporaryRemoteError, TimeoutError):
    """No answer came within the time allowed."""


class RequestRefusedError(RemoteError, ValueError):
    """The server refuses the request, and would do so again."""


class ReplyFormatError(RemoteError, ValueError):
    """The reply is not what Search-R1's protocol asks for."""


class IdentityUnknownError(RemoteError):
    """The server does not say which index it serves."""


class IndexMismatchError(RemoteError, ValueError):
    """The server serves another index than expected."""


class ServerStartError(RetrievalError):
    """The server cannot be started as it was asked for."""
