// What happens to channels and connections, told on channels of their own.

import assert from 'node:assert/strict';
import { Inbox, counted, counts, elsewhere, eventually, here, jwt, plain, reaches, refused, regions, story, theme,
  there } from '../stage.mjs';

const LIFECYCLE = '[meta]channel.lifecycle';
const CONNECTIONS = '[meta]connection.lifecycle';
const LOG = '[meta]log';

/** What a lifecycle channel has told of one channel. */
const of = (name, items) => items.filter(({ data }) => data.channelId === name);
const brief = ({ name, data }) => [name, data.region];
const activity = ({ name }) => name !== 'channel.occupancy';

/**
 * Ids of a channel's events, by who decides their order. The log has one order of all, but what happens in a region
 * may be told before the log has it.
 */
function threads(events) {
  const ids = {};
  for (const { id, name, data } of events) {
    (ids[name.startsWith('channel.region.') ? data.region : 'everywhere'] ??= []).push(id);
  }
  return ids;
}

/** Says that two places tell the same events. */
function same(events, others, why) {
  assert.deepEqual(threads(events), threads(others), why);
  const byId = (told) => Object.fromEntries(told.map(({ id, data }) => [id, data]));
  assert.deepEqual(byId(events), byId(others), why);
}

/** Waits until a lifecycle channel has told that a channel has closed; returns all that it told of it. */
const closed = (inbox, name) => inbox.until(`${name} closes`, (items) => {
  const told = of(name, items);
  assert.equal(told.at(-1)?.name, 'channel.closed', `${told.length} events so far`);
  return told;
});

/** Lets a channel open, be active in two regions, and close. */
async function visit(stage, name) {
  const clients = await Promise.all([here, there].map((region) => stage.connected(region)));
  for (const [index, client] of clients.entries()) {
    await client.channels.get(name).attach();
    await counted(stage, name, plain(index + 1));
  }
  await clients[0].channels.get(name).detach();
  await counted(stage, name, plain(1));
  await clients[1].channels.get(name).detach();
  await counted(stage, name, counts());
}

theme('metachannels', () => {
  story('every region tells the same of a channel, with exact details', async (stage) => {
    const name = stage.channel();
    const inboxes = await Promise.all(regions.map(async (region) =>
      Inbox.of((await stage.connected(region)).channels.get(LIFECYCLE))));
    await visit(stage, name);
    const told = await Promise.all(inboxes.map((inbox) => closed(inbox, name)));
    for (const [index, events] of told.entries()) {
      same(events, told[0], `the same events, in ${regions[index].name}`);
    }

    const coordinator = (await stage.rest(here).channels.get(name).status()).region;
    const happened = told[0].filter(activity);
    const first = happened.slice(0, 2).map(brief);
    assert.deepEqual(first.sort(), [['channel.opened', coordinator], ['channel.region.active', here.name]].sort());
    const rest = happened.slice(2, -1).map(brief).sort();
    assert.deepEqual(rest, [['channel.region.active', there.name], ['channel.region.inactive', here.name],
      ['channel.region.inactive', there.name]].sort());
    assert.deepEqual(brief(happened.at(-1)), ['channel.closed', coordinator]);

    for (const { name: event, data, id, timestamp, clientId, connectionId } of told[0]) {
      const active = ['channel.opened', 'channel.region.active', 'channel.occupancy'].includes(event);
      assert.deepEqual(Object.keys(data).sort(), ['channelId', 'isGlobalMaster', 'name', 'region', 'status']);
      assert.equal(data.channelId, name);
      assert.equal(data.name, name);
      assert.equal(data.isGlobalMaster, data.region === coordinator, `${event} of ${data.region}`);
      assert.equal(data.status.isActive, active, event);
      assert.equal(Object.keys(data.status.occupancy.metrics).length, 8);
      assert.ok(id && Math.abs(timestamp - Date.now()) < 60_000);
      assert.deepEqual([clientId, connectionId], [undefined, undefined], 'it comes from no client');
      if (!active) {
        assert.deepEqual(data.status.occupancy.metrics, counts(), `${event} counts nobody`);
      }
    }
    const byName = (event, region) =>
      told[0].find((found) => found.name === event && (!region || found.data.region === region));
    assert.deepEqual(byName('channel.opened').data.status.occupancy.metrics, plain(1));
    assert.deepEqual(byName('channel.region.active', here.name).data.status.occupancy.metrics, plain(1));
    assert.deepEqual(byName('channel.region.active', there.name).data.status.occupancy.metrics, plain(1),
      'a region tells of itself only');
  });

  story('a watcher goes on in another region without loss or repetition', async (stage) => {
    const name = stage.channel();
    const line = await stage.line(here);
    const watcher = await stage.connected(line);
    const channel = watcher.channels.get(LIFECYCLE);
    const inbox = await Inbox.of(channel);
    const witness = await Inbox.of((await stage.connected(elsewhere)).channels.get(LIFECYCLE));
    await visit(stage, `${name}:before`);
    await closed(inbox, `${name}:before`);

    for (const next of [there, elsewhere]) {
      const { id } = watcher.connection;
      line.cut();
      await reaches(watcher.connection, 'disconnected');
      await visit(stage, `${name}:away from ${next.name}`);
      await closed(witness, `${name}:away from ${next.name}`);
      line.mend(next);
      await reaches(watcher.connection, 'connected');
      assert.notEqual(watcher.connection.id, id, 'it is a new connection');
      await reaches(channel, 'attached');
      await visit(stage, `${name}:back in ${next.name}`);
      await closed(inbox, `${name}:back in ${next.name}`);
    }
    await closed(witness, `${name}:back in ${elsewhere.name}`);

    const mine = ({ items }) => items.filter(({ data }) => data.channelId.startsWith(`${name}:`)).map(({ id }) => id);
    const ids = mine(inbox);
    assert.equal(new Set(ids).size, ids.length, 'nothing is told twice');
    assert.deepEqual(ids.sort(), mine(witness).sort(), 'it was told what a watcher was told who never left');
  });

  story('a watcher comes back to the same region and has missed nothing', async (stage) => {
    const name = stage.channel();
    const line = await stage.line(there);
    const watcher = await stage.connected(line);
    const channel = watcher.channels.get(LIFECYCLE);
    const inbox = await Inbox.of(channel);
    const witness = await Inbox.of((await stage.connected(here)).channels.get(LIFECYCLE));
    const { id } = watcher.connection;
    line.cut();
    await reaches(watcher.connection, 'disconnected');
    await visit(stage, name);
    const expected = await closed(witness, name);
    line.mend();
    const told = await closed(inbox, name);
    assert.equal(watcher.connection.id, id, 'it is the same connection');
    same(told, expected);
  });

  story('occupancy of a channel is told there too', async (stage) => {
    const name = stage.channel();
    const inbox = await Inbox.of((await stage.connected(there)).channels.get(LIFECYCLE), 'channel.occupancy');
    const client = await stage.connected(here);
    await client.channels.get(name).attach();
    await counted(stage, name, plain(1));
    await client.channels.get(name).presence.enterClient('ada');
    const event = await inbox.first('ada is counted', ({ data }) =>
      data.channelId === name && data.status.occupancy.metrics.presenceMembers === 1);
    assert.deepEqual(event.data.status.occupancy.metrics, plain(1, 1));
    assert.equal(event.data.isGlobalMaster, true);
  });

  story('who attaches may rewind, by params or by a qualifier', async (stage) => {
    const name = stage.channel();
    const witness = await Inbox.of((await stage.connected(here)).channels.get(LIFECYCLE));
    await visit(stage, name);
    const past = await closed(witness, name);
    const [some, all] = await Promise.all([stage.connected(elsewhere), stage.connected(elsewhere)]);
    const now = Date.now();
    // Of all channels together, so that of this one there may be none.
    const few = await Inbox.of(some.channels.get(LIFECYCLE, { params: { rewind: '100' } }));
    await few.first('the newest of the past', ({ timestamp }) => timestamp < now);
    const lately = await Inbox.of(all.channels.get('[meta?rewind=2m]channel.lifecycle'));
    same(await closed(lately, name), past, 'two minutes');
  });

  story('its history is told, the newest first or the oldest, in pages', async (stage) => {
    const name = stage.channel();
    const witness = await Inbox.of((await stage.connected(here)).channels.get(LIFECYCLE));
    await visit(stage, name);
    const past = await closed(witness, name);
    const times = past.map(({ timestamp }) => timestamp);
    const [start, end, limit] = [Math.min(...times), Math.max(...times), past.length - 1];

    /** Everything of that time, page by page. */
    const walk = async (channel, direction) => {
      const items = [];
      let page = await channel.history({ start, end, limit, direction });
      assert.ok(page.hasNext() && !page.isLast(), 'there is more than one page');
      for (; page; page = await page.next()) {
        assert.ok(page.items.length <= limit);
        items.push(...page.items);
      }
      assert.ok(items.every(({ timestamp }) => start <= timestamp && timestamp <= end), 'it is of that time');
      assert.equal(new Set(items.map(({ id }) => id)).size, items.length, 'nothing is told twice');
      return items;
    };
    await Promise.all(regions.map((region) => eventually(`all of it, in ${region.name}`, async () => {
      const client = await stage.connected(region);
      const forwards = await walk(client.channels.get(LIFECYCLE), 'forwards');
      const backwards = await walk(stage.rest(region).channels.get(LIFECYCLE), 'backwards');
      assert.deepEqual(backwards.map(({ id }) => id), forwards.map(({ id }) => id).reverse());
      same(of(name, forwards), past, 'what was told when it happened');
    })));
  });

  story('connections are told as they open and close, in every region', async (stage) => {
    const inboxes = await Promise.all(regions.map(async (region) =>
      Inbox.of((await stage.connected(region)).channels.get(CONNECTIONS))));
    const client = await stage.connected(there, { clientId: 'ada' });
    const { id } = client.connection;
    client.close();
    await reaches(client.connection, 'closed');
    for (const [index, inbox] of inboxes.entries()) {
      const own = (items) => items.filter(({ data }) => data.connectionId === id);
      await inbox.until(`both, in ${regions[index].name}`, (items) =>
        assert.deepEqual(own(items).map(({ name }) => name), ['connection.opened', 'connection.closed']));
      const [opened, over] = own(inbox.items).map(({ data }) => data);
      for (const data of [opened, over]) {
        assert.equal(data.clientId, 'ada');
        assert.equal(data.transport, 'web_socket');
        assert.equal(data.region, there.name);
        assert.ok(data.node);
      }
      assert.ok(over.reason);
      assert.equal(opened.reason, undefined);
    }
  });

  story('the log can be followed', async (stage) => {
    const client = await stage.connected(here);
    for (const name of [LOG, '[meta?rewind=1]log']) {
      await client.channels.get(name).attach();
      assert.equal(client.channels.get(name).state, 'attached');
    }
  });

  story('metachannels are only read', async (stage) => {
    const client = await stage.connected(here);
    for (const name of [LIFECYCLE, CONNECTIONS, LOG]) {
      const channel = client.channels.get(name);
      await refused(`publishing on ${name}, unattached`, channel.publish('no', 'more'), 40160);
      await channel.attach();
      assert.deepEqual(channel.modes, ['subscribe'], name);
      await refused(`publishing on ${name}`, channel.publish('no', 'more'), 40160);
      await refused(`entering ${name}`, channel.presence.enterClient('ada'), 40160);
      await refused(`publishing on ${name} over REST`,
        stage.rest(here).channels.get(name).publish('no', 'more'), 40160);
    }
    assert.equal(client.connection.state, 'connected');
  });

  story('metachannels need a capability that names them', async (stage) => {
    const capable = async (capability) => stage.connected(here, { token: jwt({ 'x-ably-capability': capability }) });
    const everything = await capable({ '*': ['*'] });
    await refused('* is every other channel', everything.channels.get(LIFECYCLE).attach(), 40160);
    for (const pattern of [LIFECYCLE, '[meta]*', '[*]*']) {
      const client = await capable({ [pattern]: ['subscribe'] });
      await client.channels.get(LIFECYCLE).attach();
    }
    const one = await capable({ [LIFECYCLE]: ['subscribe'] });
    await refused('another metachannel', one.channels.get(LOG).attach(), 40160);
    const publisher = await capable({ '[*]*': ['publish', 'presence', 'channel-metadata'] });
    await refused('without subscribe', publisher.channels.get(LIFECYCLE).attach(), 40160);
  });
});
