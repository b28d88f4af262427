// The recipes of the repository's README, word for word, with names of channels that nobody else uses.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { Inbox, counted, eventually, here, pause, plain, story, theme, there } from '../stage.mjs';

const readme = readFileSync(new URL('../../../../README.md', import.meta.url), 'utf8');

/** The code below a heading of the README. */
function code(heading) {
  const [, after] = readme.split(`\n### ${heading}\n`);
  assert.ok(after, `the README has no recipe "${heading}"`);
  return after.match(/```js\n([^]*?)```/)[1];
}

/** Cooks a recipe: `renamed` says which names of channels are written otherwise. */
async function cook(heading, renamed, { ably, log = () => {} }) {
  let text = code(heading);
  for (const [from, to] of Object.entries(renamed)) {
    assert.ok(text.includes(`'${from}'`), `"${heading}" names '${from}'`);
    text = text.replaceAll(`'${from}'`, JSON.stringify(to));
  }
  const AsyncFunction = (async () => {}).constructor;
  await new AsyncFunction('ably', 'console', text)(ably, { log });
}

/** How often the first recipe publishes. */
const TICK_MS = 250;

theme('recipes', () => {
  story('publish only while somebody subscribes', async (stage) => {
    const name = stage.channel('prices');
    const ably = await stage.connected(here);
    const said = [];
    const channel = ably.channels.get(name);
    const publish = channel.publish.bind(channel);
    channel.publish = (...message) => said.push(message) && publish(...message);
    await cook('Publish only while somebody subscribes', { prices: name }, { ably });

    const told = await Inbox.of(channel, '[meta]occupancy');
    const reader = (await stage.connected(here)).channels.get(name);
    await pause(2 * TICK_MS, 'nobody listens yet');
    assert.deepEqual(said, []);
    const inbox = await Inbox.of(reader);
    await inbox.first('a price arrives', (message) => message.name === 'price');
    await reader.detach();
    await told.until('nobody listens any more', (items) => assert.equal(items.at(-1)?.data.metrics.subscribers, 0));
    const before = said.length;
    await pause(2 * TICK_MS, 'it is silent');
    assert.equal(said.length, before);
  });

  story('watch channels open and close', async (stage) => {
    const name = stage.channel();
    const lines = [];
    await cook('Watch channels open and close', {}, {
      ably: await stage.connected(there),
      log: (...words) => lines.push(words),
    });
    const channel = (await stage.connected(here)).channels.get(name);
    await channel.attach();
    await counted(stage, name, plain(1));
    await channel.detach();
    await eventually('both are told', () => {
      const told = lines.filter((words) => words.includes(name));
      assert.deepEqual(told.map(([, event]) => event), ['channel.opened', 'channel.closed']);
    });
  });

  story('list all active channels', async (stage) => {
    const prefix = stage.channel('list:');
    const names = Array.from({ length: 5 }, (_, index) => `${prefix}${index}`);
    const client = await stage.connected(here);
    await Promise.all(names.map((name) => client.channels.get(name).attach()));
    const ably = await stage.connected(there);
    await eventually('all are listed', async () => {
      const lines = [];
      await cook('List all active channels', { 'room:': prefix }, { ably, log: (line) => lines.push(line) });
      assert.deepEqual(lines, names);
    });
  });
});
