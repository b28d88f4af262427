// Connections that break: how long they count, and how their clients go on.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { GRACE_MS, Inbox, counted, counts, elsewhere, eventually, here, plain, reaches, status, story, theme, there,
  within } from '../stage.mjs';

/** Publishes numbered messages, one after the other. */
async function publish(channel, from, to) {
  for (let number = from; number <= to; number += 1) {
    await channel.publish('number', `${number}`);
  }
}

const numbers = (inbox) => inbox.items.filter(({ name }) => name === 'number').map(({ data }) => Number(data));
const upTo = (last) => Array.from({ length: last }, (_, index) => index + 1);

/** Waits until a client has noticed that its line is cut. */
const noticed = (client) => reaches(client.connection, 'disconnected');

theme('dropping', () => {
  story('who was killed counts for its grace, and then leaves', async (stage) => {
    const name = stage.channel();
    const watcher = await stage.connected(here);
    const channel = watcher.channels.get(name, { modes: ['PRESENCE_SUBSCRIBE'] });
    const inbox = await Inbox.ofPresence(channel);
    const alone = counts({ connections: 1, presenceSubscribers: 1 });
    const both = { ...plain(1, 2), connections: 2, presenceSubscribers: 2 };
    const guest = await stage.guest(here, [{ channel: name, members: ['ada', 'bob'] }]);
    await counted(stage, name, both);

    const killed = Date.now();
    guest.kill('SIGKILL');
    await once(guest, 'exit');
    await eventually('it leaves', async () => {
      const { occupancy } = await status(stage, here, name);
      if (occupancy.metrics.connections !== 2) {
        assert.ok(Date.now() - killed >= GRACE_MS * 0.9, `it left after ${Date.now() - killed} ms, before its grace`);
      }
      assert.deepEqual(occupancy.metrics, alone);
    }, GRACE_MS + 10_000);
    await counted(stage, name, alone);
    await inbox.until('both members leave', (items) => {
      const left = items.filter(({ action }) => action === 'leave');
      assert.deepEqual(left.map(({ clientId }) => clientId).sort(), ['ada', 'bob']);
      for (const { arrivedAt } of left) {
        assert.ok(arrivedAt - killed >= GRACE_MS * 0.9, `a member left after ${arrivedAt - killed} ms`);
      }
    });
    assert.deepEqual(await channel.presence.get(), []);
  });

  story('members leave as soon after a drop as their client has wished, and come back with it', async (stage) => {
    const name = stage.channel();
    const watcher = await stage.connected(there);
    const inbox = await Inbox.ofPresence(watcher.channels.get(name, { modes: ['PRESENCE_SUBSCRIBE'] }));
    const line = await stage.line(here);
    const client = await stage.connected(line, {
      clientId: 'ada',
      transportParams: { remainPresentFor: 100 },
      // Not before it is seen how long the attachment counts.
      disconnectedRetryTimeout: 2 * GRACE_MS,
    });
    const channel = client.channels.get(name);
    await channel.presence.enter('hi');
    const both = (members) => ({ ...plain(1, members), connections: 2, presenceSubscribers: 2 });
    await counted(stage, name, both(1));

    line.cut();
    const cutAt = Date.now();
    await inbox.until('it leaves', (items) => {
      // It was there already, or entered, as far as the watcher's region knew by then.
      assert.ok(['enter', 'present'].includes(items[0]?.action));
      assert.equal(items.at(-1).action, 'leave');
      const afterMs = items.at(-1).timestamp - cutAt;
      assert.ok(afterMs < GRACE_MS * 0.9, `it left ${afterMs} ms after the cut, and not before its attachment`);
    });
    line.mend();
    client.connect();
    await reaches(channel, 'attached');
    await counted(stage, name, both(1), 'it is back');
    await inbox.until('it enters', (items) => {
      // The client may enter once more by itself, which updates what is there.
      const left = items.findLastIndex(({ action }) => action === 'leave');
      assert.equal(items[left + 1]?.action, 'enter');
    });
  });

  story('who comes back goes on where it was, and nobody noticed', async (stage) => {
    const name = stage.channel();
    const watcher = await stage.connected(here);
    const presence = await Inbox.ofPresence(watcher.channels.get(name));
    const line = await stage.line(here);
    const client = await stage.connected(line, { clientId: 'ada' });
    const channel = client.channels.get(name);
    const inbox = await Inbox.of(channel);
    await channel.presence.enter();
    await counted(stage, name, plain(2, 1));
    const { id } = client.connection;
    await publish(watcher.channels.get(name), 1, 3);
    await inbox.until('what is told before', () => assert.deepEqual(numbers(inbox), upTo(3)));

    line.cut();
    await noticed(client);
    await publish(watcher.channels.get(name), 4, 8);
    line.mend();
    await reaches(client.connection, 'connected');
    assert.equal(client.connection.id, id, 'it is the same connection');
    await publish(watcher.channels.get(name), 9, 10);
    await inbox.until('what was told while it was away, and after', () => assert.deepEqual(numbers(inbox), upTo(10)));
    await reaches(channel, 'attached');
    await counted(stage, name, plain(2, 1));
    assert.deepEqual(presence.items.filter(({ action }) => action === 'leave'), [], 'ada was there all the time');
  });

  story('who comes back misses nothing that another region said', async (stage) => {
    const name = stage.channel();
    const distant = (await stage.connected(elsewhere)).channels.get(name);
    await distant.attach();
    const line = await stage.line(here);
    const client = await stage.connected(line);
    const inbox = await Inbox.of(client.channels.get(name));
    const witness = await Inbox.of((await stage.connected(here)).channels.get(name));
    await counted(stage, name, plain(3), 'both regions know of each other');
    await publish(distant, 1, 2);
    await inbox.until('what is told before', () => assert.deepEqual(numbers(inbox), upTo(2)));
    line.cut();
    await noticed(client);
    await publish(distant, 3, 6);
    await witness.until('others are told', () => assert.deepEqual(numbers(witness), upTo(6)));
    line.mend();
    await inbox.until('what was told while it was away', () => assert.deepEqual(numbers(inbox), upTo(6)));
  });

  story('what a client says while it is away is said once it is back', async (stage) => {
    const name = stage.channel();
    const inbox = await Inbox.of((await stage.connected(here)).channels.get(name));
    const line = await stage.line(here);
    const client = await stage.connected(line);
    await publish(client.channels.get(name), 1, 2);
    line.cut();
    await noticed(client);
    const said = publish(client.channels.get(name), 3, 5);
    line.mend();
    await within('it is acknowledged', said);
    await inbox.until('all is told, once', () => assert.deepEqual(numbers(inbox), upTo(5)));
  });

  story('who comes back after its grace counts again', async (stage) => {
    const name = stage.channel();
    const line = await stage.line(there);
    const client = await stage.connected(line, { clientId: 'ada' });
    const channel = client.channels.get(name);
    await channel.presence.enter('here');
    await counted(stage, name, plain(1, 1));
    const { id } = client.connection;
    line.cut();
    await counted(stage, name, counts(), 'it has left');
    line.mend();
    await reaches(client.connection, 'connected');
    assert.equal(client.connection.id, id, 'it is the same connection');
    await counted(stage, name, plain(1, 1), 'it is back');
    const [ada] = await channel.presence.get();
    assert.equal(ada.data, 'here');
  });

  story('a client that was restarted recovers its connection', async (stage) => {
    const name = stage.channel();
    const publisher = (await stage.connected(here)).channels.get(name);
    const line = await stage.line(here);
    const former = await stage.connected(line);
    const inbox = await Inbox.of(former.channels.get(name));
    await publish(publisher, 1, 2);
    await inbox.until('what is told before', () => assert.deepEqual(numbers(inbox), upTo(2)));
    const { id } = former.connection;
    const recover = former.connection.createRecoveryKey();
    line.cut();
    await noticed(former);
    await publish(publisher, 3, 5);
    const latter = await stage.connected(here, { recover });
    assert.equal(latter.connection.id, id, 'it is the same connection');
    const continued = await Inbox.of(latter.channels.get(name));
    await continued.until('what it missed', () => assert.deepEqual(numbers(continued), [3, 4, 5]));
  });

  story('on another node a client gets a new connection and is told so', async (stage) => {
    const name = stage.channel();
    const line = await stage.line(here);
    const client = await stage.connected(line, { clientId: 'ada' });
    const channel = client.channels.get(name);
    await channel.presence.enter();
    await counted(stage, name, plain(1, 1));
    const { id } = client.connection;
    line.cut();
    await noticed(client);
    const updated = within('the channel is attached anew',
      new Promise((resolve) => channel.once((change) => resolve(change))));
    line.mend(there);
    const { reason } = await reaches(client.connection, 'connected');
    assert.notEqual(client.connection.id, id);
    assert.equal(reason?.code, 80008, `the reason is told: ${reason}`);
    await updated;
    await reaches(channel, 'attached');
    await eventually('the former one is gone, and the new one counts', async () => {
      assert.deepEqual((await status(stage, here, name)).occupancy.metrics, plain(1, 1));
    }, GRACE_MS + 10_000);
    const inbox = await Inbox.of(channel);
    await publish((await stage.connected(there)).channels.get(name), 1, 3);
    await inbox.until('it is told what happens from now on', () => assert.deepEqual(numbers(inbox), upTo(3)));
  });

  story('a key that is no connection gives a new one', async (stage) => {
    const strange = { connectionKey: 'nobody!nothing', msgSerial: 0, channelSerials: {} };
    const client = await stage.connected(here, { recover: JSON.stringify(strange) });
    assert.ok(client.connection.id);
    assert.equal(client.connection.errorReason?.statusCode, 400, `the reason: ${client.connection.errorReason}`);
    const name = stage.channel();
    await client.channels.get(name).attach();
    await counted(stage, name, plain(1));
  });

  story('nobody else can take a connection over', async (stage) => {
    const client = await stage.connected(here, { clientId: 'ada' });
    const recover = client.connection.createRecoveryKey();
    const thief = stage.client(here, { recover, clientId: 'eve' });
    await within('it is decided', new Promise((resolve) => thief.connection.once(['connected', 'failed'], resolve)));
    assert.notEqual(thief.connection.id, client.connection.id, 'eve has not become ada');
    await reaches(client.connection, 'connected');
    await client.connection.ping();
  });
});
