"""get.py URL [NAME]: ask URL, with NAME as TLS server name and Host."""
import http.client, socket, ssl, sys, urllib.parse

url = urllib.parse.urlsplit(sys.argv[1])
name = sys.argv[2] if len(sys.argv) > 2 else url.hostname
port = url.port or {"https": 443, "http": 80}[url.scheme]
try:
    conn = http.client.HTTPConnection(url.hostname, port)
    conn.sock = socket.create_connection((url.hostname, port), timeout=4)
    if url.scheme == "https":
        conn.sock = ssl._create_unverified_context().wrap_socket(conn.sock, server_hostname=name)
    conn.request("GET", url.path or "/", headers={"Host": name})
    print(conn.getresponse().status)
except OSError as e:
    sys.exit(f"{type(e).__name__}: {e}")
