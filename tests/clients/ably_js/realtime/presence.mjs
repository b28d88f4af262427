// Who is present: members come, change and leave, and every region sees the same.

import assert from 'node:assert/strict';
import { Inbox, counted, counts, elsewhere, eventually, here, jwt, plain, refused, regions, story, theme,
  there } from '../stage.mjs';

const say = ({ action, clientId, data }) => [action, clientId, data];
const members = (found) => found.map(({ clientId, data }) => `${clientId}:${data ?? ''}`).sort();

/** Waits until a channel's own view of its members is this. */
const sees = (why, channel, expected) => eventually(why, async () => {
  assert.deepEqual(members(await channel.presence.get()), expected);
});

theme('presence', () => {
  story('members come, change and leave', async (stage) => {
    const name = stage.channel();
    const watcher = await stage.connected(here);
    const inbox = await Inbox.ofPresence(watcher.channels.get(name));
    const ada = await stage.connected(here, { clientId: 'ada' });
    const { presence } = ada.channels.get(name);

    await presence.enter('hello');
    await counted(stage, name, plain(2, 1));
    await presence.update({ mood: 'good' });
    await counted(stage, name, plain(2, 1), 'an update changes no count');
    await presence.leave('bye');
    await counted(stage, name, plain(2, 0));

    await inbox.until('all three are told', (items) => assert.deepEqual(items.map(say), [
      ['enter', 'ada', 'hello'], ['update', 'ada', { mood: 'good' }], ['leave', 'ada', 'bye'],
    ]));
    assert.ok(inbox.items.every((item) => item.connectionId === ada.connection.id));
  });

  story('members are seen in every region', async (stage) => {
    const name = stage.channel();
    const clients = await Promise.all(regions.map((region) => stage.connected(region)));
    const channels = clients.map((client) => client.channels.get(name));
    const inboxes = await Promise.all(channels.map((channel) => Inbox.ofPresence(channel)));
    await counted(stage, name, plain(3));

    await Promise.all(channels.map((channel, index) => channel.presence.enterClient(regions[index].name, `${index}`)));
    const everybody = regions.map(({ name: region }, index) => `${region}:${index}`).sort();
    for (const [index, channel] of channels.entries()) {
      await sees(`all three, in ${regions[index].name}`, channel, everybody);
    }
    await counted(stage, name, plain(3, 3));

    await channels[0].presence.updateClient(regions[0].name, 'new');
    await channels[1].presence.leaveClient(regions[1].name);
    for (const [index, channel] of channels.entries()) {
      await sees(`what has changed, in ${regions[index].name}`, channel,
        [`${regions[0].name}:new`, `${regions[2].name}:2`].sort());
    }
    for (const [index, inbox] of inboxes.entries()) {
      await inbox.until(`what happened, in ${regions[index].name}`, (items) => {
        assert.deepEqual(items.filter(({ clientId }) => clientId === regions[0].name).map(say),
          [['enter', regions[0].name, '0'], ['update', regions[0].name, 'new']]);
        assert.deepEqual(items.filter(({ clientId }) => clientId === regions[1].name).map(({ action }) => action),
          ['enter', 'leave']);
      });
    }
  });

  story('whoever attaches later is told who is there', async (stage) => {
    const name = stage.channel();
    const crowd = await stage.connected(here);
    const present = Array.from({ length: 150 }, (_, index) => `member ${String(index).padStart(3, '0')}`);
    await Promise.all(present.map((member) => crowd.channels.get(name).presence.enterClient(member)));
    await counted(stage, name, plain(1, present.length));
    const all = present.map((member) => `${member}:`);
    const late = (await stage.connected(here)).channels.get(name);
    await late.attach();
    const found = await late.presence.get();
    assert.deepEqual(members(found), all, 'complete with the first answer');
    assert.ok(found.every(({ action, connectionId }) => action === 'present' && connectionId === crowd.connection.id));

    const distant = (await stage.connected(there)).channels.get(name);
    await sees('all of them, in another region', distant, all);
  });

  story('one connection has several members, each by its name', async (stage) => {
    const name = stage.channel();
    const client = await stage.connected(there);
    const { presence } = client.channels.get(name);
    await presence.enterClient('ada');
    await presence.enterClient('bob');
    await presence.enterClient('ada', 'again');
    await counted(stage, name, plain(1, 2), 'entering again is an update');
    await presence.leaveClient('ada');
    await counted(stage, name, plain(1, 1));
    await presence.leaveClient('nobody');
    await counted(stage, name, plain(1, 1), 'who is not there leaves nothing behind');

    const other = await stage.connected(here);
    await other.channels.get(name).presence.enterClient('bob');
    await counted(stage, name, plain(2, 2), 'the same name on two connections is two members');
    client.close();
    await counted(stage, name, plain(1, 1));
  });

  story('members leave with their attachment, and that is told', async (stage) => {
    const name = stage.channel();
    const watcher = await stage.connected(here);
    const inbox = await Inbox.ofPresence(watcher.channels.get(name));
    const client = await stage.connected(here);
    const channel = client.channels.get(name);
    for (const depart of [() => channel.detach(), () => client.close()]) {
      await channel.presence.enterClient('ada');
      await counted(stage, name, plain(2, 1));
      inbox.items.length = 0;
      await depart();
      await counted(stage, name, plain(1, 0));
      await inbox.first('ada leaves', ({ action, clientId }) => action === 'leave' && clientId === 'ada');
      await sees('nobody is there', watcher.channels.get(name), []);
    }
  });

  story('what was detached can be entered again', async (stage) => {
    const name = stage.channel();
    const client = await stage.connected(there, { clientId: 'ada' });
    const channel = client.channels.get(name);
    const watcher = await stage.connected(there);
    for (let round = 0; round < 3; round += 1) {
      await channel.presence.enter(`${round}`);
      await counted(stage, name, plain(round ? 2 : 1, 1));
      await watcher.channels.get(name).attach();
      await sees('she is there', watcher.channels.get(name), [`ada:${round}`]);
      await channel.detach();
      await sees('she is gone', watcher.channels.get(name), []);
    }
  });

  story('entering needs a name, the operation and the mode', async (stage) => {
    const name = stage.channel();
    const claims = { 'x-ably-capability': { [name]: ['subscribe', 'publish'] }, 'x-ably-clientId': 'ada' };
    const reader = await stage.connected(here, { token: jwt(claims) });
    await refused('without the operation', reader.channels.get(name).presence.enter(), 40160);
    const named = await stage.connected(here, { token: jwt({ 'x-ably-clientId': 'ada' }) });
    await refused('as somebody else', named.channels.get(name).presence.enterClient('bob'), 40012);
    await named.channels.get(name).presence.enter();
    await counted(stage, name, counts({
      connections: 2, publishers: 2, subscribers: 2, presenceSubscribers: 2, presenceConnections: 1, presenceMembers: 1,
    }));
  });

  story('who does not follow presence is not told of it', async (stage) => {
    const name = stage.channel();
    const watcher = await stage.connected(here);
    const silent = watcher.channels.get(name, { modes: ['SUBSCRIBE', 'PUBLISH'] });
    const inbox = await Inbox.ofPresence(silent);
    const messages = await Inbox.of(silent);
    const client = await stage.connected(here);
    await client.channels.get(name).presence.enterClient('ada');
    await client.channels.get(name).publish('after', 'that');
    await messages.first('the message arrives');
    assert.deepEqual(inbox.items, []);
  });

  story('REST says who is present, in every region', async (stage) => {
    const name = stage.channel();
    const client = await stage.connected(there);
    for (const member of ['ada', 'bob', 'eve']) {
      await client.channels.get(name).presence.enterClient(member, { of: member });
    }
    for (const region of regions) {
      const { presence } = stage.rest(region).channels.get(name);
      const found = await eventually(`three members, in ${region.name}`, async () => {
        const page = await presence.get();
        assert.equal(page.items.length, 3);
        return page.items;
      });
      assert.deepEqual(found.map(say).sort(), ['ada', 'bob', 'eve'].map((of) => ['present', of, { of }]));
      assert.ok(found.every(({ connectionId }) => connectionId === client.connection.id));
      const [ada] = (await presence.get({ clientId: 'ada' })).items;
      assert.equal(ada.clientId, 'ada');
      const first = await presence.get({ limit: 2 });
      assert.equal(first.items.length, 2);
      const rest = await first.next();
      assert.equal(rest.items.length, 1);
    }
    const limited = stage.rest(elsewhere, { token: jwt({ 'x-ably-capability': { [name]: ['publish'] } }) });
    await refused('without the operation', limited.channels.get(name).presence.get(), 40160);
  });

  story('binary and structured data of members arrive as they are', async (stage) => {
    const name = stage.channel();
    const watcher = await stage.connected(here);
    await watcher.channels.get(name).attach();
    const client = await stage.connected(here);
    const bytes = Buffer.from([0, 255, 1, 254]);
    await client.channels.get(name).presence.enterClient('bytes', bytes);
    await client.channels.get(name).presence.enterClient('list', [1, { two: 2 }]);
    await eventually('both are there', async () => {
      const found = Object.fromEntries((await watcher.channels.get(name).presence.get())
        .map(({ clientId, data }) => [clientId, data]));
      assert.deepEqual(found.list, [1, { two: 2 }]);
      assert.deepEqual(Buffer.from(found.bytes), bytes);
    });
  });
});
