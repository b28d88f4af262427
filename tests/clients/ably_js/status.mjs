// The npm package `ably`, unmodified, asks every region for the status of channels and pages
// through the list of them, in JSON and MessagePack. All answers must be the same and as expected.
//
// Environment: see ../README.md.

import assert from 'node:assert/strict';
import * as Ably from 'ably';

const ports = process.env.HEADCOUNT_PORTS.split(',').map(Number);
const key = process.env.HEADCOUNT_KEY;
const expected = JSON.parse(process.env.HEADCOUNT_EXPECT);
const prefix = process.env.HEADCOUNT_PREFIX;
const names = Object.keys(expected).sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
const PATIENCE_MS = 30_000;

/** Calls `check` until it no longer throws; its last error is told when patience ends. */
async function eventually(why, check) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > deadline) {
        throw new Error(`${why}: not within ${PATIENCE_MS} ms`, { cause: error });
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

function connect(port, useBinaryProtocol, credential = { key }) {
  return new Ably.Rest({
    ...credential,
    endpoint: '127.0.0.1',
    port,
    tls: false,
    useBinaryProtocol,
    fallbackHosts: [],
    logLevel: 0,
  });
}

/** Follows `next` from the first page to the end. */
async function list(rest, by, version) {
  let page = await rest.request('get', '/channels', version, { by, prefix, limit: 2 });
  const items = [];
  for (;;) {
    assert.equal(page.statusCode, 200, JSON.stringify(page));
    assert.ok(page.items.length <= 2);
    items.push(...page.items);
    if (!page.hasNext()) {
      return items;
    }
    page = await page.next();
  }
}

const seen = [];
for (const port of ports) {
  for (const binary of [false, true]) {
    const where = `port ${port}, ${binary ? 'msgpack' : 'json'}`;
    const rest = connect(port, binary);
    const details = {};

    // Counts travel; wait for the last of them to arrive in this region.
    for (const name of names) {
      details[name] = await eventually(`${where}: ${name}`, async () => {
        const found = await rest.channels.get(name).status();
        assert.deepEqual(found.status.occupancy.metrics, expected[name]);
        return found;
      });
      assert.equal(details[name].channelId, name, where);
      assert.equal(details[name].name, name, where);
      assert.equal(details[name].status.isActive, true, where);
      assert.equal(details[name].isGlobalMaster, true, where);
    }

    // Asking does not activate.
    const nobody = await rest.channels.get(`${prefix}nobody`).status();
    assert.equal(nobody.status.isActive, false, where);
    assert.ok(Object.values(nobody.status.occupancy.metrics).every((count) => count === 0), where);
    assert.equal(Object.keys(nobody.status.occupancy.metrics).length, 8, where);

    assert.deepEqual(await list(rest, 'id', 3), names, where);
    assert.deepEqual(await list(rest, undefined, 3), names, `${where}: ids by default`);
    const values = await list(rest, 'value', 6);
    assert.deepEqual(values.map((value) => value.channelId), names, where);
    for (const value of values) {
      assert.deepEqual(value.status, details[value.channelId].status, where);
    }
    const old = await list(rest, undefined, 2);
    assert.deepEqual(old.map((value) => value.channelId), names, `${where}: values by default`);
    seen.push(details);

    // Errors arrive as errors, with their codes.
    const refused = await rest.request('get', '/channels', 3, { limit: 0 });
    assert.deepEqual([refused.success, refused.statusCode, refused.errorCode], [false, 400, 40003], where);
    const stranger = connect(port, binary, { key: key.replace(/:.*/, ':wrong') });
    await assert.rejects(stranger.channels.get(names[0]).status(), { code: 40101, statusCode: 401 }, where);

    // A token, asked for by the client with a signed request, cut to one channel.
    const capability = { [names[0]]: ['channel-metadata'] };
    const token = await rest.auth.requestToken({ capability, clientId: 'somebody' });
    assert.equal(token.clientId, 'somebody', where);
    const limited = connect(port, binary, { token });
    await limited.channels.get(names[0]).status();
    await assert.rejects(limited.channels.get(names[1]).status(), { code: 40160, statusCode: 401 }, where);
    const all = await limited.request('get', '/channels', 3, {});
    assert.deepEqual([all.statusCode, all.errorCode], [401, 40160], where);

    const now = await rest.time();
    assert.ok(Math.abs(now - Date.now()) < 60_000, where);
  }
}
for (const details of seen) {
  assert.deepEqual(
    Object.values(details).map((found) => found.status),
    Object.values(seen[0]).map((found) => found.status),
    'all regions and formats say the same',
  );
}
console.log(`ably-js: ${names.length} channels in ${ports.length} regions agree`);
