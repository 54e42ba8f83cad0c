"""A page on port 8000: a task is queued, and its result awaited."""
from http.server import BaseHTTPRequestHandler, HTTPServer

from shop import add


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            code, text = 200, "ok sum=%d\n" % add.delay(19, 23).get(timeout=8)
        except Exception as e:
            code, text = 500, "%s\n" % e
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


HTTPServer(("", 8000), Page).serve_forever()
