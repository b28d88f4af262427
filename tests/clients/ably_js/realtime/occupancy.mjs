// A channel's occupancy, told in band to whoever asked for it when attaching.

import assert from 'node:assert/strict';
import { Inbox, PACE_MS, counted, counts, elsewhere, here, jwt, plain, refused, regions, story, theme,
  there } from '../stage.mjs';

const EVENT = '[meta]occupancy';
const following = (what = 'metrics', rest = {}) => ({ params: { occupancy: what }, ...rest });
const readOnly = counts({ connections: 1, subscribers: 1 });

/** Waits until the newest event tells these counts. */
const settles = (inbox, why, metrics) =>
  inbox.until(why, (items) => assert.deepEqual(items.at(-1)?.data.metrics, metrics));

theme('occupancy', () => {
  story('the first event includes who asked for it', async (stage) => {
    await Promise.all(regions.map(async (region) => {
      const client = await stage.connected(region);
      const channel = client.channels.get(stage.channel(), following());
      const inbox = await Inbox.of(channel, EVENT);
      assert.deepEqual(channel.params, { occupancy: 'metrics' }, 'the param is echoed');
      const first = await inbox.first('the first event');
      assert.deepEqual(first.data, { metrics: plain(1) });
      assert.equal(first.name, EVENT);
      assert.equal(first.action, 'meta');
      assert.equal(first.clientId, undefined);
      assert.equal(first.connectionId, undefined);
      assert.ok(Math.abs(first.timestamp - Date.now()) < 60_000);
    }));
  });

  story('the first event includes everybody in every region', async (stage) => {
    const name = stage.channel();
    const others = await Promise.all(regions.map((region) => stage.connected(region)));
    await Promise.all(others.map((client) => client.channels.get(name).attach()));
    await counted(stage, name, plain(3));
    const watcher = await stage.connected(there);
    const inbox = await Inbox.of(watcher.channels.get(name, following()), EVENT);
    const first = await inbox.first('the first event');
    assert.deepEqual(first.data.metrics, plain(4));
  });

  story('whoever subscribes to everything gets it too', async (stage) => {
    const client = await stage.connected(there);
    const inbox = await Inbox.of(client.channels.get(stage.channel(), following()));
    const first = await inbox.first('the first event');
    assert.equal(first.name, EVENT);
  });

  story('whoever only publishes gets it too, without being a subscriber', async (stage) => {
    const name = stage.channel();
    const publisher = await stage.connected(here);
    const options = following('metrics.subscribers', { modes: ['PUBLISH'] });
    const inbox = await Inbox.of(publisher.channels.get(name, options), EVENT);
    await settles(inbox, 'nobody subscribes', { subscribers: 0 });
    const reader = await stage.connected(there);
    await reader.channels.get(name).attach();
    await settles(inbox, 'somebody subscribes', { subscribers: 1 });
    await counted(stage, name, { ...plain(1), connections: 2, publishers: 2 });
  });

  story('zero and not zero are told at once', async (stage) => {
    const name = stage.channel();
    const watcher = await stage.connected(here);
    const inbox = await Inbox.of(watcher.channels.get(name, following('metrics', { modes: ['SUBSCRIBE'] })), EVENT);
    await settles(inbox, 'alone', readOnly);

    const publisher = await stage.connected(elsewhere);
    const channel = publisher.channels.get(name, { modes: ['PUBLISH'] });
    for (let round = 0; round < 2; round += 1) {
      const arrived = Date.now();
      await channel.attach();
      await settles(inbox, 'a publisher comes', counts({ connections: 2, publishers: 1, subscribers: 1 }));
      assert.ok(Date.now() - arrived < PACE_MS / 2, `the first publisher was told after ${Date.now() - arrived} ms`);
      const left = Date.now();
      await channel.detach();
      await settles(inbox, 'it leaves', readOnly);
      assert.ok(Date.now() - left < PACE_MS / 2, `the last one's end was told after ${Date.now() - left} ms`);
    }
  });

  story('of a burst the last value arrives, and few before it', async (stage) => {
    const name = stage.channel();
    const watcher = await stage.connected(there);
    const inbox = await Inbox.of(watcher.channels.get(name, following()), EVENT);
    const crowd = await Promise.all(Array.from({ length: 12 }, (_, index) => stage.connected(regions[index % 3])));
    await Promise.all(crowd.map((client) => client.channels.get(name).attach()));
    await settles(inbox, 'all have come', plain(13));
    await Promise.all(crowd.slice(0, 7).map((client) => client.channels.get(name).detach()));
    await settles(inbox, 'some have left', plain(6));
    await counted(stage, name, plain(6));
    assert.ok(inbox.items.length <= 8, `19 changes were told in ${inbox.items.length} events`);
  });

  story('each category can be followed alone', async (stage) => {
    const client = await stage.connected(here);
    const everything = plain(1);
    await Promise.all(Object.keys(everything).map(async (category) => {
      const channel = client.channels.get(stage.channel(category), following(`metrics.${category}`));
      const inbox = await Inbox.of(channel, EVENT);
      assert.deepEqual(channel.params, { occupancy: `metrics.${category}` });
      const first = await inbox.first(category);
      assert.deepEqual(first.data, { metrics: { [category]: everything[category] } });
    }));
  });

  story('who follows one category hears of its changes', async (stage) => {
    const name = stage.channel();
    const watcher = await stage.connected(here);
    const options = following('metrics.publishers', { modes: ['SUBSCRIBE'] });
    const inbox = await Inbox.of(watcher.channels.get(name, options), EVENT);
    await settles(inbox, 'nobody publishes', { publishers: 0 });
    const reader = await stage.connected(there);
    await reader.channels.get(name, { modes: ['SUBSCRIBE'] }).attach();
    const publisher = await stage.connected(elsewhere);
    await publisher.channels.get(name, { modes: ['PUBLISH'] }).attach();
    await settles(inbox, 'somebody publishes', { publishers: 1 });
    await publisher.channels.get(name).detach();
    await settles(inbox, 'nobody publishes again', { publishers: 0 });
    for (const { metrics } of inbox.data) {
      assert.deepEqual(Object.keys(metrics), ['publishers']);
    }
  });

  story('members are told as they come and go', async (stage) => {
    const name = stage.channel();
    const watcher = await stage.connected(there);
    const inbox = await Inbox.of(watcher.channels.get(name, following('metrics.presenceMembers')), EVENT);
    const client = await stage.connected(here);
    const { presence } = client.channels.get(name);
    await presence.enterClient('ada');
    await settles(inbox, 'ada is there', { presenceMembers: 1 });
    await presence.enterClient('bob');
    await presence.enterClient('eve');
    await settles(inbox, 'all are there', { presenceMembers: 3 });
    await client.channels.get(name).detach();
    await settles(inbox, 'all have left', { presenceMembers: 0 });
  });

  story('it can be asked for and given up while attached', async (stage) => {
    const name = stage.channel();
    const client = await stage.connected(here);
    const channel = client.channels.get(name);
    const inbox = await Inbox.of(channel, EVENT);
    await channel.setOptions(following());
    await settles(inbox, 'it is asked for', plain(1));
    await channel.setOptions({ params: {} });
    assert.deepEqual(channel.params, {});
    const told = inbox.items.length;

    // Somebody else is told what happens next; then it would have been told here too.
    const other = await stage.connected(here);
    const control = await Inbox.of(other.channels.get(name, following()), EVENT);
    await settles(control, 'another comes', plain(2));
    const third = await stage.connected(here);
    await third.channels.get(name).attach();
    await settles(control, 'a third comes', plain(3));
    await client.connection.ping();
    assert.equal(inbox.items.length, told, 'nothing is told to who gave it up');
  });

  story('a qualifier of the name asks for it as well', async (stage) => {
    const name = stage.channel();
    const client = await stage.connected(there);
    const inbox = await Inbox.of(client.channels.get(`[?occupancy=metrics]${name}`), EVENT);
    await settles(inbox, 'alone', plain(1));
    await counted(stage, name, plain(1), 'it counts on the channel itself');
    const other = await stage.connected(here);
    await other.channels.get(name).attach();
    await settles(inbox, 'two', plain(2));
  });

  story('a value that there is not asks for nothing', async (stage) => {
    const client = await stage.connected(there);
    for (const value of ['everything', 'metrics.everybody', 'metrics.publishers,metrics.subscribers']) {
      const channel = client.channels.get(stage.channel(), following(value));
      await channel.attach();
      assert.deepEqual(channel.params, {}, value);
    }
  });

  story('it needs the operation channel-metadata', async (stage) => {
    const [open, secret] = [stage.channel('open'), stage.channel('secret')];
    const capability = { [open]: ['subscribe', 'channel-metadata'], [secret]: ['subscribe'] };
    const client = await stage.connected(here, { token: jwt({ 'x-ably-capability': capability }) });
    await refused('without it', client.channels.get(secret, following()).attach(), 40160);
    await refused('without it, by a qualifier', client.channels.get(`[?occupancy=metrics]${secret}`).attach(), 40160);
    const inbox = await Inbox.of(client.channels.get(open, following()), EVENT);
    await settles(inbox, 'with it', counts({ connections: 1, subscribers: 1, presenceSubscribers: 1 }));
    await client.channels.get(secret).setOptions({ params: {} });
    await client.channels.get(secret).attach();
    assert.equal(client.connection.state, 'connected');
  });

  story('it is not stored', async (stage) => {
    const name = stage.channel();
    const client = await stage.connected(here);
    const inbox = await Inbox.of(client.channels.get(name, following()), EVENT);
    await settles(inbox, 'alone', plain(1));
    await client.channels.get(name).publish('real', 'message');
    const late = await stage.connected(here);
    const rewound = await Inbox.of(late.channels.get(name, { params: { rewind: '10' } }));
    await rewound.first('the message comes again', (message) => message.name === 'real');
    assert.deepEqual(rewound.items.map((message) => message.name), ['real']);
    const history = await stage.rest(here).channels.get(name).history();
    assert.deepEqual(history.items.map((message) => message.name), ['real']);
  });
});
