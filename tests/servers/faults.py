"""An HTTP proxy on loopback that hands requests on, and spoils the answers it is told to spoil.

Between an S3 client and a server it works for downloads and uploads alike: `Fault`s name the
requests they are for, and how often. What went through is kept in `FaultProxy.requests`.
"""

import http.client
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

CHUNK_BYTES = 1 << 14


class Request(NamedTuple):
    """One request, as it was answered; status 0 where the connection ended first."""

    method: str
    path: str
    status: int
    num_bytes: int


@dataclass
class Fault:
    """What goes wrong, with which requests.

    Kinds: "reset" ends the connection after so many bytes of the answer's body, "refuse" before the
    request is handed on, "stall" says nothing more after so many bytes, "trickle" gives so many
    bytes a second, "status" answers with a status, "flip" changes the bit after so many bytes,
    "truncate" answers as if the object ended there, "flip_sent" changes the bit after so many bytes
    of what the client sends.
    """

    kind: str
    path: str = ".*"
    """A pattern that is found in the path."""
    method: str = "GET"
    times: float = 1
    """How many requests it spoils."""
    after_bytes: int = 0
    bytes_per_second: float = 100.0
    status: int = 503

    def fits(self, method: str, path: str) -> bool:
        return self.times > 0 and method == self.method and re.search(self.path, path) is not None


@dataclass
class FaultProxy:
    """A proxy in front of `upstream`, (host, port)."""

    upstream: tuple[str, int]
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def __enter__(self):
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def add(self, kind, path=".*", **settings):
        """Spoil the next requests that it fits; faults are taken in the order they were added."""
        fault = Fault(kind, path, **settings)
        self.faults.append(fault)
        return fault

    def num_requests(self, method="GET", path=".*"):
        return sum(
            r.method == method and re.search(path, r.path) is not None for r in self.requests
        )

    def fault_for(self, method, path):
        with self._lock:
            for fault in self.faults:
                if fault.fits(method, path):
                    fault.times -= 1
                    return fault
        return None

    def wait_until_released(self, seconds):
        self._released.wait(seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        pass  # clients that go away are what we are here for


def _handler_of(proxy):
    class Handler(_Handler):
        pass

    Handler.proxy = proxy
    return Handler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def log_message(self, *_):
        pass

    def _serve(self):
        fault = self.proxy.fault_for(self.command, self.path)
        body = self._request_body()
        status, num_sent = 0, 0
        try:
            if fault is not None and fault.kind == "refuse":
                self._reset()
                return
            if fault is not None and fault.kind == "status":
                status = fault.status
                self._answer(status, [], b"")
                return
            if fault is not None and fault.kind == "flip_sent" and body:
                at = min(fault.after_bytes, len(body) - 1)
                body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
            status, headers, content = self._upstream(body)
            status, num_sent = self._spoiled(fault, status, headers, content)
        except (ConnectionError, TimeoutError, http.client.HTTPException):
            self._reset()
        finally:
            self.proxy.requests.append(Request(self.command, self.path, status, num_sent))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 (http.server's names)

    def _request_body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self._line().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self._line()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)
        num_bytes = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(num_bytes)
        if len(body) < num_bytes:  # storage takes no half of an object, as moto would
            raise ConnectionResetError("the client died")
        return body

    def _line(self):
        line = self.rfile.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the client died")
        return line

    def _upstream(self, body):
        connection = http.client.HTTPConnection(*self.proxy.upstream, timeout=30)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in (
                    "connection",
                    "transfer-encoding",
                    "content-length",
                    "expect",
                ):
                    connection.putheader(name, value)
            connection.putheader("Connection", "close")
            if body or self.command in ("PUT", "POST"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status, headers, content):
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                self.send_header(name, value)
        length = next((v for n, v in headers if n.lower() == "content-length"), None)
        if self.command != "HEAD" or length is None:
            length = len(content)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        return length

    def _spoiled(self, fault, status, headers, content):
        """Answer as the fault says; (status, bytes of the body that were sent)."""
        kind = None if fault is None else fault.kind
        if kind == "flip" and content:
            at = min(fault.after_bytes, len(content) - 1)
            content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        if kind == "truncate":
            content = content[: fault.after_bytes]
            size = str(fault.after_bytes)
            headers = [(n, size if n.lower() == "content-length" else v) for n, v in headers]
        if kind in ("flip", "truncate"):  # the object itself is wrong: its checksum would say so
            headers = [(n, v) for n, v in headers if not n.lower().startswith("x-amz-checksum")]
        self._answer(status, headers, content)
        if self.command == "HEAD":
            return status, 0
        if kind == "reset":
            self.wfile.write(content[: fault.after_bytes])
            self._reset()
            return 0, fault.after_bytes
        if kind == "stall":
            self.wfile.write(content[: fault.after_bytes])
            self.wfile.flush()
            self.proxy.wait_until_released(60)
            return 0, fault.after_bytes
        if kind == "trickle":
            return 0, self._trickle(content, fault.bytes_per_second)
        for start in range(0, len(content), CHUNK_BYTES):
            self.wfile.write(content[start : start + CHUNK_BYTES])
        return status, len(content)

    def _trickle(self, content, bytes_per_second):
        pause = 0.05
        step = max(1, int(bytes_per_second * pause))
        for start in range(0, len(content), step):
            self.wfile.write(content[start : start + step])
            self.wfile.flush()
            time.sleep(pause)
        return len(content)

    def _reset(self):
        """End the connection with RST, as a host that is gone does."""
        self.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()
