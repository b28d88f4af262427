"""The PyPI package `ably`, unmodified, asks every region for the status of channels and pages
through the list of them, in JSON and MessagePack. All answers must be the same and as expected.

It refuses keys over plain HTTP, so it obtains a token by a signed request first, by itself.
Environment: see ../README.md.
"""

import asyncio
import json
import os
import time
from urllib.parse import quote

from ably import AblyException, AblyRest

PORTS = [int(port) for port in os.environ["HEADCOUNT_PORTS"].split(",")]
KEY = os.environ["HEADCOUNT_KEY"]
EXPECTED = json.loads(os.environ["HEADCOUNT_EXPECT"])
PREFIX = os.environ["HEADCOUNT_PREFIX"]
NAMES = sorted(EXPECTED, key=lambda name: name.encode())
PATIENCE_S = 30

# The client knows six of the eight counts.
METRICS = {
    "connections": "connections",
    "publishers": "publishers",
    "subscribers": "subscribers",
    "presenceConnections": "presence_connections",
    "presenceMembers": "presence_members",
    "presenceSubscribers": "presence_subscribers",
}


async def eventually(why, check):
    """Calls `check` until it no longer fails; its last error is told when patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await check()
        except (AssertionError, AblyException, OSError) as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"{why}: not within {PATIENCE_S} s") from error
            # allow-sleep: polls for a condition until the deadline above
            await asyncio.sleep(0.1)


def connect(port, binary, **credential):
    credential = credential or {"key": KEY, "use_token_auth": True}
    return AblyRest(endpoint="127.0.0.1", port=port, tls=False, use_binary_protocol=binary,
                    fallback_hosts=[], **credential)


async def counts(rest, name):
    details = await rest.channels.get(name).status()
    assert details.channel_id == name, details.channel_id
    metrics = details.status.occupancy.metrics
    return details.status.is_active, {name: getattr(metrics, METRICS[name]) for name in METRICS}


async def pages(rest, version, **params):
    """Follows `next` from the first page to the end."""
    page = await rest.request("GET", "/channels", version, params={"prefix": PREFIX, "limit": 2, **params})
    items = []
    while True:
        assert page.status_code == 200, (page.status_code, page.error_code, page.error_message)
        assert len(page.items) <= 2, page.items
        items += page.items
        if not page.has_next():
            return items
        page = await page.next()


async def refused(call, code, status):
    try:
        await call
    except AblyException as error:
        assert (error.code, error.status_code) == (code, status), error
    else:
        raise AssertionError(f"not refused with {code}")


async def check_region(port, binary):
    where = f"port {port}, {'msgpack' if binary else 'json'}"
    async with connect(port, binary) as rest:
        for name in NAMES:
            expected = {metric: EXPECTED[name][metric] for metric in METRICS}

            # Counts travel; wait for the last of them to arrive in this region.
            async def arrived():
                found = await counts(rest, name)
                assert found == (True, expected), (found, expected)

            await eventually(f"{where}: {name}", arrived)
        assert await counts(rest, PREFIX + "nobody") == (False, dict.fromkeys(METRICS, 0)), where

        assert await pages(rest, "3", by="id") == NAMES, where
        for params in ({"by": "value"}, {}):
            values = await pages(rest, "2", **params)
            assert [value["channelId"] for value in values] == NAMES, where
            for value in values:
                assert value["status"]["occupancy"]["metrics"] == EXPECTED[value["channelId"]], where

        page = await rest.request("GET", "/channels", "3", params={"limit": "many"})
        assert (page.success, page.status_code, page.error_code) == (False, 400, "40003"), where

        capability = {NAMES[0]: ["channel-metadata"]}
        token = await rest.auth.request_token({"capability": capability, "client_id": "somebody"})
        assert token.client_id == "somebody", where
        async with connect(port, binary, token_details=token) as limited:
            assert (await counts(limited, NAMES[0]))[0], where
            await refused(limited.channels.get(NAMES[1]).status(), 40160, 401)
            page = await limited.request("GET", "/channels", "3")
            assert (page.status_code, page.error_code) == (401, "40160"), where

        # The client writes names into paths as they are; its own escapes work too.
        page = await rest.request("GET", "/channels/" + quote(NAMES[0], safe=""), "3")
        assert page.items[0]["channelId"] == NAMES[0], where
        assert abs(await rest.time() - time.time() * 1000) < 60_000, where


async def main():
    for port in PORTS:
        for binary in (False, True):
            await check_region(port, binary)
    print(f"ably-python: {len(NAMES)} channels in {len(PORTS)} regions agree")


asyncio.run(main())
