// Libraries that are built on realtime clients: @ably/chat and @ably/spaces.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { ChatClient } from '@ably/chat';
import { counted, elsewhere, eventually, here, plain, story, theme, there, within } from '../stage.mjs';

// Its build for modules leaves out the endings that Node.js wants.
const { default: Spaces } = createRequire(import.meta.url)('@ably/spaces');

theme('applications', () => {
  story('a chat room tells who is in it', async (stage) => {
    const title = stage.channel('chat');
    const enter = async (region, clientId) => {
      const chat = new ChatClient(await stage.connected(region, { clientId }));
      const room = await chat.rooms.get(title, { occupancy: { enableEvents: true } });
      const told = [];
      room.occupancy.subscribe(({ occupancy }) => told.push(occupancy));
      await within(`${clientId} enters the room`, room.attach());
      return { chat, room, told };
    };
    const ada = await enter(here, 'ada');
    await eventually('she is told that she is there', () =>
      assert.deepEqual(ada.told.at(-1), { connections: 1, presenceMembers: 0 }));
    const bob = await enter(there, 'bob');
    await bob.room.presence.enter({ mood: 'good' });
    for (const { room, told } of [ada, bob]) {
      await eventually('both are told of both', () =>
        assert.deepEqual(told.at(-1), { connections: 2, presenceMembers: 1 }));
      assert.deepEqual(room.occupancy.current, { connections: 2, presenceMembers: 1 });
    }
    await counted(stage, `${title}::$chat`, plain(2, 1));
    await bob.chat.rooms.release(title);
    await eventually('she is told that he left', () =>
      assert.deepEqual(ada.told.at(-1), { connections: 1, presenceMembers: 0 }));
  });

  story('a chat room can be asked who is in it', async (stage) => {
    const title = stage.channel('chat');
    const chat = new ChatClient(await stage.connected(here, { clientId: 'ada' }));
    const room = await chat.rooms.get(title, { occupancy: { enableEvents: true } });
    await room.attach();
    await room.presence.enter();
    await counted(stage, `${title}::$chat`, plain(1, 1));
    assert.deepEqual(await room.occupancy.get(), { connections: 1, presenceMembers: 1 });
    const distant = new ChatClient(await stage.connected(elsewhere, { clientId: 'eve' }));
    const closed = await distant.rooms.get(title);
    assert.deepEqual(await closed.occupancy.get(), { connections: 1, presenceMembers: 1 });
  });

  for (const [where, other] of [['in one region', here], ['across regions', there]]) {
    story(`a space knows its members and where they are, ${where}`, async (stage) => {
      const title = stage.channel('space');
      const enter = async (region, clientId) => {
        const spaces = new Spaces(await stage.connected(region, { clientId }));
        // Who left is remembered for so long; a story does not wait for two minutes.
        const space = await spaces.get(title, { offlineTimeout: 500 });
        await within(`${clientId} enters the space`, space.enter({ name: clientId }));
        return space;
      };
      const [ada, bob] = [await enter(here, 'ada'), await enter(other, 'bob')];
      const who = async (space) => (await space.members.getAll())
        .filter(({ isConnected }) => isConnected)
        .map(({ clientId, profileData, location }) => [clientId, profileData, location])
        .sort();
      const both = [['ada', { name: 'ada' }, null], ['bob', { name: 'bob' }, null]];
      for (const space of [ada, bob]) {
        await eventually('both see both', async () => assert.deepEqual(await who(space), both));
      }
      await counted(stage, `${title}::$space`, plain(2, 2));

      const moves = [];
      ada.locations.subscribe('update', ({ member, currentLocation }) =>
        moves.push([member.clientId, currentLocation]));
      await bob.locations.set({ slide: 3 });
      await eventually('she sees where he is', async () => {
        assert.deepEqual(moves.at(-1), ['bob', { slide: 3 }]);
        assert.deepEqual(await who(ada), [both[0], ['bob', { name: 'bob' }, { slide: 3 }]]);
      });
      await bob.leave();
      await eventually('she sees that he left', async () => assert.deepEqual(await who(ada), [both[0]]));
      await ada.leave();
      for (const space of [ada, bob]) {
        await eventually('nobody is remembered', async () => assert.deepEqual(await space.members.getAll(), []));
      }
    });
  }
});
