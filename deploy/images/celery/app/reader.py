"""What Flower does with --broker_api: the queues, on port 5555."""
import base64
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

api = next(a.partition("=")[2] for a in sys.argv if a.startswith("--broker_api="))


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        ask = urllib.request.Request(api + "queues", headers={"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()})
        try:
            code, text = 200, urllib.request.urlopen(ask, timeout=5).read()
        except Exception as e:
            code, text = 500, str(e).encode()
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


HTTPServer(("", 5555), Page).serve_forever()
