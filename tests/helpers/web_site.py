"""A web server on this machine, with the files of a folder."""
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


@dataclass
class WebSite:
    """A folder that is served at an address, and the paths that were asked for."""
    folder: Path
    url: str = ''
    asked: list[str] = field(default_factory=list)


@contextmanager
def serve(folder: Path) -> Iterator[WebSite]:
    """Serve a folder, which is made, for a while."""
    site = WebSite(folder)
    folder.mkdir()

    class Handler(BaseHTTPRequestHandler):

        def do_GET(self):
            site.asked.append(self.path)
            body = (folder / self.path[1:]).read_bytes()
            self.send_response(200)
            self.send_header('Content-Length', len(body))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site.url = f'http://127.0.0.1:{server.server_port}/'
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
