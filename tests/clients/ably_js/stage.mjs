// What the stories in realtime/ share: clients of the unmodified package `ably`, lines that can be
// cut, and waiting for conditions with deadlines. Nothing here sleeps and hopes.
//
// Environment: see ../README.md.

import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { createHmac } from 'node:crypto';
import net from 'node:net';
import { after, describe, test } from 'node:test';
import * as Ably from 'ably';

/** How long anything may take that must happen; far longer than it does. */
export const PATIENCE_MS = 20_000;
const STORY_MS = 60_000;
/** How often a condition is looked at that nobody tells about. */
const POLL_MS = 100;
/** Stories of a theme that are told at the same time. */
const STORIES_AT_ONCE = 6;

const environment = (name, otherwise) => {
  const value = process.env[name] || otherwise;
  assert.ok(value, `the environment lacks ${name}; see tests/clients/README.md`);
  return value;
};
const names = environment('HEADCOUNT_REGIONS', 'us-east-1,eu-west-1,ap-southeast-1').split(',');
const ports = environment('HEADCOUNT_PORTS', '8080,8090,8100').split(',').map(Number);

/** The cluster's regions, each `{ name, port }`. */
export const regions = ports.map((port, index) => ({ name: names[index], port }));
export const [here, there, elsewhere] = regions;

/** A key that may do everything. */
export const key = environment('HEADCOUNT_KEY', 'dev.root:root-secret');
/** How long a client that was dropped goes on counting. */
export const GRACE_MS = Number(environment('HEADCOUNT_GRACE_MS', '15000'));
/** How long a channel stays active after the last has left. */
export const LINGER_MS = Number(environment('HEADCOUNT_LINGER_MS', '5000'));
/** Least time between two events of a channel's occupancy that cross nothing. */
export const PACE_MS = Number(environment('HEADCOUNT_PACE_MS', '5000'));

const prefix = environment('HEADCOUNT_PREFIX', 'clients:');
let channels = 0;

/** Groups the stories of one file, which are told side by side. */
export function theme(title, tell) {
  describe(title, { concurrency: STORIES_AT_ONCE }, () => {
    tell();
    after(() => setTimeout(() => {
      console.error(`${title}: something runs on after the last story: ${process.getActiveResourcesInfo()}`);
      process.exit(1);
    }, PATIENCE_MS).unref());
  });
}

/** Tells a story twice, in JSON and in MessagePack, each time on a stage of its own. */
export function story(title, tell, formats = ['json', 'msgpack']) {
  for (const format of formats) {
    test(`${title} (${format})`, { timeout: STORY_MS }, async () => {
      const stage = new Stage(format);
      try {
        await tell(stage);
      } finally {
        await stage.clear();
      }
    });
  }
}

/** Clients, lines and channels of one story. */
class Stage {
  #ends = [];

  constructor(format) {
    this.binary = format === 'msgpack';
    this.format = format;
  }

  /** A channel's name that no other story uses. */
  channel(name = 'room') {
    channels += 1;
    return `${prefix}${process.pid}:${channels}:${name}`;
  }

  #options(at, options) {
    const credential = ['key', 'token', 'tokenDetails', 'authCallback'].some((name) => name in options);
    return {
      ...(credential ? {} : { key }),
      endpoint: '127.0.0.1',
      port: at.port,
      tls: false,
      useBinaryProtocol: this.binary,
      fallbackHosts: [],
      // Nothing leaves the machine, not even to find out whether there is an internet.
      disableConnectivityCheck: true,
      wsConnectivityCheckUrl: `ws://127.0.0.1:${at.port}/`,
      webSocketSlowTimeout: PATIENCE_MS,
      disconnectedRetryTimeout: 200,
      logLevel: 0,
      ...options,
    };
  }

  /** A REST client of a region. */
  rest(at = here, options = {}) {
    return new Ably.Rest(this.#options(at, options));
  }

  /** A realtime client of a region or a line, which has begun to connect. */
  client(at = here, options = {}) {
    const client = new Ably.Realtime(this.#options(at, options));
    this.#ends.push(() => end(client));
    return client;
  }

  /** A realtime client that is connected. */
  async connected(at = here, options = {}) {
    const client = this.client(at, options);
    await reaches(client.connection, 'connected');
    return client;
  }

  /** A line to a region, which can be cut, mended, and led to another region. */
  async line(at = here) {
    const line = new Line(at);
    this.#ends.push(() => line.close());
    await line.open();
    return line;
  }

  /** A process with a client that attaches to channels and enters members; see guest.mjs. */
  async guest(at, attachments) {
    const child = fork(new URL('guest.mjs', import.meta.url), {
      env: { ...process.env, GUEST: JSON.stringify({ at, binary: this.binary, key, attachments }) },
    });
    const over = new Promise((resolve) => child.once('exit', resolve));
    this.#ends.push(() => child.kill('SIGKILL') && over);
    const ready = new Promise((resolve, reject) => {
      child.once('message', resolve);
      over.then((code) => reject(new Error(`the guest ended early, with ${code}`)));
    });
    await within('a guest attaches', ready);
    return child;
  }

  /** Has something done when the story ends. */
  atTheEnd(finish) {
    this.#ends.push(finish);
  }

  /** Ends everything, the last first. */
  async clear() {
    for (const finish of this.#ends.reverse()) {
      await finish();
    }
  }
}

/** A TCP relay on loopback: the network between a client and a node, in our hands. */
class Line {
  #server = net.createServer((socket) => this.#accept(socket));
  #sockets = new Set();
  #whole = true;

  constructor(at) {
    this.#at = at;
  }

  #at;

  async open() {
    await new Promise((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    this.port = this.#server.address().port;
  }

  #accept(socket) {
    if (!this.#whole) {
      socket.resetAndDestroy();
      return;
    }
    const onward = net.connect(this.#at.port, '127.0.0.1');
    for (const [from, to] of [[socket, onward], [onward, socket]]) {
      this.#sockets.add(from);
      from.on('error', () => {});
      from.on('close', () => {
        this.#sockets.delete(from);
        to.destroy();
      });
      from.pipe(to);
    }
  }

  /** Breaks every connection, without a word to either end, and lets none through. */
  cut() {
    this.#whole = false;
    for (const socket of this.#sockets) {
      socket.resetAndDestroy();
    }
  }

  /** Lets connections through again, to another region if there is one. */
  mend(at = this.#at) {
    this.#at = at;
    this.#whole = true;
  }

  async close() {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

async function end(client) {
  // A renewal of its token that is under way would connect it again.
  client.connection.on('connecting', () => client.close());
  if (['closed', 'failed'].includes(client.connection.state)) {
    return;
  }
  const closed = new Promise((resolve) => client.connection.once(['closed', 'failed'], resolve));
  client.close();
  await within('a client closes', closed);
}

/** Gives up on a promise when patience ends. */
export async function within(why, promise, patience = PATIENCE_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${why}: not within ${patience} ms`)), patience);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Lets time pass in which nothing must happen. Whoever waits for something waits for it. */
export async function pause(ms, why) {
  assert.ok(why);
  await new Promise((resolve) => setTimeout(resolve, ms));
}

/** Calls `check` until it no longer throws; its last error is told when patience ends. */
export async function eventually(why, check, patience = PATIENCE_MS) {
  const deadline = Date.now() + patience;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > deadline) {
        throw new Error(`${why}: not within ${patience} ms: ${error.message}`);
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }
}

/**
 * Waits until a connection or a channel is in a state; returns how it got there. A failure that
 * was not waited for is thrown at once.
 */
export async function reaches(subject, state) {
  if (subject.state === state) {
    return { current: state, reason: subject.errorReason };
  }
  const what = subject.name ? `channel ${subject.name}` : 'a connection';
  const change = await within(`${what} becomes ${state}`, new Promise((resolve) => {
    subject.on(function listen(change) {
      if (change.current === state || change.current === 'failed') {
        subject.off(listen);
        resolve(change);
      }
    });
  }));
  assert.equal(change.current, state, `${what} failed: ${change.reason}`);
  return change;
}

/** Says that a call fails with a code. */
export async function refused(why, call, code) {
  let error;
  try {
    await within(why, call);
  } catch (thrown) {
    error = thrown;
  }
  assert.ok(error, `${why}: it was not refused`);
  assert.equal(error.code, code, `${why}: refused with ${error}`);
  return error;
}

/** Everything that a channel is told from now on, or what is told under one name. */
export class Inbox {
  items = [];
  #arrivals = [];

  /** Attaches the channel, if it is not. */
  static async of(channel, name) {
    const inbox = new Inbox();
    await within(`${channel.name} is subscribed`, name
      ? channel.subscribe(name, inbox.put)
      : channel.subscribe(inbox.put));
    return inbox;
  }

  /** Presence of a channel. */
  static async ofPresence(channel) {
    const inbox = new Inbox();
    await within(`presence of ${channel.name} is subscribed`, channel.presence.subscribe(inbox.put));
    return inbox;
  }

  put = (item) => {
    this.items.push({ ...item, arrivedAt: Date.now() });
    this.#arrivals.splice(0).forEach((arrived) => arrived());
  };

  /** Waits until a check of all items so far no longer throws. */
  async until(why, check, patience = PATIENCE_MS) {
    const deadline = Date.now() + patience;
    for (;;) {
      try {
        return check(this.items);
      } catch (error) {
        const left = deadline - Date.now();
        const next = new Promise((resolve) => this.#arrivals.push(resolve));
        const late = new Error(`${why}: not within ${patience} ms: ${error.message}`);
        await within(why, next, left).catch(() => Promise.reject(late));
      }
    }
  }

  /** Waits for the first item that satisfies a condition. */
  first(why, condition = () => true) {
    return this.until(why, (items) => {
      const found = items.find(condition);
      assert.ok(found, `among ${items.length}: ${JSON.stringify(items.at(-1)?.data)}`);
      return found;
    });
  }

  /** The data of all items. */
  get data() {
    return this.items.map((item) => item.data);
  }
}

const METRICS = ['connections', 'publishers', 'subscribers', 'presenceConnections', 'presenceMembers',
  'presenceSubscribers', 'objectPublishers', 'objectSubscribers'];

/** All eight counts: those that are named, and else zero. */
export const counts = (some = {}) => ({ ...Object.fromEntries(METRICS.map((name) => [name, 0])), ...some });

/** The counts of so many attachments with the default modes. */
export const plain = (attachments, presenceMembers = 0) => counts({
  connections: attachments,
  publishers: attachments,
  subscribers: attachments,
  presenceConnections: attachments,
  presenceSubscribers: attachments,
  presenceMembers,
});

/** What a region says of a channel. */
export async function status(stage, at, channel) {
  return (await stage.rest(at).channels.get(channel).status()).status;
}

/** Waits until every region says the same counts of a channel. */
export async function counted(stage, channel, expected, why = channel) {
  await Promise.all(regions.map((region) => eventually(`${why}, asked in ${region.name}`, async () => {
    const { occupancy, isActive } = await status(stage, region, channel);
    assert.deepEqual(occupancy.metrics, expected);
    assert.ok(isActive || expected.connections === 0, 'what is attached to is active');
  })));
}

/** Makes a JWT, signed with a key's secret. */
export function jwt(claims, { name, secret } = split(key)) {
  const now = Math.floor(Date.now() / 1000);
  const encode = (part) => Buffer.from(JSON.stringify(part)).toString('base64url');
  const head = encode({ typ: 'JWT', alg: 'HS256', kid: name });
  const body = encode({ iat: now, exp: now + 3600, ...claims });
  const mac = createHmac('sha256', secret).update(`${head}.${body}`).digest('base64url');
  return `${head}.${body}.${mac}`;
}

/** Splits `app.key:secret`. */
export function split(whole) {
  const [name, secret] = whole.split(':');
  return { name, secret };
}
