"""Images from the web, for servers that were told to fetch them: public addresses only, each looked up once and then pinned.

A name is resolved here, every address it has must be public, and the connection goes to the very address that was checked; so a name
that points elsewhere a moment later gains nothing. Redirects are followed by the same rule. One deadline holds for all of it: each time
something is awaited, it is for what is left.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from weitiao.serve.refusal import Refusal

MAX_REDIRECTS = 3
CHUNK_BYTES = 65536
REDIRECTS = frozenset({301, 302, 303, 307, 308})
PORTS = {"http": 80, "https": 443}
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""All of IPv6's open internet; what lies outside is local, or carries an IPv4 address."""
KEPT = "/%:@!$&'()*+,;=?~"
"""What a path or query may hold as it is; the rest is quoted."""

Resolve = Callable[[str, int], list[str]]
"""A host's addresses."""
Allowed = Callable[[str], bool]
"""Whether an IP address may be asked."""


def addresses(host: str, port: int) -> list[str]:
    """What the machine's resolver says of a name."""
    return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


def is_public(address: str) -> bool:
    """Whether an IP address lies in the open internet: not private, loopback, link-local, shared, reserved or multicast."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        # Addresses that carry another one inside (mapped, 6to4, Teredo, NAT64) are as public as that one.
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if found in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if found not in GLOBAL_UNICAST:
            return False
    return found.is_global and not found.is_multicast


def fetch_image(url: str, max_bytes: int, max_seconds: float, resolve: Resolve = addresses, allowed: Allowed = is_public) -> bytes:
    """Get an image.

    Args:
        url: ``http`` or ``https``.
        max_bytes: largest answer that is read.
        max_seconds: for everything, redirects included.
        resolve: how names become addresses.
        allowed: which addresses may be asked.

    Returns:
        The answer's body, whatever it is.

    Raises:
        Refusal: the address is not public, or does not answer with a file in time.
    """
    deadline = time.monotonic() + max_seconds
    for _ in range(MAX_REDIRECTS + 1):
        parts = _checked(url)
        try:
            connected = _connect(parts, resolve, allowed, deadline)
        except (OSError, ValueError) as error:
            raise _refused(url, f"cannot be reached: {error}") from error
        try:
            with connected:
                found = _read(connected, parts, url, max_bytes, deadline)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise _refused(url, f"does not answer: {error}") from error
    raise _refused(url, f"is redirected more than {MAX_REDIRECTS} times")


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise _refused(url, f"is no address: {error}") from error
    if parts.scheme not in PORTS or not parts.hostname:
        raise _refused(url, "is neither http nor https")
    if parts.username or parts.password:
        raise _refused(url, "holds a password")
    return parts


def _connect(parts: SplitResult, resolve: Resolve, allowed: Allowed, deadline: float) -> socket.socket:
    """A connection to an address that was checked; names are resolved here and nowhere else."""
    host, port = str(parts.hostname), parts.port or PORTS[parts.scheme]
    # In a thread that is left behind: the system's resolver knows no deadline.
    with_time = ThreadPoolExecutor(1, thread_name_prefix="weitiao-names")
    try:
        found = with_time.submit(resolve, host, port).result(_left(deadline))
    finally:
        with_time.shutdown(wait=False)
    if not found or not all(allowed(address) for address in found):
        raise _refused(parts.geturl(), "does not lie in the public internet")
    plain = socket.create_connection((found[0], port), timeout=_left(deadline))
    if parts.scheme == "http":
        return plain
    try:
        plain.settimeout(_left(deadline))
        return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


class _Incoming(io.RawIOBase):
    """What a connection sends, up to a deadline, however slowly it drips."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._connected, self._deadline = connected, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._connected.settimeout(_left(self._deadline))
        return self._connected.recv_into(buffer)


class _Line:
    """As much of a socket as ``http.client`` uses; the connection itself is closed by who opened it."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._connected, self._deadline = connected, deadline

    def sendall(self, data: bytes) -> None:
        self._connected.settimeout(_left(self._deadline))
        self._connected.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self._connected, self._deadline))

    def close(self) -> None:
        """Nothing: the answer's body may still be read."""


def _read(connected: socket.socket, parts: SplitResult, url: str, max_bytes: int, deadline: float) -> bytes | str:
    """The body, or where it has gone."""
    path = quote(parts.path or "/", safe=KEPT) + (f"?{quote(parts.query, safe=KEPT)}" if parts.query else "")
    # Without a Host of its own, http.client writes the name in its ASCII form.
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port or PORTS[parts.scheme])
    connection.default_port = PORTS[parts.scheme]
    connection.sock = _Line(connected, deadline)
    connection.request("GET", path, headers={"User-Agent": "weitiao", "Accept": "image/*"})
    response = connection.getresponse()
    if response.status in REDIRECTS:
        return response.getheader("Location") or "/"
    if response.status != 200:
        raise _refused(url, f"answers with status {response.status}")
    body = b""
    while chunk := response.read1(CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            raise _refused(url, f"is larger than {max_bytes:,} bytes")
    return body


def _left(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("it takes too long")
    return seconds


def _refused(url: str, why: str) -> Refusal:
    return Refusal(400, f"the image's address {url[:200]} {why}", code="invalid_image_url", param="messages")
