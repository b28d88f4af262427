"""The PyPI package `ably`, unmodified, as a realtime client: attaches, enters, publishes and is told
occupancy, in JSON and MessagePack, across regions.

Its realtime client takes host and port as one, its REST client takes them apart: each story has
one of each. Environment: see ../README.md.
"""

import asyncio
import itertools
import os
import time

from ably import AblyException, AblyRealtime, AblyRest
from ably.types.channelmode import ChannelMode
from ably.types.channeloptions import ChannelOptions
from ably.types.connectionstate import ConnectionState
from ably.types.presence import PresenceAction

PORTS = [int(port) for port in os.environ["HEADCOUNT_PORTS"].split(",")]
HERE, THERE = PORTS[0], PORTS[-1]
KEY = os.environ["HEADCOUNT_KEY"]
PREFIX = os.environ["HEADCOUNT_PREFIX"]
PATIENCE_S = 20
METRICS = ("connections", "publishers", "subscribers", "presence_connections", "presence_members",
           "presence_subscribers")


async def eventually(why, check):
    """Calls `check` until it no longer fails; its last error is told when patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await check()
        except (AssertionError, AblyException, OSError) as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"{why}: not within {PATIENCE_S} s: {error}") from error
            # allow-sleep: polls for a condition until the deadline above
            await asyncio.sleep(0.05)


async def within(why, future):
    try:
        return await asyncio.wait_for(future, PATIENCE_S)
    except asyncio.TimeoutError as error:
        raise AssertionError(f"{why}: not within {PATIENCE_S} s") from error


async def refused(call, code):
    try:
        await within(f"a refusal with {code}", call)
    except AblyException as error:
        assert error.code == code, error
    else:
        raise AssertionError(f"not refused with {code}")


class Stage:
    """Clients of one format, and names of channels that nobody else uses."""

    numbers = itertools.count(1)

    def __init__(self, binary):
        self.binary = binary
        self.clients = []

    def __str__(self):
        return "msgpack" if self.binary else "json"

    def channel(self, name="room"):
        return f"{PREFIX}py:{os.getpid()}:{next(self.numbers)}:{name}"

    def client(self, port, **options):
        credential = options if "token" in options or "auth_callback" in options else {"key": KEY, **options}
        client = AblyRealtime(endpoint=f"127.0.0.1:{port}", tls=False, fallback_hosts=[],
                              use_binary_protocol=self.binary, **credential)
        self.clients.append(client)
        return client

    async def connected(self, port, **options):
        client = self.client(port, **options)
        await within("a client connects", client.connection.once_async(ConnectionState.CONNECTED))
        return client

    def rest(self, port):
        return AblyRest(key=KEY, use_token_auth=True, endpoint="127.0.0.1", port=port, tls=False,
                        fallback_hosts=[], use_binary_protocol=self.binary)

    async def counted(self, name, expected):
        """Waits until every region says these counts, of the six that the client knows."""
        for port in PORTS:
            async with self.rest(port) as rest:
                async def check():
                    metrics = (await rest.channels.get(name).status()).status.occupancy.metrics
                    found = {metric: getattr(metrics, metric) for metric in METRICS}
                    assert found == expected, (found, expected)

                await eventually(f"{name}, asked at {port}, {self}", check)

    async def clear(self):
        for client in self.clients:
            await within("a client closes", client.close())


def counts(**some):
    return dict.fromkeys(METRICS, 0) | some


def plain(attachments, members=0):
    return dict.fromkeys(METRICS, attachments) | {"presence_members": members}


def following(what="metrics"):
    return ChannelOptions(params={"occupancy": what})


async def inbox(channel, *names):
    """Attaches a channel and gathers what it is told."""
    told = []
    await within(f"{channel.name} is subscribed", channel.subscribe(*names, lambda message: told.append(message)))
    return told


async def attachments_count(stage):
    name = stage.channel()
    clients = [await stage.connected(port) for port in PORTS]
    for index, client in enumerate(clients, 1):
        await client.channels.get(name).attach()
        await stage.counted(name, plain(index))
    await clients[0].channels.get(name).detach()
    await stage.counted(name, plain(len(clients) - 1))
    await clients[1].close()
    stage.clients.remove(clients[1])
    await stage.counted(name, plain(len(clients) - 2))


async def modes_count(stage):
    client = await stage.connected(THERE)
    for modes, own in (([ChannelMode.SUBSCRIBE], {"subscribers": 1}), ([ChannelMode.PUBLISH], {"publishers": 1}),
                       ([ChannelMode.PRESENCE], {"presence_connections": 1})):
        name = stage.channel()
        await client.channels.get(name, ChannelOptions(modes=modes)).attach()
        await stage.counted(name, counts(connections=1, **own))


async def a_token_limits(stage):
    mine = stage.channel("mine")

    async def token(_):
        async with stage.rest(HERE) as rest:
            return await rest.auth.request_token({"capability": {mine: ["subscribe"]}, "client_id": "ada"})

    client = await stage.connected(HERE, auth_callback=token)
    assert client.auth.client_id == "ada", client.auth.client_id
    await client.channels.get(mine).attach()
    await stage.counted(mine, counts(connections=1, subscribers=1, presence_subscribers=1))
    await refused(client.channels.get(mine).publish("no", "more"), 40160)
    await refused(client.channels.get(stage.channel("other")).attach(), 40160)
    assert client.connection.state == ConnectionState.CONNECTED


async def a_bad_key_fails(stage):
    client = stage.client(HERE, key=KEY.split(":")[0] + ":wrong")
    change = await within("it fails", client.connection.once_async(ConnectionState.FAILED))
    assert change.reason.code == 40101, change.reason
    stage.clients.remove(client)


async def a_bad_name_harms_nothing_else(stage):
    client = await stage.connected(HERE)
    await refused(client.channels.get(":hell").attach(), 40010)
    await client.channels.get(stage.channel()).attach()
    assert client.connection.state == ConnectionState.CONNECTED


async def a_ping_is_answered(stage):
    client = await stage.connected(THERE)
    assert await within("a ping", client.connection.ping()) >= 0


async def messages_arrive(stage, sender, receiver):
    name = stage.channel()
    told = await inbox((await stage.connected(receiver)).channels.get(name))
    await stage.counted(name, plain(1))
    publisher = await stage.connected(sender, client_id="ada")
    sent = ["text", {"of": ["an", "object"]}, bytearray(b"\x00\xff")]
    for data in sent:
        await within("it is acknowledged", publisher.channels.get(name).publish("hello", data))

    async def check():
        assert [message.data for message in told] == sent, told
        assert {message.client_id for message in told} == {"ada"}

    await eventually(f"messages from {sender} at {receiver}, {stage}", check)


async def members_arrive(stage, sender, receiver):
    name = stage.channel()
    watcher = (await stage.connected(receiver)).channels.get(name)
    told = []
    await within("presence is subscribed", watcher.presence.subscribe(lambda message: told.append(message)))
    # Told that it may be anybody, the client enters others only if it was made as anybody.
    client = await stage.connected(sender, client_id="*")
    presence = client.channels.get(name).presence
    await presence.enter_client("ada", "hello")
    await presence.enter_client("bob", {"of": "bob"})
    await presence.update_client("ada", "again")
    await stage.counted(name, plain(2, members=2))

    async def both():
        found = {member.client_id: member.data for member in await watcher.presence.get()}
        assert found == {"ada": "again", "bob": {"of": "bob"}}, found

    await eventually(f"members from {sender} at {receiver}, {stage}", both)
    await presence.leave_client("bob")
    await stage.counted(name, plain(2, members=1))
    await client.close()
    stage.clients.remove(client)
    await stage.counted(name, plain(1, members=0))

    async def nobody():
        assert await watcher.presence.get() == []
        actions = [(message.action, message.client_id) for message in told]
        assert actions == [(PresenceAction.ENTER, "ada"), (PresenceAction.ENTER, "bob"),
                           (PresenceAction.UPDATE, "ada"), (PresenceAction.LEAVE, "bob"),
                           (PresenceAction.LEAVE, "ada")], actions

    await eventually(f"their leaving, from {sender} at {receiver}, {stage}", nobody)


async def occupancy_is_told(stage):
    name = stage.channel()
    watcher = await stage.connected(HERE)
    told = await inbox(watcher.channels.get(name, following()), "[meta]occupancy")

    def tells(**expected):
        async def check():
            metrics = told[-1].data["metrics"] if told else {}
            assert len(metrics) == 8 and metrics.items() >= expected.items(), metrics
        return check

    await eventually("the first event includes who asked", tells(connections=1, subscribers=1))
    other = await stage.connected(THERE, client_id="ada")
    await other.channels.get(name).presence.enter()
    await eventually("another comes, and enters", tells(connections=2, presenceMembers=1))
    await other.channels.get(name).detach()
    await eventually("it leaves", tells(connections=1, presenceMembers=0))


async def lifecycle_is_told(stage):
    name = stage.channel()
    watcher = await stage.connected(THERE)
    told = await inbox(watcher.channels.get("[meta]channel.lifecycle"))
    client = await stage.connected(HERE)
    await client.channels.get(name).attach()
    await stage.counted(name, plain(1))
    await client.channels.get(name).detach()

    async def check():
        names = [message.name for message in told if message.data["channelId"] == name]
        assert names.count("channel.opened") == names.count("channel.closed") == 1, names

    await eventually("it opens and closes", check)
    await refused(watcher.channels.get("[meta]channel.lifecycle").publish("no", "more"), 40160)


STORIES = (
    attachments_count, modes_count, a_token_limits, a_bad_key_fails, a_bad_name_harms_nothing_else,
    a_ping_is_answered, occupancy_is_told, lifecycle_is_told,
)
BETWEEN = (messages_arrive, members_arrive)


async def tell(stories):
    """Tells stories side by side, and says which failed."""
    async def one(story, binary, *places):
        stage = Stage(binary)
        try:
            await story(stage, *places)
        finally:
            await stage.clear()

    told = [(story, binary, *places) for binary in (False, True) for story, *places in stories]
    results = await asyncio.gather(*(one(*each) for each in told), return_exceptions=True)
    failures = 0
    for (story, binary, *places), result in zip(told, results):
        if result is not None:
            failures += 1
            where = f"{'msgpack' if binary else 'json'} {places or ''}"
            print(f"failed: {story.__name__} {where}: {type(result).__name__}: {result}")
    assert not failures, f"{failures} of {len(told)} stories failed"
    print(f"ably-python: {len(told)} stories of realtime clients")


asyncio.run(tell([(story,) for story in STORIES]
                 + [(story, *places) for story in BETWEEN for places in ((HERE, HERE), (HERE, THERE))]))
