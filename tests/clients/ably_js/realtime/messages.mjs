// Messages: accepted, acknowledged, and told to subscribers everywhere, in order.

import assert from 'node:assert/strict';
import { Inbox, LINGER_MS, elsewhere, eventually, here, jwt, plain, counted, counts, pause, refused, regions, status,
  story, theme, there } from '../stage.mjs';

const texts = (inbox) => inbox.items.map(({ data }) => data);
const row = (who, count) => Array.from({ length: count }, (_, index) => `${who} ${index}`);

theme('messages', () => {
  story('subscribers of every region hear, each publisher in order', async (stage) => {
    const name = stage.channel();
    const inboxes = await Promise.all(regions.map(async (region) =>
      Inbox.of((await stage.connected(region)).channels.get(name))));
    await counted(stage, name, plain(regions.length), 'every region knows of the others');
    const publishers = await Promise.all(regions.map((region) => stage.connected(region)));
    const COUNT = 30;
    await Promise.all(publishers.map((client, index) => Promise.all(
      row(index, COUNT).map((text) => client.channels.get(name).publish('row', text)))));
    for (const [at, inbox] of inboxes.entries()) {
      await inbox.until(`everything, in ${regions[at].name}`, () =>
        assert.equal(inbox.items.length, COUNT * publishers.length));
      for (const [index, client] of publishers.entries()) {
        const own = inbox.items.filter(({ connectionId }) => connectionId === client.connection.id);
        assert.deepEqual(own.map(({ data }) => data), row(index, COUNT),
          `of ${regions[index].name}, in ${regions[at].name}`);
      }
      assert.equal(new Set(inbox.items.map(({ id }) => id)).size, inbox.items.length, 'ids are unique');
    }
  });

  story('what is published arrives as it was', async (stage) => {
    const name = stage.channel();
    const inbox = await Inbox.of((await stage.connected(here)).channels.get(name));
    const client = await stage.connected(here, { clientId: 'ada' });
    const bytes = Buffer.from([0, 1, 254, 255]);
    const sent = [
      { name: 'text', data: 'ü 日本 \u0000' },
      { name: 'object', data: { list: [1, null, { deep: true }] } },
      { name: 'bytes', data: bytes },
      { name: 'extras', data: 'x', extras: { headers: { kind: 'test' } } },
      { name: 'empty' },
      { data: 'nameless' },
    ];
    const result = await client.channels.get(name).publish(sent);
    assert.equal(result.serials.length, sent.length, 'each has a serial');
    await inbox.until('all', (items) => assert.equal(items.length, sent.length));
    const [text, object, binary, extras, empty, nameless] = inbox.items;
    assert.equal(text.data, sent[0].data);
    assert.deepEqual(object.data, sent[1].data);
    assert.deepEqual(Buffer.from(binary.data), bytes);
    assert.deepEqual(extras.extras.headers, { kind: 'test' });
    assert.equal(empty.data, undefined);
    assert.equal(nameless.name, undefined);
    assert.equal(nameless.data, 'nameless');
    assert.ok(inbox.items.every(({ clientId }) => clientId === 'ada'));
    assert.ok(inbox.items.every(({ timestamp }) => Math.abs(timestamp - Date.now()) < 60_000));
  });

  story('a publisher hears itself, unless it does not want to', async (stage) => {
    const name = stage.channel();
    const loud = await stage.connected(here);
    const quiet = await stage.connected(here, { echoMessages: false });
    const [own, others] = await Promise.all([loud, quiet].map((client) => Inbox.of(client.channels.get(name))));
    await quiet.channels.get(name).publish('of', 'quiet');
    await loud.channels.get(name).publish('of', 'loud');
    await own.until('both', () => assert.deepEqual(texts(own), ['quiet', 'loud']));
    await others.until('the other only', () => assert.deepEqual(texts(others), ['loud']));
  });

  story('publishing needs no attachment, and counts as none', async (stage) => {
    const name = stage.channel();
    const inbox = await Inbox.of((await stage.connected(here)).channels.get(name, { modes: ['SUBSCRIBE'] }));
    const client = await stage.connected(here);
    await client.channels.get(name).publish('in', 'passing');
    await inbox.until('it arrives', () => assert.deepEqual(texts(inbox), ['passing']));
    assert.equal(client.channels.get(name).state, 'initialized');
    await counted(stage, name, counts({ connections: 1, subscribers: 1 }));
  });

  story('publishing keeps a channel active that nobody is attached to any more', async (stage) => {
    const name = stage.channel();
    const client = await stage.connected(there);
    const channel = client.channels.get(name);
    await channel.attach();
    await counted(stage, name, plain(1));
    await channel.detach();
    const until = Date.now() + 2 * LINGER_MS;
    while (Date.now() < until) {
      await channel.publish('still', 'here');
      assert.ok((await status(stage, there, name)).isActive, 'it is active as long as somebody publishes');
      await pause(LINGER_MS / 20, 'it may be silent for less than the linger');
    }
    await eventually('it is not any more', async () => assert.ok(!(await status(stage, there, name)).isActive));
    assert.equal(channel.state, 'detached');
  });

  story('what is published again under its id is told once, wherever it comes again', async (stage) => {
    const name = stage.channel();
    const inboxes = await Promise.all(regions.map(async (region) =>
      Inbox.of((await stage.connected(region)).channels.get(name))));
    await counted(stage, name, plain(regions.length), 'every region knows of the others');
    const message = { id: `${name}:0`, name: 'of', data: 'once' };
    const arrived = () => Promise.all(inboxes.map((inbox) =>
      inbox.until('it arrives', () => assert.equal(texts(inbox).at(-1), 'once'))));
    await stage.rest(here).channels.get(name).publish(message);
    await arrived();
    // Tried again at the same node, at another, and by a client that is connected.
    await stage.rest(here).channels.get(name).publish(message);
    await stage.rest(there).channels.get(name).publish(message);
    const client = await stage.connected(elsewhere);
    await client.channels.get(name).publish(message);
    await client.channels.get(name).publish('of', 'last');
    for (const inbox of inboxes) {
      await inbox.until('the last', () => assert.deepEqual(texts(inbox), ['once', 'last']));
    }
    const { items } = await stage.rest(there).channels.get(name).history();
    assert.deepEqual(items.map(({ id }) => id).filter((id) => id === message.id), [message.id]);
  });

  story('publishing over REST reaches subscribers of every region', async (stage) => {
    const name = stage.channel();
    const inboxes = await Promise.all(regions.map(async (region) =>
      Inbox.of((await stage.connected(region)).channels.get(name))));
    await counted(stage, name, plain(regions.length), 'every region knows of the others');
    for (const [index, region] of regions.entries()) {
      const rest = stage.rest(region);
      await rest.channels.get(name).publish([
        { name: 'first', data: { of: region.name } },
        { name: 'second', data: Buffer.from([index]) },
      ]);
      for (const [at, inbox] of inboxes.entries()) {
        await inbox.until(`what ${region.name} published, in ${regions[at].name}`, (items) => {
          assert.equal(items.length, 2 * index + 2);
          assert.deepEqual(items.at(-2).data, { of: region.name });
          assert.deepEqual(Buffer.from(items.at(-1).data), Buffer.from([index]));
        });
      }
    }
    const limited = stage.rest(here, { token: jwt({ 'x-ably-capability': { [name]: ['subscribe'] } }) });
    await refused('without the operation', limited.channels.get(name).publish('no', 'more'), 40160);
    await refused('a bad name', stage.rest(here).channels.get(':hell').publish('no', 'more'), 40010);
  });

  story('who attaches may rewind', async (stage) => {
    const name = stage.channel();
    const client = await stage.connected(here);
    for (const text of row('past', 5)) {
      await client.channels.get(name).publish('row', text);
    }
    const cases = [['2', row('past', 5).slice(3)], ['2m', row('past', 5)]];
    for (const [rewind, expected] of cases) {
      const late = (await stage.connected(here)).channels.get(name, { params: { rewind } });
      const inbox = await Inbox.of(late);
      await inbox.until(`rewind ${rewind}`, () => assert.deepEqual(texts(inbox), expected));
      assert.ok(late.params.rewind === rewind);
    }
    const qualified = await Inbox.of((await stage.connected(here)).channels.get(`[?rewind=1]${name}`));
    await qualified.until('by a qualifier', () => assert.deepEqual(texts(qualified), ['past 4']));
    const bad = client.channels.get(stage.channel(), { params: { rewind: 'yesterday' } });
    await refused('a rewind that cannot be read', bad.attach(), 40003);
  });

  story('REST tells what was said lately', async (stage) => {
    const name = stage.channel();
    const client = await stage.connected(there);
    await client.channels.get(name).attach();
    for (const text of row('past', 5)) {
      await client.channels.get(name).publish('row', text);
    }
    const { items } = await stage.rest(there).channels.get(name).history();
    assert.deepEqual(items.map(({ data }) => data), row('past', 5).reverse(), 'the newest first');
    const forward = await stage.rest(there).channels.get(name).history({ direction: 'forwards', limit: 2 });
    assert.deepEqual(forward.items.map(({ data }) => data), row('past', 5).slice(0, 2));
    const next = await forward.next();
    assert.deepEqual(next.items.map(({ data }) => data), row('past', 5).slice(2, 4));
  });

  story('publishing needs the operation', async (stage) => {
    const name = stage.channel();
    const client = await stage.connected(here, { token: jwt({ 'x-ably-capability': { [name]: ['subscribe'] } }) });
    const channel = client.channels.get(name);
    await refused('unattached', channel.publish('no', 'more'), 40160);
    await channel.attach();
    await refused('attached', channel.publish('no', 'more'), 40160);
    const refusal = client.channels.get(stage.channel('other'));
    await refused('elsewhere', refusal.publish('no', 'more'), 40160);
  });

  story('a message that is too large is refused, and nothing else', async (stage) => {
    const name = stage.channel();
    const client = await stage.connected(here);
    const channel = client.channels.get(name);
    const inbox = await Inbox.of(channel);
    const most = client.options.maxMessageSize;
    assert.equal(most, 262_144, 'the client was told how large a message may be');
    await refused('the client knows', channel.publish('big', 'x'.repeat(most)), 40009);
    // It would not even send it; let it, so that the server has to refuse.
    client.options.maxMessageSize = 10 * most;
    const { id } = client.connection;
    await refused('the server knows', channel.publish('big', 'x'.repeat(most)), 40009);
    await channel.publish('big', 'x'.repeat(most - 100));
    await inbox.until('the largest arrives', (items) => assert.equal(items.length, 1));
    assert.equal(client.connection.id, id, 'the connection is unharmed');
    await refused('over REST', stage.rest(here, { maxMessageSize: 10 * most }).channels.get(name)
      .publish('big', 'x'.repeat(most + 1)), 40009);
  });

  story('who says too much in a second is told so, and goes on', async (stage) => {
    const name = stage.channel();
    const client = await stage.connected(here);
    const channel = client.channels.get(name);
    const said = await Promise.allSettled(row('much', 400).map((text) => channel.publish('row', text)));
    const codes = new Set(said.filter(({ status }) => status === 'rejected').map(({ reason }) => reason.code));
    assert.deepEqual([...codes], [42911], 'what is too much is refused');
    assert.ok(said.filter(({ status }) => status === 'fulfilled').length >= 50, 'what is not too much is accepted');
    assert.equal(client.connection.state, 'connected');
    await eventually('it may speak again', () => channel.publish('row', 'after'));
  });

  story('a channel takes so much in a second from all together, and its clients go on', async (stage) => {
    const name = stage.channel();
    const inbox = await Inbox.of((await stage.connected(here)).channels.get(name));
    const clients = await Promise.all([1, 2, 3, 4].map(() => stage.connected(here)));
    const ids = clients.map((client) => client.connection.id);
    // Each says no more than it may; it is the channel that takes no more.
    const said = (await Promise.all(clients.map((client, who) => Promise.allSettled(
      row(who, 100).map((text) => client.channels.get(name).publish('row', text)))))).flat();
    const errors = said.filter(({ status }) => status === 'rejected').map(({ reason }) => reason);
    assert.deepEqual([...new Set(errors.map(({ code }) => code))], [42913], 'what is too much is refused');
    assert.match(errors[0].message, /metric = channel\.maxRate/);
    assert.equal(errors[0].statusCode, 429);
    const accepted = said.length - errors.length;
    assert.ok(accepted >= 200, `what is not too much is accepted: ${accepted}`);
    await inbox.until('what was accepted, and nothing else', (items) => assert.equal(items.length, accepted));
    await refused('REST is no way around it', stage.rest(here).channels.get(name).publish(
      row('rest', 200).map((data) => ({ name: 'row', data }))), 42913);
    await clients[0].channels.get(stage.channel('other')).publish('another', 'channel');
    await eventually('they may speak again', () => Promise.all(
      clients.map((client) => client.channels.get(name).publish('row', 'after'))));
    assert.deepEqual(clients.map(({ connection }) => connection.state), Array(4).fill('connected'));
    assert.deepEqual(clients.map(({ connection }) => connection.id), ids, 'the connections are unharmed');
    await inbox.until('they are heard', () => assert.ok(texts(inbox).filter((text) => text === 'after').length >= 4));
  });
});
