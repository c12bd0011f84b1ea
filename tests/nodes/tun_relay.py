"""Two hosts joined by a slow link: a TUN device on each, and this process between them, which holds every packet for some time.

    tun_relay.py NAMESPACE_A NAMESPACE_B ADDRESS_A ADDRESS_B SECONDS

Prints "ready" when the link is up, and ends when it is killed; the devices go with it.
"""

import collections
import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 0x0001, 0x1000, 0x40000000
LONGEST_QUEUE = 1000


def make_end(namespace, address, peer):
    with open(f"/run/netns/{namespace}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "addr", "add", address, "peer", peer, "dev", "tun0"], check=True)
    subprocess.run(["ip", "link", "set", "tun0", "up"], check=True)
    return fd


def main():
    namespace_a, namespace_b, address_a, address_b, delay = *sys.argv[1:5], float(sys.argv[5])
    ends = [make_end(namespace_a, address_a, address_b), make_end(namespace_b, address_b, address_a)]
    queues = [collections.deque(), collections.deque()]  # of packets for each end, with their time
    print("ready", flush=True)
    while True:
        due = min((queue[0][0] for queue in queues if queue), default=None)
        timeout = None if due is None else max(0, due - time.monotonic())
        readable, _, _ = select.select(ends, [], [], timeout)
        for end in readable:
            packet = os.read(end, 65536)
            queue = queues[1 - ends.index(end)]
            if len(queue) < LONGEST_QUEUE:  # as a switch does that has no more room
                queue.append((time.monotonic() + delay, packet))
        for end, queue in zip(ends, queues):
            while queue and queue[0][0] <= time.monotonic():
                try:
                    os.write(end, queue.popleft()[1])
                except BlockingIOError:
                    pass


main()
