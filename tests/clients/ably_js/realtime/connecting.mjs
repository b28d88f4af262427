// Who may connect, as whom, and for how long.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { Inbox, counted, counts, elsewhere, eventually, here, jwt, key, plain, reaches, refused, regions,
  split, story, theme, there } from '../stage.mjs';

/** Waits until a client has failed; returns why. */
async function failure(client) {
  return (await reaches(client.connection, 'failed')).reason;
}

theme('connecting', () => {
  story('a key connects to every region', async (stage) => {
    const connections = await Promise.all(regions.map((region) => stage.connected(region)));
    const ids = new Set(connections.map(({ connection }) => connection.id));
    assert.equal(ids.size, regions.length, 'each connection has an id of its own');
  });

  story('a token that the client asked for connects', async (stage) => {
    const tokenDetails = await stage.rest(there).auth.requestToken({ clientId: 'ada', capability: { '*': ['*'] } });
    assert.equal(tokenDetails.clientId, 'ada');
    const client = await stage.connected(here, { tokenDetails });
    assert.equal(client.auth.clientId, 'ada');
  });

  story('a signed request from somebody else becomes a token', async (stage) => {
    const signer = stage.rest(here);
    const client = await stage.connected(elsewhere, {
      authCallback: (params, done) => {
        signer.auth.createTokenRequest({ ...params, clientId: 'ada' }).then((request) => done(null, request), done);
      },
    });
    assert.equal(client.auth.clientId, 'ada');
  });

  story('a JWT connects, whether its capability is text or an object', async (stage) => {
    const mine = stage.channel('mine');
    const capability = { [mine]: ['subscribe'] };
    for (const claim of [JSON.stringify(capability), capability]) {
      const token = jwt({ 'x-ably-capability': claim, 'x-ably-clientId': 'ada' });
      const client = await stage.connected(there, { token });
      assert.equal(client.auth.clientId, 'ada');
      await client.channels.get(mine).attach();
      await refused('a channel beyond the capability', client.channels.get(stage.channel('other')).attach(), 40160);
      assert.equal(client.connection.state, 'connected', 'the connection goes on');
    }
  });

  story('a JWT without a capability may what its key may', async (stage) => {
    const client = await stage.connected(here, { token: jwt({}) });
    await client.channels.get(stage.channel()).attach();
    assert.ok(!client.auth.clientId, 'without a claim it is nobody');
  });

  story('bad credentials fail with their codes', async (stage) => {
    const { name } = split(key);
    const app = name.split('.')[0];
    const wrong = { name, secret: 'not-the-secret' };
    const cases = [
      ['a wrong secret', { key: `${name}:not-the-secret` }, 40101],
      ['a key that is not there', { key: `${app}.nobody:not-the-secret` }, 40101],
      ['an app that is not there', { key: 'nowhere.nobody:not-the-secret' }, 40101],
      ['a token that cannot be read', { token: 'nonsense' }, 40005],
    ];
    for (const [what, credential, code] of cases) {
      assert.equal((await failure(stage.client(here, credential))).code, code, what);
    }
    // A client renews what it can when a token is refused; these it cannot, and it says so itself.
    const past = Math.floor(Date.now() / 1000) - 60;
    const tokens = [
      ['a JWT that is wrongly signed', jwt({}, wrong)],
      ['a JWT of a key that is not there', jwt({}, { name: `${app}.nobody`, secret: 'x' })],
      ['a JWT that has ended', jwt({ iat: past - 60, exp: past })],
    ];
    for (const [what, token] of tokens) {
      assert.equal((await failure(stage.client(here, { token }))).code, 40171, what);
    }
  });

  story('a token that is refused is renewed once', async (stage) => {
    const past = Math.floor(Date.now() / 1000) - 60;
    const tokens = [jwt({ iat: past - 60, exp: past }), jwt({})];
    const asked = [];
    const client = await stage.connected(here, {
      authCallback: (_, done) => {
        asked.push(tokens[asked.length]);
        done(null, asked.at(-1));
      },
    });
    assert.equal(asked.length, 2, 'one token was refused, and one more was asked for');
    assert.equal(client.connection.errorReason, null);
  });

  story('a credential decides who its client is', async (stage) => {
    const name = stage.channel();
    const free = await stage.connected(here);
    assert.equal(free.auth.clientId, '*', 'a key may be anybody');
    const fixed = await stage.connected(here, { clientId: 'ada' });
    assert.equal(fixed.auth.clientId, 'ada', 'who says who it is, is that');
    const wildcard = await stage.connected(there, { token: jwt({ 'x-ably-clientId': '*' }), clientId: 'bob' });
    assert.equal(wildcard.auth.clientId, 'bob', 'a token for anybody is anybody');

    const nobody = await stage.connected(there, { token: jwt({}) });
    const channel = nobody.channels.get(name);
    await channel.attach();
    await refused('somebody without a name enters', channel.presence.enterClient('eve'), 40012);
    await refused('somebody without a name publishes as eve', channel.publish({ data: 'no', clientId: 'eve' }), 40012);

    // Its token is opaque to the client, so only the server can find out.
    const mismatched = stage.client(here, { token: jwt({ 'x-ably-clientId': 'ada' }), clientId: 'eve' });
    assert.equal((await failure(mismatched)).code, 40102, 'a token of another client');
  });

  story('messages carry who published them', async (stage) => {
    const name = stage.channel();
    const reader = await stage.connected(there);
    const inbox = await Inbox.of(reader.channels.get(name));
    await counted(stage, name, plain(1));
    const ada = await stage.connected(here, { clientId: 'ada' });
    await ada.channels.get(name).publish('hello', 'you');
    const message = await inbox.first('a message of ada arrives');
    assert.equal(message.clientId, 'ada');
    assert.equal(message.connectionId, ada.connection.id);
  });

  story('a ping is answered', async (stage) => {
    const client = await stage.connected();
    const tookMs = await client.connection.ping();
    assert.ok(tookMs >= 0 && tookMs < 10_000, `${tookMs} ms`);
  });

  story('who closes is gone at once, with all that counted', async (stage) => {
    const name = stage.channel();
    const client = await stage.connected();
    await client.channels.get(name).presence.enterClient('ada');
    await counted(stage, name, plain(1, 1));
    const before = Date.now();
    client.close();
    await reaches(client.connection, 'closed');
    await counted(stage, name, counts());
    assert.ok(Date.now() - before < 2_500, `it took ${Date.now() - before} ms, so it was taken for a drop`);
  });

  story('a new token changes in band what a connection may', async (stage) => {
    const [kept, lost, cut] = ['kept', 'lost', 'cut'].map((name) => stage.channel(name));
    const client = await stage.connected(here);
    const { id } = client.connection;
    const channels = [kept, lost, cut].map((name) => client.channels.get(name));
    await Promise.all(channels.map((channel) => channel.attach()));
    await counted(stage, cut, plain(1));

    const failed = reaches(channels[1], 'failed');
    await client.auth.authorize(null, {
      token: jwt({ 'x-ably-capability': { [kept]: ['*'], [cut]: ['subscribe'] }, 'x-ably-clientId': '*' }),
    });
    assert.equal(client.connection.id, id, 'it is the same connection');
    assert.equal((await failed).reason.code, 40160, 'the channel that it may not any more');
    assert.equal(channels[0].state, 'attached', 'the channel that it may still');
    await channels[0].publish('still', 'here');

    const subscriber = counts({ connections: 1, subscribers: 1, presenceSubscribers: 1 });
    await counted(stage, cut, subscriber, 'the channel that it may only read');
    await counted(stage, lost, counts(), 'the channel that it lost');
    await refused('a publish that it may not any more', channels[2].publish('no', 'more'), 40160);
    assert.equal(client.connection.state, 'connected');

    await client.auth.authorize(null, { token: jwt({ 'x-ably-clientId': '*' }) });
    await counted(stage, cut, plain(1), 'the channel that it may write again');
    await channels[1].attach();
    await counted(stage, lost, plain(1), 'the channel that it may attach again');
    assert.equal(client.connection.id, id);
  });

  story('a token is renewed before it ends, without a break', async (stage) => {
    let issued = 0;
    const soon = () => Math.floor(Date.now() / 1000) + (issued++ ? 3600 : 20);
    const client = await stage.connected(here, {
      authCallback: (_, done) => done(null, jwt({ exp: soon(), jti: randomUUID() })),
    });
    const { id } = client.connection;
    const states = [];
    client.connection.on((change) => states.push(change.current));
    await eventually('the server asks for another token', () => assert.equal(issued, 2));
    await client.connection.ping();
    assert.equal(client.connection.id, id);
    assert.deepEqual(states.filter((state) => state !== 'connected'), [], 'it was connected all the time');
    assert.equal(issued, 2, 'a token that is good for an hour is left alone');
  });

  story('a token that nobody renews ends the connection', async (stage) => {
    const client = stage.client(here, { token: jwt({ exp: Math.floor(Date.now() / 1000) + 3 }) });
    assert.equal((await failure(client)).code, 40171, 'the client says that it has no means to renew');
  });

  story('tokens that live shortly are renewed no faster than they end', async (stage) => {
    const LIFE_MS = 6_000;
    const issuer = stage.rest(here);
    const issued = [];
    const client = await stage.connected(here, {
      authCallback: (_, done) => {
        issued.push(Date.now());
        issuer.auth.requestToken({ ttl: LIFE_MS }).then((token) => done(null, token), done);
      },
    });
    const { id } = client.connection;
    await eventually('tokens are renewed', () => assert.ok(issued.length >= 3, `${issued.length} were issued`));
    const tookMs = issued[2] - issued[0];
    assert.ok(tookMs > LIFE_MS / 4, `three tokens of ${LIFE_MS} ms were asked for within ${tookMs} ms`);
    assert.equal(client.connection.id, id, 'it is the same connection');
  });

  story('a token that ends is replaced, and the connection goes on', async (stage) => {
    const name = stage.channel();
    const exp = Math.floor(Date.now() / 1000) + 3;
    const waiting = [];
    let issued = 0;
    const client = await stage.connected(here, {
      // The renewal in band is kept waiting until the token has ended.
      authCallback: (_, done) => {
        issued += 1;
        waiting.push(done);
        if (issued !== 2) {
          waiting.splice(0).forEach((answer) => answer(null, jwt(issued === 1 ? { exp } : {})));
        }
      },
    });
    const { id } = client.connection;
    const channel = client.channels.get(name);
    await channel.attach();
    await eventually('a third token is asked for', () => assert.ok(issued >= 3, `${issued} were issued`));
    await reaches(client.connection, 'connected');
    assert.equal(client.connection.id, id, 'it was resumed');
    await reaches(channel, 'attached');
    await counted(stage, name, plain(1));
  });
});
