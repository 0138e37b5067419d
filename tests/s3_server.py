"""An S3-compatible server for the tests: moto's, in memory, on a free port of this machine.

Prints the port, and ends when its standard input does: with the test that started it, however that ends.
With --careless it does not heed If-None-Match, as some servers do not.
"""

import argparse
import logging
import os
import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class Serving:
    """The server, one change at a time: moto looks at a condition and carries it out in two steps."""

    def __init__(self, careless):
        self.app = DomainDispatcherApplication(create_backend_app)
        self.careless = careless
        self.changing = threading.Lock()

    def __call__(self, environ, start_response):
        if self.careless:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self.app(environ, start_response)
        with self.changing:
            return self.app(environ, start_response)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--careless", action="store_true")
    careless = parser.parse_args().careless
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    server = make_server("127.0.0.1", 0, Serving(careless), threaded=True)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()
    os._exit(0)


main()
