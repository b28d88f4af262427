// A client in a process of its own, so that it can be killed: attaches to channels, enters members,
// says so to its parent, and stays as long as that does.

import * as Ably from 'ably';

process.on('disconnect', () => process.exit());
const { at, binary, key, attachments } = JSON.parse(process.env.GUEST);
const client = new Ably.Realtime({
  key,
  endpoint: '127.0.0.1',
  port: at.port,
  tls: false,
  useBinaryProtocol: binary,
  fallbackHosts: [],
  disableConnectivityCheck: true,
  logLevel: 0,
});
for (const { channel, members = [] } of attachments) {
  const attached = client.channels.get(channel);
  await attached.attach();
  for (const member of members) {
    await attached.presence.enterClient(member);
  }
}
process.send(client.connection.id);
