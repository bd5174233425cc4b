# SPDX-License-Identifier: Apache-2.0
"""The S3 server of the tests: moto, serving 127.0.0.1 from a process of its own.

moto 5.2 honours `If-None-Match: *` on PUT and on the completion of a multipart upload, but looks
and writes in two steps, and its server has many threads: of two writers at the same time both could
win. Real S3 lets exactly one win, so requests that change something take turns here, each after
its body has arrived. `python -m tests.objects.s3` serves and prints its port.
"""

import io
import logging
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

App = Callable[[dict[str, Any], Any], Iterable[bytes]]


def in_turn(app: App) -> App:
    """`app`, with one change at a time; reads and parts of uploads need no turn."""
    turn = threading.Lock()

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD") or "partNumber" in environ["QUERY_STRING"]:
            return app(environ, start_response)
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if length:  # a chunked body is read by moto itself
            environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(length))
        with turn:
            return list(app(environ, start_response))

    return answer


if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = in_turn(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    print(server.server_port, flush=True)
    sys.stdout.close()
    server.serve_forever()
