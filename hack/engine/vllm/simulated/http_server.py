"""HTTP/1.1 over a Unix socket, as uvicorn speaks it: keep-alive, chunked streams, cancellation when a client leaves."""

import asyncio
import json
import time
from email.utils import formatdate
from urllib.parse import parse_qs, unquote

HEAD_BYTES_MAX = 64 << 10
BODY_BYTES_MAX = 256 << 20
REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 411: "Length Required",
    413: "Content Too Large", 415: "Unsupported Media Type", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 503: "Service Unavailable",
}


class NoRoute(Exception):
    """A path or a method that is not there: the web framework answers, in its own shape."""

    def __init__(self, status, headers=()):
        super().__init__(REASONS[status])
        self.status, self.headers = status, headers


class Refusal(Exception):
    """Ends a request with vLLM's error shape."""

    def __init__(self, status, message, kind=None, param=None):
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.kind = kind or REASONS[status]


class Request:
    """A complete request: lower-case header names, the whole body."""

    def __init__(self, method, target, headers):
        self.method, self.headers = method, headers
        path, _, query = target.partition("?")
        self.path = unquote(path)
        self.query = parse_qs(query, keep_blank_values=True)
        self.body = b""
        self.received_at = time.monotonic()


class Reply:
    """What a route answers with: one of json, text, or stream and write."""

    def __init__(self, connection):
        self._connection, self.started, self.chunked = connection, False, False

    def json(self, value, status=200, headers=()):
        self.bytes(json.dumps(value, separators=(",", ":")).encode(), "application/json", status, headers)

    def bytes(self, body, content_type, status=200, headers=()):
        self._head(status, content_type, [("content-length", len(body)), *headers])
        self._connection.send(body)

    def stream(self, content_type):
        self._head(200, content_type, [("transfer-encoding", "chunked")])
        self.chunked = True

    async def write(self, data):
        """A chunk; waits while the client is slow."""
        self._connection.send(b"%x\r\n%b\r\n" % (len(data), data))
        await self._connection.drain()

    def end(self):
        if self.chunked:
            self._connection.send(b"0\r\n\r\n")

    def _head(self, status, content_type, headers):
        self.started = True
        lines = [f"HTTP/1.1 {status} {REASONS[status]}", f"date: {formatdate(usegmt=True)}", "server: uvicorn"]
        lines += [f"{name}: {value}" for name, value in headers]
        lines.append(f"content-type: {content_type}")
        self._connection.send(("\r\n".join(lines) + "\r\n\r\n").encode())


class Connection(asyncio.Protocol):
    """One client; requests on it are answered one after the other."""

    def __init__(self, handle):
        self._handle, self._buffer = handle, bytearray()
        self._transport, self._task, self._request, self._left = None, None, None, 0
        self._chunks = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport):
        self._transport = transport

    def connection_lost(self, _error):
        self._transport = None
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self):
        self._writable.clear()

    def resume_writing(self):
        self._writable.set()

    def send(self, data):
        if self._transport is not None:
            self._transport.write(data)

    async def drain(self):
        await self._writable.wait()

    def data_received(self, data):
        self._buffer += data
        if self._task is not None and len(self._buffer) > BODY_BYTES_MAX:
            self._transport.abort()  # a client that pipelines without end
            return
        self._advance()

    def _advance(self):
        """Reads on while no request is being answered."""
        try:
            while self._task is None and self._read_head() and self._read_body():
                request, self._request = self._request, None
                self._task = asyncio.ensure_future(self._answer(request))
        except Refusal as refusal:
            reply = Reply(self)
            reply.json(error_body(refusal), refusal.status, [("connection", "close")])
            if self._transport is not None:
                self._transport.close()

    def _read_head(self):
        if self._request is not None:
            return True
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or end > HEAD_BYTES_MAX:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise Refusal(431, "Request header fields too large.")
            return False
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        parts = lines[0].split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            raise Refusal(400, "Invalid HTTP request received.")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        self._request = Request(parts[0], parts[1], headers)
        self._chunks = bytearray() if "chunked" in headers.get("transfer-encoding", "").lower() else None
        length = headers.get("content-length", "0")
        if not length.isdigit():
            raise Refusal(400, "Invalid HTTP request received.")
        self._left = int(length)
        if self._left > BODY_BYTES_MAX:
            raise Refusal(413, "The body is too large.")
        if headers.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _read_body(self):
        if self._chunks is not None:
            return self._read_chunks()
        if len(self._buffer) < self._left:
            return False
        self._request.body = bytes(self._buffer[: self._left])
        del self._buffer[: self._left]
        return True

    def _read_chunks(self):
        while True:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                return False
            try:
                size = int(bytes(self._buffer[:end]).split(b";")[0], 16)
            except ValueError:
                raise Refusal(400, "Invalid HTTP request received.") from None
            if len(self._chunks) + size > BODY_BYTES_MAX:
                raise Refusal(413, "The body is too large.")
            if len(self._buffer) < end + 2 + size + 2:
                return False
            self._chunks += self._buffer[end + 2 : end + 2 + size]
            del self._buffer[: end + 2 + size + 2]
            if size == 0:
                self._request.body = bytes(self._chunks)
                return True

    async def _answer(self, request):
        reply = Reply(self)
        try:
            await self._handle(request, reply)
            reply.end()
        except asyncio.CancelledError:
            return
        except Refusal as refusal:
            self._refuse(reply, refusal)
        except NoRoute as missing:
            reply.json({"detail": str(missing)}, missing.status, missing.headers)
        except Exception as error:  # what vLLM answers 500 to; the server lives on
            print(f"ERROR: {request.method} {request.path}: {error!r}", flush=True)
            self._refuse(reply, Refusal(500, str(error), "InternalServerError"))
        self._task = None
        if self._transport is None:
            return
        if request.headers.get("connection", "").lower() == "close":
            self._transport.close()
        else:
            self._advance()

    def _refuse(self, reply, refusal):
        if reply.started:  # too late for a status: the client sees a stream that breaks off
            if self._transport is not None:
                self._transport.abort()
            return
        reply.json(error_body(refusal), refusal.status)


def error_body(refusal):
    """vLLM's error shape."""
    return {"error": {"message": refusal.message, "type": refusal.kind, "param": refusal.param, "code": refusal.status}}
