// The program: how it starts, what it keeps, how it ends.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import { Server, makeDirectory, run } from './helper.js';

const names = (n, prefix = 'p') => Array.from({ length: n }, (_, i) => `${prefix}${i}`);
const points = (ids) => ids.map((id, i) => ({ id, vector: [i + 1, 1] }));
const idsFile = (server) => path.join(server.directory, '1.redb.ids');

async function restart(server) {
  await server.kill();
  return Server.start(server.directory);
}

test('a killed server has everything when it comes back', async () => {
  let server = await Server.start(makeDirectory());
  await server.make('c', 2, 'Manhattan');
  await server.put('c', points(names(50)));
  await server.request('POST', '/collections/c/points/delete', { ids: names(10) });
  const before = (await server.request('GET', '/health')).body;

  server = await restart(server);
  const health = (await server.request('GET', '/health')).body;
  assert.equal(health.data_id, before.data_id);
  assert.notEqual(health.boot_id, before.boot_id);
  assert.equal(health.kept, true);
  const info = (await server.request('GET', '/collections/c')).body;
  assert.deepEqual(info, { name: 'c', dimension: 2, metric: 'Manhattan', index: 'flat', holes: 0, count: 40 });
  assert.deepEqual((await server.list('c', 7)).sort(), names(50).slice(10).sort());
  await server.stop();
});

test('the list of ids is rebuilt when its file is missing, torn, from another boot or wrong', async () => {
  let server = await Server.start(makeDirectory());
  const all = names(30).sort();
  await server.make('c', 2);
  await server.put('c', points(names(30)));
  const file = idsFile(server);
  const good = fs.readFileSync(file);
  const headerEnd = good.indexOf('\n', 8) + 1;
  const damages = [
    () => fs.rmSync(file),
    () => fs.truncateSync(file, good.length - 3),
    () => fs.truncateSync(file, 3),
    () => fs.writeFileSync(file, Buffer.concat([good, Buffer.from([200, 0, 0, 0, 1])])),
    () => fs.writeFileSync(file, Buffer.concat([Buffer.from('OTRIDS1\nother-boot\n'), good.subarray(headerEnd)])),
    () => fs.writeFileSync(file, 'nonsense'),
  ];
  for (const damage of damages) {
    await server.kill();
    damage();
    server = await Server.start(server.directory);
    assert.deepEqual(await server.list('c'), all);
    assert.equal((await server.request('GET', '/collections/c')).body.count, 30);
  }
  // From a rebuilt list on, changes are recorded again.
  await server.put('c', points(['new']));
  server = await restart(server);
  assert.deepEqual(await server.list('c'), [...all, 'new'].sort());
  await server.stop();
});

test('an id that was recorded but never stored is not listed', async () => {
  let server = await Server.start(makeDirectory());
  await server.make('c', 2);
  await server.put('c', points(['a']));
  await server.kill();
  // What a kill between record and write leaves behind.
  const record = Buffer.alloc(4 + 1 + 4 + 5);
  record.writeUInt32LE(10, 0);
  record[4] = 1;
  record.writeUInt32LE(5, 5);
  record.write('ghost', 9);
  fs.appendFileSync(idsFile(server), record);
  server = await Server.start(server.directory);
  // Settled at the start already, without asking the engine for everything.
  const settled = fs.readFileSync(idsFile(server), 'latin1');
  assert.ok(settled.endsWith('a') && !settled.includes('ghost'));
  assert.deepEqual(await server.list('c'), ['a']);
  await server.stop();
});

test('killed while writing, again and again: count and list agree', async () => {
  let server = await Server.start(makeDirectory());
  const acknowledged = new Set();
  await server.make('c', 2);
  for (let round = 0; round < 4; round++) {
    const writes = [];
    for (let batch = 0; batch < 30; batch++) {
      const ids = names(10, `${round}-${batch}-`);
      writes.push(server.put('c', points(ids)).then(() => ids.forEach((id) => acknowledged.add(id)), () => {}));
    }
    await Promise.race(writes);
    server = await restart(server);
    await Promise.all(writes);
    const listed = await server.list('c', 100);
    assert.equal(listed.length, new Set(listed).size);
    assert.equal(listed.length, (await server.request('GET', '/collections/c')).body.count);
    for (const id of acknowledged) {
      assert.ok(listed.includes(id), `${id} was acknowledged`);
    }
  }
  await server.stop();
});

test('the file of ids does not grow without end', async () => {
  const server = await Server.start(makeDirectory());
  await server.make('c', 2);
  const ids = names(100, 'x'.repeat(500));
  for (let i = 0; i < 60; i++) {
    await server.put('c', points(ids));
    await server.request('POST', '/collections/c/points/delete', { ids });
  }
  // 12,000 changes of 500 bytes would be 6 MB; it was rewritten after 10,000.
  assert.ok(fs.statSync(idsFile(server)).size < 3e6);
  assert.deepEqual(await server.list('c'), []);
  await server.stop();
});

test('a dropped collection made anew is empty and takes another dimension, after a restart too', async () => {
  let server = await Server.start(makeDirectory());
  for (const dimension of [2, 3, 2]) {
    await server.make('c', dimension);
    await server.put('c', [{ id: 'a', vector: Array(dimension).fill(1) }]);
    assert.equal((await server.request('GET', '/collections/c')).body.count, 1);
    assert.equal((await server.request('DELETE', '/collections/c')).status, 204);
  }
  await server.make('c', 5);
  server = await restart(server);
  const info = (await server.request('GET', '/collections/c')).body;
  assert.equal(info.dimension, 5);
  assert.equal(info.count, 0);
  assert.deepEqual(fs.readdirSync(server.directory).filter((file) => /^\d/.test(file)).sort(), ['4.redb', '4.redb.ids']);
  await server.stop();
});

test('a graph index shows no ghosts, and a restart heals its holes', async () => {
  let server = await Server.start(makeDirectory());
  const search = async (vector, k) => {
    const answer = await server.request('POST', '/collections/c/points/search', { vector, k });
    return answer.body.results.map((hit) => [hit.id, hit.score]);
  };
  await server.make('c', 3, 'Euclidean', { hnsw: { m: 16, efConstruction: 100, efSearch: 64 } });
  await server.put('c', Array.from({ length: 100 }, (_, i) => ({ id: `p${i}`, vector: [i, 0, 0] })));
  for (let i = 0; i < 5; i++) {
    await server.put('c', [{ id: 'p0', vector: [100 + i, 0, 0] }]);
  }
  await server.request('POST', '/collections/c/points/delete', { ids: names(41).slice(1) });
  // It may miss points, but what it returns is alive, stands where it is said to stand, and comes once.
  const found = await search([0, 0, 0], 50);
  for (const [id, score] of found) {
    assert.equal(score, id === 'p0' ? 104 : Number(id.slice(1)));
    assert.ok(id === 'p0' || Number(id.slice(1)) > 40, `${id} was deleted`);
  }
  assert.equal(new Set(found.map(([id]) => id)).size, found.length);
  const info = (await server.request('GET', '/collections/c')).body;
  assert.deepEqual([info.index, info.holes, info.count], ['hnsw', 45, 60]);

  server = await restart(server);
  assert.deepEqual(await search([0, 0, 0], 3), [['p41', 41], ['p42', 42], ['p43', 43]]);
  assert.equal((await server.request('GET', '/collections/c')).body.holes, 0);
  await server.stop();
});

test('files that the list does not name are removed, other files are left alone', async () => {
  let server = await Server.start(makeDirectory());
  await server.kill();
  fs.writeFileSync(path.join(server.directory, '77.redb'), 'left by a kill');
  fs.writeFileSync(path.join(server.directory, 'notes.txt'), 'mine');
  server = await Server.start(server.directory);
  assert.deepEqual(fs.readdirSync(server.directory).sort(), ['collections.json', 'lock.redb', 'notes.txt']);
  await server.stop();
});

test('a file that cannot be opened costs its collection and the data id', async () => {
  let server = await Server.start(makeDirectory());
  await server.make('c', 2);
  await server.make('d', 2);
  const before = (await server.request('GET', '/health')).body;
  await server.kill();
  fs.writeFileSync(path.join(server.directory, '1.redb'), 'not a database');
  server = await Server.start(server.directory);
  const health = (await server.request('GET', '/health')).body;
  assert.notEqual(health.data_id, before.data_id);
  assert.equal(health.kept, false);
  assert.deepEqual((await server.request('GET', '/collections')).body.collections, ['d']);
  assert.match(server.log, /collection c is lost/);
  await server.stop();
});

test('SIGTERM ends it at once with status 0', async () => {
  const server = await Server.start(makeDirectory());
  await server.request('GET', '/health'); // a kept connection must not hold it up
  const begin = Date.now();
  server.child.kill('SIGTERM');
  assert.equal(await server.ended, 0);
  assert.ok(Date.now() - begin < 2000);
  await server.stop();
});

test('what keeps it from starting is said in a line, with status 1', async () => {
  const server = await Server.start(makeDirectory());
  const other = makeDirectory();
  const cases = [
    [['--data', server.directory, '--port', '0'], /in use by another process/],
    [['--data', other, '--port', String(server.port)], /the port is in use/],
    [['--data', '/proc/nowhere', '--port', '0'], /not writable/],
    [['--data', '/dev/null', '--port', '0'], /not writable/],
  ];
  for (const [args, text] of cases) {
    const { code, stderr, stdout } = await run(args);
    assert.equal(code, 1, stderr);
    assert.match(stderr, text);
    assert.equal(stderr.trim().split('\n').length, 1, stderr);
    assert.equal(stdout, '');
  }
  fs.writeFileSync(path.join(other, 'collections.json'), '{"version":');
  const damaged = await run(['--data', other, '--port', '0']);
  assert.equal(damaged.code, 1);
  assert.match(damaged.stderr, /collections.json is damaged/);
  fs.rmSync(other, { recursive: true });
  await server.stop();
});

test('wrong usage is explained, with status 2', async () => {
  for (const args of [[], ['--port', '1'], ['--data', 'x', '--port', '65536'], ['--data', 'x', '--port', 'y'], ['--bogus'], ['x']]) {
    const { code, stderr } = await run(args, { DATA: '', PORT: '0' });
    assert.equal(code, 2, args.join(' '));
    assert.match(stderr, /usage: /);
  }
  const help = await run(['--help']);
  assert.equal(help.code, 0);
  assert.match(help.stdout, /usage: /);
});

test('the environment can name directory and port', async () => {
  const directory = makeDirectory();
  const blocker = net.createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => blocker.once('listening', resolve));
  const { code, stderr } = await run([], { DATA: directory, PORT: String(blocker.address().port), HOST: '127.0.0.1' });
  assert.equal(code, 1);
  assert.match(stderr, /the port is in use/);
  blocker.close();
  fs.rmSync(directory, { recursive: true });
});
