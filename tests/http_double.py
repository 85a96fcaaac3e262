"""A server that exists only in the test: it gives the answers that it was told to give."""

from __future__ import annotations

from typing import Any

import httpx2


class Server:
    """Answers with what it is told to, in turn, the last one for ever; time passes in `sleep`."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.requests, self.pauses, self.now = list(answers), [], [], 0.0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
