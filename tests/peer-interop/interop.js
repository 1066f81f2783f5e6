// An independent gRPC implementation (grpc-js) as client of our server, then as server of our client; then as client of a
// real sidecar: a cluster of one node that `outrigger dev` starts.
// node interop.js <folder of node_modules> <path of peer_echo> <path of outrigger> <path of etcd> <folder of generated files>
'use strict';

const path = require('node:path');
const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const readline = require('node:readline');
const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const { createRequire } = require('node:module');

const [modules, program, outrigger, etcd, generated] = process.argv.slice(2);
const load = createRequire(path.resolve(modules, 'x.js'));
const grpc = load('@grpc/grpc-js');
const loader = load('@grpc/proto-loader');

const includeDirs = [path.join(__dirname, '../../sidecar/peer'), generated];
const files = ['outrigger.proto', 'grpc/health/v1/health.proto', 'grpc/reflection/v1/reflection.proto',
  'grpc/reflection/v1alpha/reflection.proto'];
const shape = { keepCase: true, longs: String, defaults: true, enums: String, oneofs: true };
const packages = grpc.loadPackageDefinition(loader.loadSync(files, { ...shape, enums: undefined, includeDirs }));
const { Peer } = packages.outrigger.v1;
const { Health } = grpc.loadPackageDefinition(loader.loadSync(files, { ...shape, includeDirs })).grpc.health.v1;
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

// --- gRPC's own services, without any metadata of ours -------------------------------------------------------------------

function check(health, service) {
  return new Promise((resolve) => {
    health.Check({ service }, { deadline: Date.now() + 5000 }, (error, reply) => resolve(error ? error.code : reply.status));
  });
}

function watch(health, service) {
  const stream = health.Watch({ service });
  const seen = [];
  const wanted = [];
  stream.on('data', (reply) => { seen.push(reply.status); wanted.splice(0).forEach((look) => look()); });
  stream.on('error', () => {});
  return {
    seen,
    cancel: () => stream.cancel(),
    // Resolves once this status was seen, as the newest.
    until: (status) => new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`health of "${service}": ${seen}, not ${status}`)), 20000);
      const look = () => {
        if (seen.at(-1) === status) {
          clearTimeout(timer);
          resolve();
        } else {
          wanted.push(look);
        }
      };
      look();
    }),
  };
}

// All responses to a list of requests, asked on one stream.
function reflect(Service, address, requests) {
  const client = new Service(address, grpc.credentials.createInsecure(), unlimited);
  const stream = client.ServerReflectionInfo();
  return new Promise((resolve, reject) => {
    const replies = [];
    stream.on('data', (reply) => replies.push(reply));
    stream.on('error', reject);
    stream.on('end', () => { client.close(); resolve(replies); });
    requests.forEach((request) => stream.write(request));
    stream.end();
  });
}

async function ownServices(address) {
  const S = grpc.status;
  for (const version of ['v1', 'v1alpha']) {
    const Service = packages.grpc.reflection[version].ServerReflection;
    const [list, byName, bySymbol, byMethod, none, extension] = await reflect(Service, address, [
      { list_services: '*' }, { file_by_filename: 'grpc/health/v1/health.proto', host: 'h' },
      { file_containing_symbol: 'outrigger.v1.Peer' }, { file_containing_symbol: 'outrigger.v1.Peer.Seed' },
      { file_containing_symbol: 'outrigger.v1.Nobody' }, { all_extension_numbers_of_type: 'outrigger.v1.Empty' }]);
    const services = list.list_services_response.service.map((s) => s.name);
    assert.deepEqual(services, ['outrigger.v1.Peer', 'grpc.health.v1.Health', 'grpc.reflection.v1.ServerReflection',
      'grpc.reflection.v1alpha.ServerReflection']);
    assert.equal(byName.original_request.file_by_filename, 'grpc/health/v1/health.proto');
    assert.equal(byName.valid_host, 'h');
    assert.equal(none.error_response.error_code, S.NOT_FOUND);
    assert.equal(extension.error_response.error_code, S.UNIMPLEMENTED);
    assert.deepEqual(bySymbol.file_descriptor_response, byMethod.file_descriptor_response);

    // What reflection tells is enough to make a client of.
    const told = [byName, bySymbol].flatMap((r) => r.file_descriptor_response.file_descriptor_proto);
    const set = Buffer.concat(told.map((file) => Buffer.concat([Buffer.from([0x0a]), varint(file.length), file])));
    const learnt = grpc.loadPackageDefinition(loader.loadFileDescriptorSetFromBuffer(set, shape));
    const health = new learnt.grpc.health.v1.Health(address, grpc.credentials.createInsecure());
    assert.equal(await check(health, 'outrigger.v1.Nobody'), S.NOT_FOUND);
    health.close();
    assert.deepEqual(Object.keys(learnt.outrigger.v1.Peer.service).sort(), Object.keys(Peer.service).sort());
  }
  // Much is asked and nothing read for a while: it all comes, in order.
  const many = Array.from({ length: 2000 }, (_, i) => ({ file_containing_symbol: i % 2 ? 'outrigger.v1.Peer' : `x${i}` }));
  const replies = await reflect(packages.grpc.reflection.v1.ServerReflection, address, many);
  assert.deepEqual(replies.map((r) => r.original_request.file_containing_symbol), many.map((r) => r.file_containing_symbol));
}

function varint(n) {
  const bytes = [];
  for (; n > 127; n >>>= 7) {
    bytes.push((n & 127) | 128);
  }
  return Buffer.from([...bytes, n]);
}

async function health() {
  const child = start([]);
  const address = `127.0.0.1:${await child.line()}`;
  const peer = new Peer(address, grpc.credentials.createInsecure(), unlimited);
  const client = new Health(address, grpc.credentials.createInsecure());
  const watched = watch(client, 'outrigger.v1.Peer');
  const unknown = watch(client, 'outrigger.v1.Nobody');

  await watched.until('NOT_SERVING');
  await unknown.until('SERVICE_UNKNOWN');
  await call(peer, 'Count', {});
  await watched.until('SERVING');
  assert.deepEqual([await check(client, 'outrigger.v1.Peer'), await check(client, ''), await check(client, 'x')],
    ['SERVING', 'NOT_SERVING', grpc.status.NOT_FOUND]);
  await call(peer, 'Count', {});
  await watched.until('NOT_SERVING');
  await call(peer, 'Count', {});
  await watched.until('SERVING');
  assert.deepEqual(watched.seen, ['NOT_SERVING', 'SERVING', 'NOT_SERVING', 'SERVING']);
  await ownServices(address);

  // A thousand watch; one more would be too many; and when they are gone there is room again.
  // (On a connection of their own: it does not outlive a thousand resets.)
  const others = new Health(address, grpc.credentials.createInsecure(), { 'grpc.use_local_subchannel_pool': 1 });
  const crowd = Array.from({ length: 1022 }, () => watch(others, 'outrigger.v1.Peer'));
  await Promise.all(crowd.map((w) => w.until('SERVING')));
  assert.equal(await check(client, ''), grpc.status.RESOURCE_EXHAUSTED);
  crowd.forEach((w) => w.cancel());
  others.close();
  for (let i = 0; await check(client, '') === grpc.status.RESOURCE_EXHAUSTED; i++) {
    assert(i < 5000);
  }
  const stopped = child.stop(); // Whoever watches hears of the end.
  await watched.until('NOT_SERVING');
  client.close();
  peer.close();
  assert.equal(await stopped, 0);
}

// --- peer_echo ------------------------------------------------------------------------------------------------------------

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

// --- a real sidecar -------------------------------------------------------------------------------------------------------

function freePort() {
  return new Promise((resolve) => {
    const server = net.createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

async function realSidecar() {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'outrigger-interop-'));
  const port = await freePort();
  const dev = spawn(outrigger, ['dev', '--nodes', '1', '--replicas', '1', '--shards', '2', '--dir', dir, '--port', String(port),
    '--etcd', etcd, '--ruvector', path.join(__dirname, '../../engines/ruvector/node/server.js')],
  { stdio: ['ignore', fs.openSync(path.join(dir, 'out'), 'w'), fs.openSync(path.join(dir, 'err'), 'w')] });
  const ended = new Promise((resolve) => { dev.on('exit', (code) => resolve(code)); });
  const devJson = path.join(dir, 'dev.json');
  try {
    for (let i = 0; !fs.existsSync(devJson); i++) {
      assert(i < 600 && dev.exitCode === null, fs.readFileSync(path.join(dir, 'err'), 'utf8'));
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const [node] = JSON.parse(fs.readFileSync(devJson, 'utf8')).nodes;
    const address = node.peer;
    const ours = (changes) => metadata({ 'outrigger-cluster': 'outrigger', ...changes });
    const peer = new Peer(address, grpc.credentials.createInsecure(), unlimited);
    const client = new Health(address, grpc.credentials.createInsecure());
    const whole = watch(client, '');
    const served = watch(client, 'outrigger.v1.Peer');

    await whole.until('SERVING');
    await served.until('SERVING');
    assert.equal(await check(client, ''), 'SERVING');
    await ownServices(address);
    const hello = await call(peer, 'Hello', {}, { metadata: ours() });
    assert.deepEqual([hello.code, hello.reply.cluster, hello.reply.node], [0, 'outrigger', node.id]);
    assert.equal((await call(peer, 'Hello', {}, { metadata: new grpc.Metadata() })).code, grpc.status.FAILED_PRECONDITION);

    // Points written over REST are counted, found by id and by search over gRPC; then one is deleted over gRPC.
    const rest = async (method, what, body) => {
      const answer = await fetch(`http://${node.client}${what}`, { method, body: JSON.stringify(body) });
      assert(answer.ok, `${method} ${what}: ${answer.status} ${await answer.clone().text()}`);
      return answer.json();
    };
    const ids = Array.from({ length: 40 }, (_, i) => `p${i}`);
    await rest('POST', '/collections', { name: 'c', dimension: 4 });
    await rest('PUT', '/collections/c/points', { points: ids.map((id, i) => ({ id, vector: [i + 1, 1, 0, 0] })) });
    const id = await collectionId(devJson);
    const count = await call(peer, 'Count', { shards: [0, 1], collection: id }, { metadata: ours() });
    assert.deepEqual([count.code, count.reply.status, count.reply.count], [0, 0, '40'], count.text);
    const got = await Promise.all([0, 1].map((shard) => call(peer, 'Get', { shard, collection: id, ids, consistency:
      'LINEARIZABLE' }, { metadata: ours() })));
    assert.deepEqual(got.flatMap((g) => g.reply.points.map((p) => p.id)).sort(), [...ids].sort());
    const vector = Buffer.alloc(16);
    [8, 1, 0, 0].forEach((x, i) => vector.writeFloatLE(x, 4 * i));
    const search = await call(peer, 'Search', { shards: [0, 1], collection: id, vector, k: 1 }, { metadata: ours() });
    assert(search.reply.shards.flatMap((s) => s.hits.map((h) => h.id)).includes('p7'));

    // A stream: a beacon of nobody's shard and an append of garbage are taken, refused and harmless.
    const lane = peer.Replicate(ours());
    lane.on('error', () => {});
    lane.on('data', () => {});
    lane.write({ messages: [{ type: 'APPEND', shard: 0, epoch: '1', last_index: '5', entries: Buffer.alloc(500), encoding: 2 }] });
    lane.end();
    await new Promise((resolve) => { lane.on('status', (s) => { assert.equal(s.code, 0, s.details); resolve(); }); });
    assert.equal((await call(peer, 'Count', { shards: [0, 1], collection: id }, { metadata: ours() })).reply.count, '40');

    // Without its engine the node is not ready, but serves its peers.
    process.kill(node.engine_pid, 'SIGKILL');
    await whole.until('NOT_SERVING');
    assert.equal(await check(client, 'outrigger.v1.Peer'), 'SERVING');
    dev.kill('SIGTERM');
    await served.until('NOT_SERVING');
    peer.close();
    client.close();
    assert.equal(await ended, 0);
    fs.rmSync(dir, { recursive: true });
  } catch (error) {
    dev.kill('SIGTERM');
    await ended;
    console.error(`kept: ${dir}`);
    throw error;
  }
}

// The collection's id, from etcd's gateway.
async function collectionId(devJson) {
  const { coordinator } = JSON.parse(fs.readFileSync(devJson, 'utf8'));
  const key = Buffer.from('/outrigger/outrigger/collections/c').toString('base64');
  const answer = await fetch(`${coordinator[0].url}/v3/kv/range`, { method: 'POST', body: JSON.stringify({ key }) });
  const { kvs } = await answer.json();
  return BigInt(`0x${JSON.parse(Buffer.from(kvs[0].value, 'base64').toString()).id}`).toString();
}

asClient().then(asServer).then(health).then(realSidecar).then(() => {
  console.log('peer-interop: grpc-js as client and as server, health, reflection, a real sidecar: passed');
}).catch((error) => {
  console.error(error);
  process.exit(1);
});
