"""Waits until every given client port answers `GET /time`, at most a minute."""

import sys
import time
import urllib.request

deadline = time.monotonic() + 60
for port in sys.argv[1].split(","):
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/time", timeout=2):
                break
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"port {port} does not answer: {error}")
            # allow-sleep: polls for a condition until the deadline above
            time.sleep(0.1)
