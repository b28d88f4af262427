// Channels as server-sent events, as curl and browsers read them: in JSON, whatever publishers speak.

import assert from 'node:assert/strict';
import { Inbox, counted, counts, elsewhere, here, jwt, key, pause, plain, regions, story, theme, there,
  within } from '../stage.mjs';

const LIFECYCLE = '[meta]channel.lifecycle';

/** Follows a path of a region, from after an event if there is one, until it is let go. */
async function follow(stage, at, path, params, { last, authorization = `Basic ${btoa(key)}` } = {}) {
  const letGo = new AbortController();
  stage.atTheEnd(() => letGo.abort());
  const url = new URL(path, `http://127.0.0.1:${at.port}`);
  Object.entries(params).forEach(([name, value]) => url.searchParams.set(name, value));
  const headers = { ...(authorization && { authorization }), ...(last && { 'last-event-id': last }) };
  const response = await within('a stream begins', fetch(url, { headers, signal: letGo.signal }));
  if (!response.ok) {
    return (await response.json()).error.code;
  }
  assert.equal(response.headers.get('content-type'), 'text/event-stream');
  const inbox = new Inbox();
  inbox.letGo = () => letGo.abort();
  inbox.over = read(response.body, inbox.put).catch((error) => assert.equal(error.name, 'AbortError'));
  return inbox;
}

/** Takes a stream apart. */
async function read(body, put) {
  let text = '';
  for await (const part of body.pipeThrough(new TextDecoderStream())) {
    const blocks = (text + part).split('\n\n');
    text = blocks.pop();
    for (const block of blocks) {
      const lines = block.split('\n').filter((line) => !line.startsWith(':'));
      const field = (name) => lines.filter((line) => line.startsWith(`${name}: `))
        .map((line) => line.slice(name.length + 2)).join('\n');
      const [event, id, data] = ['event', 'id', 'data'].map(field);
      if (event) {
        put({ event, id, data });
      }
    }
  }
}

const sse = (stage, at, channels, params = {}, options) =>
  follow(stage, at, '/sse', { channels: [channels].flat().join(','), ...params }, options);

/** The message that an event carries. */
const message = ({ event, data }) => {
  assert.equal(event, 'message', data);
  return JSON.parse(data);
};
const numbers = (inbox) => inbox.items.map((item) => Number(message(item).data));

/** Publishes numbered messages, one after the other. */
async function publish(channel, from, to) {
  for (let number = from; number <= to; number += 1) {
    await channel.publish('number', `${number}`);
  }
}

theme('streaming', () => {
  story('messages of several channels are told, with all that they carry', async (stage) => {
    const [first, second] = [stage.channel('first ü'), stage.channel('second')];
    const inbox = await sse(stage, there, [first, second]);
    const listens = counts({ connections: 1, subscribers: 1 });
    await Promise.all([counted(stage, first, listens), counted(stage, second, listens)]);
    const ada = await stage.connected(there, { clientId: 'ada' });
    const bytes = Buffer.from([0, 255, 10, 10]);
    await ada.channels.get(first).publish('text', 'two\n\nlines');
    await ada.channels.get(first).publish([{ name: 'list', data: [1, { two: 2 }] }, { name: 'bytes', data: bytes }]);
    await inbox.until('three of one', (items) => assert.equal(items.length, 3));
    await stage.rest(here).channels.get(second).publish('over REST', 'x');
    await inbox.until('one of the other', (items) => assert.equal(items.length, 4));

    const [text, list, binary, rest] = inbox.items.map(message);
    assert.equal(text.data, 'two\n\nlines');
    assert.deepEqual([list.encoding, JSON.parse(list.data)], ['json', [1, { two: 2 }]]);
    assert.deepEqual([binary.encoding, Buffer.from(binary.data, 'base64')], ['base64', bytes]);
    for (const { channel, clientId, connectionId, id, timestamp } of [text, list, binary]) {
      assert.deepEqual([channel, clientId, connectionId], [first, 'ada', ada.connection.id]);
      assert.ok(id && Math.abs(timestamp - Date.now()) < 60_000);
    }
    assert.deepEqual([rest.channel, rest.name, rest.data], [second, 'over REST', 'x']);
    assert.equal(new Set([text, list, binary, rest].map(({ id }) => id)).size, 4);
    // Those that came together are told together again: only the last is a place to go on from.
    assert.deepEqual(inbox.items.map(({ id }) => id !== ''), [true, false, true, true]);
    inbox.letGo();
    await counted(stage, first, counts(), 'who does not come back has left');
  });

  story('the last event id goes on where a stream was', async (stage) => {
    const name = stage.channel();
    const channel = (await stage.connected(here)).channels.get(name);
    const witness = await Inbox.of((await stage.connected(here)).channels.get(name));
    const inbox = await sse(stage, here, name);
    await counted(stage, name, counts({ ...plain(1), connections: 2, subscribers: 2 }));
    await publish(channel, 1, 3);
    await inbox.until('three', () => assert.deepEqual(numbers(inbox), [1, 2, 3]));
    inbox.letGo();
    await publish(channel, 4, 5);
    await witness.until('others are told', (items) => assert.equal(items.length, 5));

    const last = inbox.items.at(-1).id;
    const again = await sse(stage, here, name, { rewind: '10' }, { last });
    await again.until('what it missed', () => assert.deepEqual(numbers(again), [4, 5]));
    await publish(channel, 6, 6);
    await again.until('and what comes', () => assert.deepEqual(numbers(again), [4, 5, 6]));
    again.letGo();
    await counted(stage, name, plain(1));
    const later = await sse(stage, here, name, { lastEvent: inbox.items[1].id });
    await later.until('from the second on', () => assert.deepEqual(numbers(later), [3, 4, 5, 6]));
  });

  for (const [path, params] of [['/sse', { channels: LIFECYCLE }], ['/events', {}]]) {
    story(`lifecycle events go on in any region, at ${path}`, async (stage) => {
      const name = stage.channel();
      const witness = await Inbox.of((await stage.connected(elsewhere)).channels.get(LIFECYCLE));
      const client = await stage.connected(here);
      const visit = async (which) => {
        await client.channels.get(which).attach();
        await counted(stage, which, plain(1));
        await client.channels.get(which).detach();
        await witness.first(`${which} closes`, (event) =>
          event.name === 'channel.closed' && event.data.channelId === which);
      };
      const details = (item) => {
        const { id, name: event, data } = JSON.parse(item.data);
        return { id, event, data: typeof data === 'string' ? JSON.parse(data) : data };
      };
      const mine = (items) => items.filter(({ event }) => event !== 'gap' && event !== 'end').map(details)
        .filter(({ data }) => data.channelId.startsWith(name));
      const closes = (inbox, which) => inbox.until(`${which} closes`, (items) =>
        assert.ok(mine(items).some(({ event, data }) => event === 'channel.closed' && data.channelId === which)));

      const told = [];
      let last;
      for (const [index, region] of regions.entries()) {
        const inbox = await follow(stage, region, path, params, { last });
        await pause(index ? 0 : 200, 'the first begins with what comes next');
        await visit(`${name}:${index}`);
        await closes(inbox, `${name}:${index}`);
        inbox.letGo();
        last = inbox.items.findLast(({ id }) => id).id;
        const place = inbox.items.findLastIndex(({ id }) => id);
        told.push(...mine(inbox.items.slice(0, place + 1)));
        await visit(`${name}:away ${index}`);
      }
      const inbox = await follow(stage, here, path, params, { last });
      await closes(inbox, `${name}:away ${regions.length - 1}`);
      told.push(...mine(inbox.items));
      const expected = witness.items.filter(({ data }) => data.channelId.startsWith(name))
        .map(({ id, name: event, data }) => ({ id, event, data }));
      const byId = (a, b) => a.id < b.id ? -1 : 1;
      assert.deepEqual(told.sort(byId), expected.sort(byId), 'nothing is lost or told twice');
    }, ['json']);
  }

  story('occupancy and rewind are asked for as on an attachment', async (stage) => {
    const name = stage.channel();
    const client = await stage.connected(here);
    await publish(client.channels.get(name), 1, 3);
    const past = await sse(stage, here, name, { rewind: '2' });
    await past.until('what was said last', () => assert.deepEqual(numbers(past), [2, 3]));

    const other = stage.channel();
    const inbox = await sse(stage, here, other, { occupancy: 'metrics' });
    const metrics = () => inbox.items.map(message).filter((item) => item.name === '[meta]occupancy')
      .map(({ data }) => JSON.parse(data).metrics);
    const listens = counts({ connections: 1, subscribers: 1 });
    await inbox.until('it counts itself', () => assert.deepEqual(metrics()[0], listens));
    await client.channels.get(other).attach();
    await inbox.until('another comes', () =>
      assert.deepEqual(metrics().at(-1), { ...plain(1), connections: 2, subscribers: 2 }));
  });

  story('data can be had alone', async (stage) => {
    const name = stage.channel();
    const inbox = await sse(stage, here, name, { enveloped: 'false' });
    await counted(stage, name, counts({ connections: 1, subscribers: 1 }));
    await (await stage.connected(here)).channels.get(name).publish('x', 'just\nthat');
    const { event, data } = await inbox.first('it arrives');
    assert.deepEqual([event, data], ['message', 'just\nthat']);
  });

  story('what cannot be followed is refused with its code', async (stage) => {
    const [open, secret] = [stage.channel('open'), stage.channel('secret')];
    assert.equal(await follow(stage, here, '/sse', {}), 40003, 'no channels');
    assert.equal(await sse(stage, here, open, { lastEvent: 'nonsense' }), 40003);
    assert.equal(await sse(stage, here, open, {}, { authorization: '' }), 40101);
    assert.equal(await sse(stage, here, open, { key: `${key}x` }, { authorization: '' }), 40101);
    const token = jwt({ 'x-ably-capability': { [open]: ['subscribe'] } });
    const inbox = await sse(stage, here, [secret, open, ':hell'], { accessToken: token }, { authorization: '' });
    await inbox.until('two are refused', (items) => {
      const errors = items.filter(({ event }) => event === 'error').map(({ data }) => JSON.parse(data).code);
      assert.deepEqual(errors.sort(), [40010, 40160]);
    });
    await counted(stage, open, counts({ connections: 1, subscribers: 1 }));
    await (await stage.connected(here)).channels.get(open).publish('x', 'heard');
    await inbox.first('the other is followed', ({ event, data }) =>
      event === 'message' && JSON.parse(data).data === 'heard');
  }, ['json']);

  story('a stream whose token is revoked is told so, and ends', async (stage) => {
    const [name, clientId] = [stage.channel(), stage.channel('ada')];
    const { token } = await stage.rest(there).auth.requestToken({ clientId });
    const inbox = await sse(stage, here, name, {}, { authorization: `Bearer ${btoa(token)}` });
    await counted(stage, name, counts({ connections: 1, subscribers: 1 }));
    await stage.rest(elsewhere).auth.revokeTokens([{ type: 'clientId', value: clientId }]);
    const { data } = await within('it is told', inbox.first('an error', ({ event }) => event === 'error'), 2_000);
    assert.equal(JSON.parse(data).code, 40141);
    await within('it ends', inbox.over);
    await counted(stage, name, counts());
  }, ['json']);
});
