"""Runs inside a sandbox, beside the runner: what an experiment prints, kept to its head and tail, whatever its size.

Invariant: no byte of it enters the memory that later experiments are forked with. It lies in pages of its own, which
go when it is closed, and the host gets it from there. Standard library only.
"""

import mmap
import os
import select
import struct

STATUSES = ("ok", "error", "timeout", "out_of_memory", "disk_full")
REPLY = struct.Struct("=BiddBIIQ")
"""What the runner tells of an experiment: status, exit code or `NO_CODE`, seconds, peak memory in MiB, milestones as
bits; bytes of output, of its head and of its tail, which come next, and how many there were between them."""
NO_CODE = -(1 << 31)
HEAD_BYTES, TAIL_BYTES, PIECE_BYTES = 4_000, 12_000, 65_536


class Output:
    """The head and the tail of one stream."""

    def __init__(self) -> None:
        self._pages = mmap.mmap(-1, HEAD_BYTES + TAIL_BYTES + PIECE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = view = memoryview(self._pages)
        self._head, self._tail = view[:HEAD_BYTES], view[HEAD_BYTES : HEAD_BYTES + TAIL_BYTES]
        self._piece = view[HEAD_BYTES + TAIL_BYTES :]
        self.head, self._beyond = 0, 0

    def read(self, descriptor: int) -> bool:
        """Take what is there; False at the end of the stream."""
        length = os.readv(descriptor, [self._piece])
        self.add(self._piece[:length])
        return length > 0

    def drain(self, descriptor: int) -> None:
        while select.select([descriptor], [], [], 0)[0] and self.read(descriptor):
            pass

    def add(self, data: "bytes | memoryview") -> None:
        room = min(len(data), HEAD_BYTES - self.head)
        self._head[self.head : self.head + room] = data[:room]
        self.head += room
        last = data[max(room, len(data) - TAIL_BYTES) :]
        kept = TAIL_BYTES - len(last)
        self._tail[:kept] = self._tail[TAIL_BYTES - kept :]  # memoryviews may overlap
        self._tail[kept:] = last
        self._beyond += len(data) - room

    @property
    def tail(self) -> int:
        return min(self._beyond, TAIL_BYTES)

    @property
    def dropped(self) -> int:
        """Bytes between head and tail."""
        return self._beyond - self.tail

    def send(self, descriptor: int) -> None:
        """Write head and tail, one after the other."""
        for part in (self._head[: self.head], self._tail[TAIL_BYTES - self.tail :]):
            written = 0
            while written < len(part):
                written += os.write(descriptor, part[written:])

    def close(self) -> None:
        for view in (self._head, self._tail, self._piece, self._view):
            view.release()
        self._pages.close()
