// What an attachment counts as: modes, capabilities, names, and how many there may be.

import assert from 'node:assert/strict';
import { counted, counts, here, jwt, plain, refused, regions, story, theme, there } from '../stage.mjs';

/** Modes that a client may ask for, and what one attachment with them counts as. */
const MODES = [
  [['PUBLISH'], { publishers: 1 }],
  [['SUBSCRIBE'], { subscribers: 1 }],
  [['PRESENCE'], { presenceConnections: 1 }],
  [['PRESENCE_SUBSCRIBE'], { presenceSubscribers: 1 }],
  [['OBJECT_PUBLISH'], { objectPublishers: 1 }],
  [['OBJECT_SUBSCRIBE'], { objectSubscribers: 1 }],
  [['PUBLISH', 'PRESENCE_SUBSCRIBE'], { publishers: 1, presenceSubscribers: 1 }],
  [['SUBSCRIBE', 'OBJECT_PUBLISH', 'OBJECT_SUBSCRIBE'], { subscribers: 1, objectPublishers: 1, objectSubscribers: 1 }],
];
const lower = (modes) => modes.map((mode) => mode.toLowerCase()).sort();

theme('attaching', () => {
  story('an attachment counts in all regions until it is detached', async (stage) => {
    const name = stage.channel();
    const clients = await Promise.all(regions.map((region) => stage.connected(region)));
    for (const [index, client] of clients.entries()) {
      const channel = client.channels.get(name);
      await channel.attach();
      assert.deepEqual(channel.modes.sort(),
        ['annotation_publish', 'presence', 'presence_subscribe', 'publish', 'subscribe'], 'the default modes');
      await counted(stage, name, plain(index + 1));
    }
    for (const [index, client] of clients.entries()) {
      await client.channels.get(name).detach();
      await counted(stage, name, plain(clients.length - 1 - index));
    }
  });

  story('modes decide which of the eight counts it adds to', async (stage) => {
    const client = await stage.connected(there);
    await Promise.all(MODES.map(async ([modes, own]) => {
      const channel = client.channels.get(stage.channel(modes.join('+')), { modes });
      await channel.attach();
      assert.deepEqual(channel.modes.sort(), lower(modes));
      await counted(stage, channel.name, counts({ connections: 1, ...own }));
    }));
  });

  story('modes may be params too, which win', async (stage) => {
    const client = await stage.connected(here);
    await Promise.all(MODES.map(async ([modes, own]) => {
      const params = { modes: lower(modes).join(',') };
      const channel = client.channels.get(stage.channel(params.modes), { params, modes: ['PUBLISH'] });
      await channel.attach();
      assert.deepEqual(channel.modes.sort(), lower(modes));
      assert.deepEqual(channel.params, params, 'they are echoed');
      await counted(stage, channel.name, counts({ connections: 1, ...own }));
    }));
  });

  story('attaching again changes modes in place', async (stage) => {
    const client = await stage.connected(there);
    const channel = client.channels.get(stage.channel());
    await channel.attach();
    await counted(stage, channel.name, plain(1));
    const states = [];
    channel.on((change) => states.push(change.current));
    for (const [modes, own] of MODES) {
      await channel.setOptions({ modes });
      assert.deepEqual(channel.modes.sort(), lower(modes));
      await counted(stage, channel.name, counts({ connections: 1, ...own }), modes.join('+'));
    }
    assert.ok(!states.includes('detached'), `it was attached all the time: ${states}`);
  });

  story('a capability cuts the modes', async (stage) => {
    const cases = [
      [['subscribe'], ['presence_subscribe', 'subscribe'], { subscribers: 1, presenceSubscribers: 1 }],
      [['publish'], ['publish'], { publishers: 1 }],
      [['presence'], ['presence'], { presenceConnections: 1 }],
      [['publish', 'presence', 'history'], ['presence', 'publish'], { publishers: 1, presenceConnections: 1 }],
    ];
    await Promise.all(cases.map(async ([operations, modes, own]) => {
      const name = stage.channel(operations.join('+'));
      const client = await stage.connected(here, { token: jwt({ 'x-ably-capability': { [name]: operations } }) });
      const channel = client.channels.get(name);
      await channel.attach();
      assert.deepEqual(channel.modes.sort(), modes);
      await counted(stage, name, counts({ connections: 1, ...own }));
    }));
  });

  story('what a capability permits nothing of cannot be attached', async (stage) => {
    const [silent, read, write] = ['silent', 'read', 'write'].map((name) => stage.channel(name));
    const capability = { [silent]: ['history', 'channel-metadata'], [read]: ['subscribe'], [`${write}:*`]: ['*'] };
    const client = await stage.connected(here, { token: jwt({ 'x-ably-capability': capability }) });
    await refused('a channel of which nothing is attached', client.channels.get(silent).attach(), 40160);
    await refused('a channel that is not named', client.channels.get(stage.channel('other')).attach(), 40160);
    await refused('modes that are not permitted',
      client.channels.get(read, { modes: ['PUBLISH', 'PRESENCE'] }).attach(), 40160);
    await client.channels.get(`${write}:below:it`).attach();
    assert.equal(client.connection.state, 'connected', 'the connection goes on');
    await counted(stage, silent, counts());
  });

  story('what was not asked for cannot be done', async (stage) => {
    const client = await stage.connected(here);
    const channel = client.channels.get(stage.channel(), { modes: ['SUBSCRIBE'] });
    await channel.attach();
    await refused('publishing without the mode', channel.publish('no', 'more'), 40165);
    await refused('entering without the mode', channel.presence.enterClient('ada'), 40165);
    await counted(stage, channel.name, counts({ connections: 1, subscribers: 1 }));
  });

  story('a bad name fails its channel, and nothing else', async (stage) => {
    const client = await stage.connected(there);
    const { id } = client.connection;
    const good = client.channels.get(stage.channel());
    await good.attach();
    for (const name of [':hell', '[nonsense]x', '[?rewind=1', 'a\nb', '[]x']) {
      await refused(`the name ${JSON.stringify(name)}`, client.channels.get(name).attach(), 40010);
    }
    await good.publish('still', 'here');
    assert.equal(client.connection.id, id);
    assert.equal(client.connection.state, 'connected');
  });

  story('any other name will do', async (stage) => {
    const client = await stage.connected(there);
    const odd = ['with blank', 'a,b/ü?c=d&e#f', '100%', '日本語', 'foo*', '*', '"quoted"', 'x'.repeat(1_500)];
    await Promise.all(odd.map(async (suffix) => {
      const name = stage.channel(suffix);
      await client.channels.get(name).attach();
      await counted(stage, name, plain(1));
    }));
  });

  story('a connection has so many channels and no more', async (stage) => {
    const MOST = 200;
    const client = await stage.connected(here);
    const channels = Array.from({ length: MOST }, (_, index) => client.channels.get(stage.channel(`${index}`)));
    await Promise.all(channels.map((channel) => channel.attach()));
    const more = client.channels.get(stage.channel('more'));
    await refused('one more', more.attach(), 90010);
    assert.equal(client.connection.state, 'connected', 'the connection goes on');
    await channels[0].detach();
    await more.attach();
    await counted(stage, more.name, plain(1));
  });

  story('unknown params are dropped', async (stage) => {
    const client = await stage.connected(here);
    const channel = client.channels.get(stage.channel(), { params: { nonexistent: 'foo', agent: 'x/1' } });
    await channel.attach();
    assert.deepEqual(channel.params, {});
    const bad = client.channels.get(stage.channel('bad'), { params: { modes: 'fly' } });
    await refused('a mode that there is not', bad.attach(), 40003);
  });

  story('one connection may attach one channel under two spellings, and counts once', async (stage) => {
    const name = stage.channel();
    const client = await stage.connected(here);
    const [bare, qualified] = [client.channels.get(name), client.channels.get(`[?rewind=1]${name}`)];
    await bare.attach();
    await qualified.attach();
    await counted(stage, name, plain(1));
    await qualified.detach();
    assert.equal(bare.state, 'attached');
    await counted(stage, name, plain(1));
    await bare.detach();
    await counted(stage, name, counts());
  });
});
