"""A server on a plain socket, which does with each connection whatever a test asks for."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

JOIN_TIMEOUT_S = 20.0  # for threads to end; none takes so long unless it failed


@contextmanager
def raw_server(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """Answers each connection in a thread; yields the port."""
    listening = socket.create_server(("127.0.0.1", 0))
    threads = []

    def serve() -> None:
        with suppress(OSError):  # nobody listens any more
            while True:
                connection, _ = listening.accept()
                threads.append(threading.Thread(target=run, args=(connection,), daemon=True))
                threads[-1].start()

    def run(connection: socket.socket) -> None:
        with connection, suppress(OSError):  # the client has gone
            answer(connection)

    accepting = threading.Thread(target=serve, daemon=True)
    accepting.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        accepting.join(JOIN_TIMEOUT_S)
        for thread in threads:
            thread.join(JOIN_TIMEOUT_S)
