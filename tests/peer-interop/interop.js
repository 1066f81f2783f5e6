// An independent gRPC implementation (grpc-js) as client of our server, then as server of our client.
// node interop.js <folder of node_modules> <path of peer_echo>
'use strict';

const path = require('node:path');
const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const readline = require('node:readline');
const { createRequire } = require('node:module');

const [modules, program] = process.argv.slice(2);
const load = createRequire(path.resolve(modules, 'x.js'));
const grpc = load('@grpc/grpc-js');
const loader = load('@grpc/proto-loader');

const proto = path.join(__dirname, '../../sidecar/peer/outrigger.proto');
const Peer = grpc.loadPackageDefinition(loader.loadSync(proto, { keepCase: true, longs: String, defaults: true }))
  .outrigger.v1.Peer;
const unlimited = { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 };

function metadata(changes = {}) {
  const all = { 'outrigger-cluster': 'interop', 'outrigger-node': 'js', 'outrigger-incarnation': '42', ...changes };
  const m = new grpc.Metadata();
  Object.entries(all).forEach(([name, value]) => m.set(name, value));
  return m;
}

function start(args) {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    line: async () => (await lines.next()).value,
    stop: () => new Promise((resolve) => {
      child.on('exit', resolve);
      child.stdin.end();
    }),
  };
}

function call(client, method, request, options = {}) {
  return new Promise((resolve) => {
    client[method](request, options.metadata || metadata(), { deadline: Date.now() + (options.ms || 5000) },
      (error, reply) => resolve({ code: error ? error.code : 0, text: error ? error.details : '', reply }));
  });
}

async function asClient() {
  const child = start([]);
  const port = await child.line();
  const client = new Peer(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), unlimited);
  const S = grpc.status;

  const hello = await call(client, 'Hello', { cluster: 'interop', node: 'js', incarnation: '42' });
  assert.equal(hello.code, 0, hello.text);
  assert.deepEqual([hello.reply.cluster, hello.reply.node, hello.reply.incarnation], ['interop', 'c', '7']);

  const forward = await call(client, 'Forward', { body: Buffer.alloc(20 << 20) });
  assert.equal(forward.code, 0, forward.text);
  assert.equal(forward.reply.outcome, 20 << 20);
  assert.equal(forward.reply.message, 'js');

  const many = await Promise.all(Array.from({ length: 3000 }, (_, i) => call(client, 'Forward', { body: Buffer.alloc(i) },
    { ms: 30000 })));
  many.forEach((m, i) => assert.deepEqual([m.code, m.text, m.reply?.outcome], [0, '', i]));

  const count = await call(client, 'Count', {});
  assert.deepEqual([count.code, count.text], [S.FAILED_PRECONDITION, 'not today: 100% ä']);

  const began = Date.now();
  assert.equal((await call(client, 'Search', {}, { ms: 150 })).code, S.DEADLINE_EXCEEDED);
  assert(Date.now() - began < 2000);

  const other = await call(client, 'Hello', {}, { metadata: metadata({ 'outrigger-cluster': 'other' }) });
  assert.equal(other.code, S.FAILED_PRECONDITION);
  const name = await call(client, 'Hello', {}, { metadata: metadata({ 'outrigger-node': 'c' }) });
  assert.equal(name.code, S.FAILED_PRECONDITION);
  const none = await call(client, 'Hello', {}, { metadata: new grpc.Metadata() });
  assert.equal(none.code, S.FAILED_PRECONDITION);

  const unknown = await new Promise((resolve) => client.makeUnaryRequest('/outrigger.v1.Peer/Nothing', (x) => x, (x) => x,
    Buffer.alloc(3), metadata(), (error) => resolve(error)));
  assert.equal(unknown.code, S.UNIMPLEMENTED);
  const zipped = new Peer(`127.0.0.1:${port}`, grpc.credentials.createInsecure(),
    { ...unlimited, 'grpc.default_compression_algorithm': 2 });
  assert.equal((await call(zipped, 'Forward', { body: Buffer.alloc(100000) })).code, S.UNIMPLEMENTED);
  zipped.close();

  const lanes = [client.Replicate(metadata()), client.Beacon(metadata())];
  lanes.forEach((lane) => {
    lane.on('error', () => {});
    lane.on('data', () => {});
    for (let i = 0; i < 500; i++) {
      lane.write({ messages: [{ type: 'APPEND', last_index: String(i), entries: Buffer.alloc(5000) }] });
    }
    lane.end();
  });
  await Promise.all(lanes.map((lane) => new Promise((resolve) => lane.on('status', (s) => {
    assert.equal(s.code, 0, s.details);
    resolve();
  }))));
  assert.equal((await call(client, 'Get', {})).reply.message, '500 500');

  const seeded = await new Promise((resolve) => {
    const stream = client.Seed(metadata(), (error, reply) => resolve({ error, reply }));
    stream.write({ begin: { shard: 1, points: '5000' } });
    for (let i = 0; i < 5000; i++) {
      stream.write({ points: { body: Buffer.alloc(2000) } });
    }
    stream.end({ end: { position: { epoch: '1', index: '2' } } });
  });
  assert.equal(seeded.error, null);
  assert.equal(seeded.reply.log_id, '5001');

  client.close();
  assert.equal(await child.stop(), 0);
}

async function asServer() {
  const got = { replicate: 0, beacon: 0, callers: new Set() };
  const server = new grpc.Server(unlimited);
  const seen = (c) => got.callers.add(['outrigger-cluster', 'outrigger-node', 'outrigger-incarnation']
    .map((name) => c.metadata.get(name)[0]).join(' '));
  let deadline = 0;

  server.addService(Peer.service, {
    Hello: (c, cb) => {
      seen(c);
      cb(null, { cluster: 'interop', node: 'js', incarnation: '99', version: 'js' });
    },
    Forward: (c, cb) => cb(null, { outcome: c.request.body.length }),
    Count: (c, cb) => cb({ code: grpc.status.INVALID_ARGUMENT, details: 'ünknown shard' }),
    Search: (c) => { deadline = c.getDeadline() - Date.now(); },
    Get: (c, cb) => cb(null, {}),
    Replicate: (c) => {
      seen(c);
      c.on('data', (frame) => { got.replicate += frame.messages.length; });
    },
    Beacon: (c) => c.on('data', (frame) => { got.beacon += frame.messages.length; }),
    Seed: (c, cb) => {
      let points = 0;
      c.on('data', () => { points += 1; });
      c.on('end', () => cb(null, { ok: true, log_id: String(points) }));
    },
  });
  const port = await new Promise((resolve, reject) => server.bindAsync('127.0.0.1:0',
    grpc.ServerCredentials.createInsecure(), (error, p) => (error ? reject(error) : resolve(p))));
  const child = start([String(port)]);
  const answers = {};

  await child.line();
  while (Object.keys(answers).length < 5) {
    const [what, status, number, ...text] = (await child.line()).split(' ');
    answers[what] = [Number(status), number, text.join(' ')];
  }
  assert.deepEqual(answers.link.slice(0, 2), [1, '99'], answers.link[2]);
  assert.deepEqual(answers.forward.slice(0, 2), [0, '3000000'], answers.forward[2]);
  assert.notEqual(answers.count[0], 0);
  assert.match(answers.count[2], /gRPC status 3: ünknown shard/);
  assert.notEqual(answers.search[0], 0);
  assert(deadline > 0 && deadline <= 200, `grpc-timeout came as ${deadline} ms`);
  assert.deepEqual(answers.seed.slice(0, 2), [0, '1000'], answers.seed[2]);
  for (let i = 0; i < 500 && (got.replicate < 100 || got.beacon < 100); i++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.deepEqual([got.replicate, got.beacon], [100, 100]);
  assert.deepEqual([...got.callers], ['interop c 7']);
  server.forceShutdown();
  const [what, status] = (await child.line()).split(' ');
  assert.deepEqual([what, status], ['link', '2']);
  assert.equal(await child.stop(), 0);
}

asClient().then(asServer).then(() => {
  console.log('peer-interop: grpc-js as client and as server: passed');
}).catch((error) => {
  console.error(error);
  process.exit(1);
});
