# SPDX-License-Identifier: Apache-2.0
"""The local link: frames and file descriptors over a unix stream socket.

On the wire: a 4-byte little-endian length, the frame, and so on. Descriptors travel with the first byte of the frame whose
messages declare them, queue in order of arrival and are popped by the declared count; which recvmsg call brought them says
nothing, since the kernel merges and splits what was sent.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from .codec import MAX_FRAME_BYTES, BadMessage, FrameDecoder, TooLargeError, encode_frame, encode_frames
from .descriptors import ANCILLARY_BYTES, MAX_FDS_PER_FRAME, ReceivedFds, close_all, duplicates, memory_of, rights
from .errors import BrokerError, CallerError, MachineError, invalid
from .messages import Message
from .peers import Peer, peer_of
from .socket_paths import ListeningPath

M = TypeVar("M")

BUFFER_BYTES = 256 * 1024

_LENGTH = struct.Struct("<I")
_NO_DESCRIPTOR_LEFT = (errno.EMFILE, errno.ENFILE)
_GONE = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.EBADF)

_TRUNCATED = int(socket.MSG_CTRUNC)  # plain integers: combining the enums costs a microsecond per message
_RECEIVE = int(socket.MSG_CMSG_CLOEXEC)
_RECEIVE_NOW = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
_SEND = int(socket.MSG_NOSIGNAL)
_SEND_NOW = int(socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)


class LinkClosed(Exception):  # noqa: N818 - a condition that every user of a link handles, not a mistake
    """The other end is gone, orderly or not, or this end was closed."""


class LocalLink(Generic[M]):
    """One end of a unix stream socket, which it owns and leaves in blocking mode.

    Messages of type M come in, any message goes out. One thread may receive while another puts and flushes; two may not do
    the same thing at once.
    """

    __slots__ = (
        "_buffer", "_buffers", "_decoder", "_fds", "_max_frame_bytes", "_outgoing", "_pending", "_poll", "_queued",
        "_queued_fds", "_sock", "_view", "backlog",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, decoder: FrameDecoder[M], max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._sock = sock
        self._decoder = decoder
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._buffers = [self._view]
        #: received bytes of a frame that is not complete yet
        self._pending = bytearray()
        #: received descriptors, in order of arrival, that nobody has taken yet
        self._fds = ReceivedFds()
        #: messages put since the last flush, and the descriptors (ours) of those that have any, by position
        self._queued: list[Message] = []
        self._queued_fds: dict[int, list[int]] = {}
        #: (bytes not yet written, descriptors that go with the first of them) per frame that did not fit the socket;
        #: `backlog` is what both take
        self._outgoing: deque[tuple[memoryview, list[int]]] = deque()
        self.backlog = 0
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)

    def __repr__(self) -> str:
        return (
            f"<LocalLink fd {self.fileno()}, {len(self._queued)} messages queued, {self.backlog} bytes not written, "
            f"{len(self._pending)} bytes of a frame and {len(self._fds)} descriptors received>"
        )

    def check_invariants(self) -> None:
        """What is counted is what is there."""
        assert self.backlog == sum(len(rest) + memory_of(fds) for rest, fds in self._outgoing), self
        assert all(position < len(self._queued) for position in self._queued_fds), self
        assert len(self._pending) <= self._max_frame_bytes + _LENGTH.size + BUFFER_BYTES, self

    def fileno(self) -> int:
        """The socket's descriptor; -1 once closed."""
        return self._sock.fileno()

    def wait(self, timeout_s: float | None) -> bool:
        """Whether `receive` has something to say (messages, or that the link is closed) within that time; None: whenever."""
        if self._sock.fileno() < 0:
            return True
        return bool(self._poll.poll(None if timeout_s is None else timeout_s * 1000))

    # --- receiving -------------------------------------------------------------------------------------------------------

    def receive(self, block: bool = False) -> Sequence[M | BadMessage]:
        """Reads once and returns the messages of all frames that are complete; none, when nothing or only a part is there.

        Raises LinkClosed, and CallerError when the other end breaks the protocol: it can then only be closed.
        """
        try:
            count, ancillary, flags, _ = self._sock.recvmsg_into(
                self._buffers, ANCILLARY_BYTES, _RECEIVE if block else _RECEIVE_NOW
            )
        except BlockingIOError:
            return ()
        except OSError as error:
            raise _closed_or(error) from error
        if ancillary or flags & _TRUNCATED:
            self._fds.add(ancillary, bool(flags & _TRUNCATED))
        if not count:
            raise LinkClosed("the other end closed the connection" + (" within a frame" if self._pending else ""))
        if not self._pending and count > 4 and _LENGTH.unpack_from(self._buffer)[0] == count - 4 <= self._max_frame_bytes:
            return self._decoder.decode(bytes(self._view[4:count]))  # a copy: Raw fields refer to the bytes they came from
        return self._frames(count)

    def _frames(self, count: int) -> list[M | BadMessage]:
        """The general case: many frames in the buffer, or parts of one."""
        source = self._view[:count]
        if self._pending:
            self._pending += source
            source = memoryview(self._pending)
        messages: list[M | BadMessage] = []
        at, end = 0, len(source)
        while end - at >= 4:
            (size,) = _LENGTH.unpack_from(source, at)
            if size > self._max_frame_bytes:
                raise invalid(f"a frame of {size} bytes was announced, at most {self._max_frame_bytes} are taken")
            if end - at - 4 < size:
                break
            messages += self._decoder.decode(bytes(source[at + 4 : at + 4 + size]))
            at += 4 + size
        self._pending = bytearray(source[at:])
        return messages

    def take_fds(self, count: int) -> list[int]:
        """The next `count` received descriptors, in order of arrival; the caller closes them."""
        return self._fds.take(count)

    def take_parts(self, count: int) -> list[bytes]:
        """For symmetry with ZeroMQ links: nothing can be taken here."""
        if count:
            raise invalid(f"{count} message parts are declared: the local link carries descriptors, only ZeroMQ carries parts")
        return []

    # --- sending ---------------------------------------------------------------------------------------------------------

    def put(self, message: Message, fds: Sequence[int] = (), parts: Sequence[bytes] = ()) -> None:
        """Queues a message until `flush`. The descriptors are duplicated: the caller keeps its own, and may close them."""
        if parts:
            raise invalid("the local link carries descriptors, only ZeroMQ carries message parts")
        if fds:
            if self._sock.fileno() < 0:
                raise LinkClosed("this link was closed")  # else nobody would close the duplicates
            self._queued_fds[len(self._queued)] = duplicates(fds)
        self._queued.append(message)

    def flush(self, block: bool = False) -> bool:
        """Writes everything put, as one frame. True: all is written. False: the socket is full, call again on EPOLLOUT.

        `block` waits instead. Raises LinkClosed; TooLargeError for messages that by themselves exceed the frame limit.
        """
        if self._queued:
            if not self._queued_fds and not self._outgoing:
                frame = encode_frame(self._queued)
                if len(frame) <= self._max_frame_bytes:
                    self._queued.clear()
                    return self._write_now(_LENGTH.pack(len(frame)) + frame, block)
            self._enqueue_queued()
        return not self._outgoing or self._write_outgoing(block)

    def _write_now(self, content: bytes, block: bool) -> bool:
        try:
            written = self._sock.send(content, _SEND if block else _SEND_NOW)
        except BlockingIOError:
            written = 0
        except OSError as error:
            raise _closed_or(error) from error
        if written == len(content):
            return True
        self._enqueue(memoryview(content)[written:], [])
        return self._write_outgoing(block) if block else False

    def _write_outgoing(self, block: bool) -> bool:
        outgoing, flags = self._outgoing, _SEND if block else _SEND_NOW
        while outgoing:
            rest, fds = outgoing[0]
            try:
                written = self._sock.sendmsg([rest], rights(fds), flags)
            except BlockingIOError:
                return False
            except OSError as error:
                raise _closed_or(error) from error
            self.backlog -= written + memory_of(fds)
            close_all(fds)  # they went with the first byte
            if written == len(rest):
                outgoing.popleft()
            else:
                outgoing[0] = (rest[written:], [])
        return True

    def _enqueue_queued(self) -> None:
        """Turns what is queued into frames that keep both limits, each with its own descriptors."""
        queued, fds = self._queued, self._queued_fds
        self._queued, self._queued_fds = [], {}
        brings = [len(fds.get(position, ())) for position in range(len(queued))]
        too_large: list[Message] = []
        for frame, first, end in encode_frames(queued, brings, self._max_frame_bytes, MAX_FDS_PER_FRAME):
            with_it = [fd for position in range(first, end) for fd in fds.get(position, ())]
            if frame is None:
                too_large.append(queued[first])
                close_all(with_it)
            else:
                self._enqueue(memoryview(_LENGTH.pack(len(frame)) + frame), with_it)
        if too_large:
            raise TooLargeError(too_large, self._max_frame_bytes)

    def _enqueue(self, content: memoryview, fds: list[int]) -> None:
        self._outgoing.append((content, fds))
        self.backlog += len(content) + memory_of(fds)

    # --- the end ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Closes the socket and every descriptor that was received and not taken, or put and not sent. Idempotent."""
        self._sock.close()
        self._fds.close()
        for fds in self._queued_fds.values():
            close_all(fds)
        self._queued_fds.clear()
        self._queued.clear()
        for _, fds in self._outgoing:
            close_all(fds)
        self._outgoing.clear()
        self.backlog = 0


class LocalListener:
    """Accepts local links at a path. A stale socket is replaced, a living one and a file that is no socket are refused."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._listening = ListeningPath(os.fspath(path))
        self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        #: connections closed at once because this process had no descriptor left for them
        self.refused = 0

    def __repr__(self) -> str:
        return f"<LocalListener {self._listening!r}, {self.refused} refused>"

    @property
    def path(self) -> str:
        """Where it listens, absolute."""
        return self._listening.path

    def fileno(self) -> int:
        """The listening socket's descriptor, readable when there is something to accept; -1 once closed."""
        return self._listening.sock.fileno()

    def accept(self) -> tuple[socket.socket, Peer] | None:
        """The next connection, in blocking mode, and who made it; None when nobody waits, or it had to be refused."""
        try:
            sock, _ = self._listening.sock.accept()
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in _NO_DESCRIPTOR_LEFT:
                raise
            self._refuse_one()
            return None
        try:
            peer = peer_of(sock)
        except OSError:  # no descriptor left for the pidfd
            sock.close()
            self.refused += 1
            return None
        sock.setblocking(True)
        return sock, peer

    def _refuse_one(self) -> None:
        """Spends the spare descriptor on closing the connection: left waiting, it would keep the caller's epoll spinning."""
        if self._spare_fd >= 0:
            os.close(self._spare_fd)
            self._spare_fd = -1
        with suppress(OSError):  # where even this fails, the connection waits on and is tried again
            self._listening.sock.accept()[0].close()
            self.refused += 1
        with suppress(OSError):  # where there is none left now, the next refusal has none to spend
            self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Stops listening and removes the socket, if it is still this one. Idempotent."""
        self._listening.close()
        if self._spare_fd >= 0:
            os.close(self._spare_fd)
            self._spare_fd = -1


def connect_local(path: str | os.PathLike[str], timeout_s: float) -> socket.socket:
    """A connected socket in blocking mode. Raises BrokerError when nobody answers there, CallerError when not permitted."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # For unix sockets SO_SNDTIMEO bounds connect, which waits while the listener's backlog is full, unix(7) and socket(7).
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout_s))
    try:
        sock.connect(os.fspath(path))
    except PermissionError as error:
        sock.close()
        raise CallerError(f"not permitted to connect to {os.fspath(path)}: it is another user's") from error
    except BlockingIOError as error:
        sock.close()
        raise BrokerError(f"the broker at {os.fspath(path)} did not accept within {timeout_s} s") from error
    except OSError as error:
        sock.close()
        raise BrokerError(f"no broker at {os.fspath(path)}: {error.strerror or error}") from error
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(0.0))
    return sock


def _timeval(seconds: float) -> bytes:
    microseconds = max(int(seconds * 1e6), 1) if seconds else 0  # 0 means for ever
    return struct.pack("ll", microseconds // 1_000_000, microseconds % 1_000_000)


def _closed_or(error: OSError) -> Exception:
    """LinkClosed where the error says that the connection is over; else what the machine refuses."""
    if error.errno in _GONE:
        return LinkClosed(error.strerror or str(error))
    return MachineError(f"local link: {error.strerror or error} ({errno.errorcode.get(error.errno or 0, '?')})")
