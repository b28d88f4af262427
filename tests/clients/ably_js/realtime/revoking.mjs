// Tokens that are revoked before their time.

import assert from 'node:assert/strict';
import { counted, elsewhere, eventually, here, jwt, key, pause, plain, reaches, refused, regions, split,
  story, theme, there, within } from '../stage.mjs';

const REVOKED = 40141;
/** How soon a revocation must be felt everywhere. */
const SOON_MS = 2_000;
/** How much time there is to obtain another token, where that is given. */
const MARGIN_MS = 30_000;

/** Revokes in a region what is of a type and value; returns what is said of it. */
async function revoke(stage, at, type, value, options) {
  const { successCount, failureCount, results } = await stage.rest(at).auth.revokeTokens([{ type, value }], options);
  assert.deepEqual([successCount, failureCount], [1, 0]);
  const [result] = results;
  assert.equal(result.target, `${type}:${value}`);
  return result;
}

/** Waits until connections are cut off, and says that it is for that. */
const cutOff = (...clients) => Promise.all(clients.map(async ({ connection }) => {
  const cut = new Promise((resolve) => connection.once('disconnected', resolve));
  const { reason } = await within('a connection is cut off', cut, SOON_MS);
  assert.equal(reason.code, REVOKED);
}));

/** What a region answers to a token. */
async function answer(at, token) {
  const response = await fetch(`http://127.0.0.1:${at.port}/channels/any`, {
    headers: { authorization: `Bearer ${btoa(token)}` },
  });
  return response.ok ? 'welcome' : (await response.json()).error.code;
}

theme('revoking', () => {
  // First, since it takes half a minute; and once, since nothing of it is written in a format.
  story('who is given time and does not use it is cut off when it is over', async (stage) => {
    const [name, clientId] = [stage.channel(), stage.channel('ada')];
    const tokens = [jwt({ 'x-ably-clientId': clientId })];
    const waiting = [];
    const client = await stage.connected(there, {
      authCallback: (_, done) => (tokens.length ? done(null, tokens.pop()) : waiting.push(done)),
      // It waits for the next token for longer than there is time.
      realtimeRequestTimeout: 2 * MARGIN_MS,
    });
    await client.channels.get(name).attach();
    const { appliesAt } = await revoke(stage, here, 'clientId', clientId, { allowReauthMargin: true });
    const cut = new Promise((resolve) => client.connection.once('disconnected', resolve));
    const { reason } = await within('the connection is cut off', cut, MARGIN_MS + SOON_MS);
    assert.equal(reason.code, REVOKED);
    assert.ok(Date.now() >= appliesAt, 'not before the time is over');
    client.close();
    waiting.forEach((done) => done('nobody waits any more'));
  }, ['json']);

  story('who is given time obtains another token without a break', async (stage) => {
    const [name, clientId] = [stage.channel(), stage.channel('ada')];
    const issuer = stage.rest(here);
    let issued = 0;
    const client = await stage.connected(there, {
      authCallback: (_, done) => {
        issued += 1;
        issuer.auth.requestToken({ clientId }).then((token) => done(null, token), done);
      },
    });
    const other = await stage.connected(there, { token: jwt({ 'x-ably-clientId': stage.channel('bob') }) });
    const { id } = client.connection;
    const [states, others] = [[], []];
    client.connection.on((change) => states.push(change.current));
    other.connection.on((change) => others.push(change.current));
    await client.channels.get(name).presence.enter('here');
    await revoke(stage, elsewhere, 'clientId', clientId, { allowReauthMargin: true });
    await eventually('the server asks for another token', () => assert.equal(issued, 2));
    await eventually('it is taken', () => assert.equal(states.length, 1));
    await client.connection.ping();
    assert.deepEqual([states, client.connection.id], [['connected'], id], 'it was connected all the time');
    await counted(stage, name, plain(1, 1));
    assert.deepEqual([issued, others], [2, []], 'it is asked once, and nobody else is');
  });

  story('connections in all regions end at once, and count no more', async (stage) => {
    const [name, clientId] = [stage.channel(), stage.channel('ada')];
    const tokenDetails = await stage.rest(there).auth.requestToken({ clientId });
    const clients = await Promise.all(regions.map((region) => stage.connected(region, { tokenDetails })));
    const other = await stage.connected(here, { token: jwt({ 'x-ably-clientId': stage.channel('bob') }) });
    await Promise.all([...clients, other].map((client) => client.channels.get(name).attach()));
    await counted(stage, name, plain(regions.length + 1));

    const [{ issuedBefore, appliesAt }] =
      await Promise.all([revoke(stage, elsewhere, 'clientId', clientId), cutOff(...clients)]);
    assert.equal(appliesAt, issuedBefore, 'it applies at once');
    assert.ok(Math.abs(issuedBefore - Date.now()) < 60_000);
    // They have no means to obtain another, and say so themselves.
    await Promise.all(clients.map((client) => eventually('it fails', () =>
      assert.equal(client.connection.errorReason?.code, 40171))));
    assert.equal(other.connection.state, 'connected', 'nobody else is concerned');
    await counted(stage, name, plain(1));
    await Promise.all(regions.map(async (region) => {
      const of = await eventually(`refused in ${region.name}`, async () => {
        const code = await answer(region, tokenDetails.token);
        assert.notEqual(code, 'welcome');
        return code;
      });
      assert.equal(of, REVOKED, region.name);
      const late = stage.client(region, { tokenDetails });
      await eventually('who comes with it is sent away', () => assert.equal(late.connection.state, 'failed'));
    }));
  });

  story('who can obtain another token goes on', async (stage) => {
    const [name, clientId] = [stage.channel(), stage.channel('ada')];
    const issuer = stage.rest(here);
    let issued = 0;
    const client = await stage.connected(there, {
      authCallback: (_, done) => {
        issued += 1;
        issuer.auth.requestToken({ clientId }).then((token) => done(null, token), done);
      },
    });
    const channel = client.channels.get(name);
    await channel.presence.enter('here');
    await counted(stage, name, plain(1, 1));
    await Promise.all([revoke(stage, here, 'clientId', clientId), cutOff(client)]);
    await reaches(client.connection, 'connected');
    assert.equal(issued, 2);
    await reaches(channel, 'attached');
    await counted(stage, name, plain(1, 1));
    await channel.publish('still', 'here');
  });

  story('tokens are revoked by key of revocation, or by channel', async (stage) => {
    const [family, name] = [stage.channel('family'), stage.channel()];
    const of = (claims) => stage.connected(here, { token: jwt(claims) });
    const relative = await of({ 'x-ably-revocation-key': family });
    const guest = await of({ 'x-ably-capability': { [name]: ['subscribe'] } });
    const passer = await of({ 'x-ably-capability': { '*': ['subscribe'] } });
    await Promise.all([revoke(stage, there, 'revocationKey', family), cutOff(relative)]);
    assert.equal(guest.connection.state, 'connected');
    await Promise.all([revoke(stage, there, 'channel', name), cutOff(guest)]);
    await pause(500, 'a wildcard names no channel');
    assert.equal(passer.connection.state, 'connected');
  });

  story('what was issued later is good, and time may be given', async (stage) => {
    const clientId = stage.channel('ada');
    const token = jwt({ 'x-ably-clientId': clientId });
    const client = await stage.connected(here, { token });
    await revoke(stage, here, 'clientId', clientId, { issuedBefore: Date.now() - 60_000 });
    const { issuedBefore, appliesAt } =
      await revoke(stage, here, 'clientId', clientId, { allowReauthMargin: true });
    assert.equal(appliesAt - issuedBefore, MARGIN_MS);
    // It is asked for another token, and says itself that it has no means to obtain one.
    await eventually('it fails', () => assert.equal(client.connection.errorReason?.code, 40171));
    assert.equal(await answer(there, token), 'welcome');
  });

  story('only a key may revoke, and only its own tokens', async (stage) => {
    const { name } = split(key);
    const post = async (authorization, body, whose = name) => {
      const response = await fetch(`http://127.0.0.1:${here.port}/keys/${whose}/revokeTokens`, {
        method: 'POST',
        headers: { authorization, 'content-type': 'application/json' },
        body: JSON.stringify(body),
      });
      return response.ok ? response.json() : (await response.json()).error.code;
    };
    const basic = `Basic ${btoa(key)}`;
    const fine = { targets: [`clientId:${stage.channel('nobody')}`] };
    assert.equal(await post(`Bearer ${btoa(jwt({}))}`, fine), 40162);
    assert.equal(await post(basic, fine, `${name}x`), 40102);
    assert.equal(await post(basic, { targets: [] }), 40003);
    const [one, other] = await post(basic, { targets: [...fine.targets, 'nonsense:x'] });
    assert.equal(one.target, fine.targets[0]);
    assert.equal(other.error.code, 40003);
    await refused('without a key', stage.rest(here, { token: jwt({}) }).auth.revokeTokens([
      { type: 'clientId', value: 'nobody' }]), 40162);
  }, ['json']);
});
