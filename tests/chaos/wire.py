"""A long bad wire between two network devices: `python -m tests.chaos.wire DEVICE DEVICE SECONDS LOSS`.

What `tc qdisc add ... netem delay ... loss ...` does, which not every kernel has.
"""

import heapq
import random
import select
import socket
import sys
import time

SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23  # linux/if_packet.h
ALL = socket.htons(3)  # kinds of frames
LARGEST = 2**17  # bytes of a frame: the kernel leaves cutting it into packets to devices, which these are not


def main() -> None:
    first, second = (_open(name) for name in sys.argv[1:3])
    seconds, loss = map(float, sys.argv[3:])
    other = {first: second, second: first}
    under_way: list[tuple[float, int, socket.socket, bytes]] = []
    number = 0
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        for end in select.select([first, second], [], [], wait)[0]:
            frame = end.recv(LARGEST)
            if random.random() >= loss:
                number += 1
                heapq.heappush(under_way, (time.monotonic() + seconds, number, other[end], frame))
        while under_way and under_way[0][0] <= time.monotonic():
            _, _, end, frame = heapq.heappop(under_way)
            end.send(frame)


def _open(name: str) -> socket.socket:
    """All frames that come out of a device; with each goes what the kernel has still to do to it, as checksums."""
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, ALL)
    for option in (PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING):
        end.setsockopt(SOL_PACKET, option, 1)
    end.bind((name, 0))
    return end


if __name__ == "__main__":
    main()
