#!/usr/bin/env python3
"""Clients that leave at any moment: nothing of their work may be left running.

usage: restless_clients.py FAKE_SERVER [SEED]
"""
import json
import random
import socket
import struct
import subprocess
import sys
import threading
import time

CLIENTS, REQUESTS_EACH = 16, 12


def request(rand):
    body = json.dumps({"prompt": "a" * rand.randint(1, 50), "max_tokens": rand.randint(1, 300), "stream": rand.random() < 0.7, "temperature": 1,
                       "n": rand.randint(1, 4), "logprobs": rand.choice([None, 2])})
    message = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    return message[:rand.randint(0, len(message))] if rand.random() < 0.2 else message


def restless(port, seed):
    rand = random.Random(seed)
    for _ in range(REQUESTS_EACH):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(0.5)
            client.sendall(request(rand))
            try:
                for _ in range(rand.randint(0, 30)):
                    client.recv(rand.choice([1, 100, 10000]))
                    time.sleep(rand.random() * 0.01)
            except OSError:
                pass
            if rand.random() < 0.3:  # with a reset instead of a goodbye
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def main():
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**9)
    print("seed", seed)
    server = subprocess.Popen([sys.argv[1], "delay_ms=1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    port = int(server.stdout.readline().split()[1])
    threads = [threading.Thread(target=restless, args=(port, seed + i)) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until = time.monotonic() + 2
    seen = ""
    while "open=0" not in seen and time.monotonic() < until:
        server.stdin.write("\n")
        server.stdin.flush()
        seen = server.stdout.readline()
        time.sleep(0.05)
    print(seen.strip())
    server.stdin.close()
    ended = server.wait(30)
    return 0 if "open=0" in seen and "submitted=0" not in seen and ended == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
