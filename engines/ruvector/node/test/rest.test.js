// The REST contract, with what comes from people who do not know it.
import assert from 'node:assert/strict';
import net from 'node:net';
import { after, before, test } from 'node:test';
import { Server, makeDirectory } from './helper.js';

let server;
before(async () => {
  server = await Server.start(makeDirectory());
});
after(() => server.stop());

const errorOf = (answer, status) => {
  assert.equal(answer.status, status, answer.raw.toString());
  assert.equal(answer.body.status, status);
  assert.equal(typeof answer.body.error, 'string');
  return answer.body.error;
};

test('health and readiness', async () => {
  const health = await server.request('GET', '/health');
  assert.equal(health.status, 200);
  assert.equal(health.body.status, 'healthy');
  assert.match(health.body.data_id, /^[0-9a-f-]{36}$/);
  assert.match(health.body.boot_id, /^[0-9a-f-]{36}$/);
  assert.equal(health.body.kept, false);
  assert.equal((await server.request('GET', '/ready')).body.status, 'ready');
});

test('collections are made, listed, described and dropped', async () => {
  const made = await server.request('POST', '/collections', { name: 'a/ä..', dimension: 4 });
  assert.equal(made.status, 201);
  assert.deepEqual(made.body, { name: 'a/ä..', dimension: 4, metric: 'Cosine' });
  errorOf(await server.request('POST', '/collections', { name: 'a/ä..', dimension: 4 }), 409);
  assert.ok((await server.request('GET', '/collections')).body.collections.includes('a/ä..'));
  const path = `/collections/${encodeURIComponent('a/ä..')}`;
  const info = await server.request('GET', path);
  assert.deepEqual(info.body, { name: 'a/ä..', dimension: 4, metric: 'Cosine', index: 'flat', holes: 0, count: 0 });
  assert.equal((await server.request('DELETE', path)).status, 204);
  errorOf(await server.request('DELETE', path), 404);
  errorOf(await server.request('GET', path), 404);
});

test('bad wishes for collections are refused', async () => {
  const bad = [
    {},
    { name: 'x' },
    { name: '', dimension: 3 },
    { name: 7, dimension: 3 },
    { name: 'x\0', dimension: 3 },
    { name: 'x'.repeat(201), dimension: 3 },
    { name: 'x', dimension: 0 },
    { name: 'x', dimension: -1 },
    { name: 'x', dimension: 2.5 },
    { name: 'x', dimension: 16385 },
    { name: 'x', dimension: '3' },
    { name: 'x', dimension: 3, metric: 'cosine' },
    { name: 'x', dimension: 3, metric: null },
    { name: 'x', dimension: 3, hnsw: { m: 0 } },
    { name: 'x', dimension: 3, hnsw: { m: 1.5 } },
    { name: 'x', dimension: 3, metric: 'DotProduct', hnsw: {} },
  ];
  for (const wish of bad) {
    errorOf(await server.request('POST', '/collections', wish), 400);
  }
  errorOf(await server.request('GET', '/collections/x'), 404);
});

test('points are written, read, replaced and removed', async () => {
  await server.make('points', 3);
  const ids = await server.put('points', [{ id: 'a', vector: [1, 2, 3], metadata: { n: 1 } }, { vector: [4, 5, 6] }]);
  assert.equal(ids[0], 'a');
  assert.match(ids[1], /^[0-9a-f-]{36}$/);
  const a = await server.request('GET', '/collections/points/points/a');
  assert.deepEqual(a.body, { id: 'a', vector: [1, 2, 3], metadata: { n: 1 } });
  await server.put('points', [{ id: 'a', vector: [0.1, 2, 3] }]);
  const replaced = await server.request('GET', '/collections/points/points/a');
  assert.deepEqual(replaced.body.metadata, {});
  assert.equal(Math.fround(replaced.body.vector[0]), Math.fround(0.1));
  assert.equal((await server.request('GET', '/collections/points')).body.count, 2);
  assert.equal((await server.request('DELETE', '/collections/points/points/a')).status, 204);
  errorOf(await server.request('DELETE', '/collections/points/points/a'), 404);
  errorOf(await server.request('GET', '/collections/points/points/a'), 404);
  const removed = await server.request('POST', '/collections/points/points/delete', { ids: [ids[1], 'x', ids[1]] });
  assert.deepEqual(removed.body, { deleted: 1 });
  assert.equal((await server.request('GET', '/collections/points')).body.count, 0);
});

test('odd ids survive in paths and bodies', async () => {
  await server.make('odd', 1);
  const ids = ['a/b', '..', '.', '/', ' ', 'a%2Fb', 'ä€🐘', '"\\', '\ufeffbom', '?q#f', 'search', 'delete', 'ü'.repeat(256)];
  await server.put('odd', ids.map((id, i) => ({ id, vector: [i + 1] })));
  assert.deepEqual((await server.list('odd', 3)).sort(), [...ids].sort());
  for (const [i, id] of ids.entries()) {
    const path = `/collections/odd/points/${encodeURIComponent(id).replaceAll('.', '%2E')}`;
    assert.deepEqual((await server.request('GET', path)).body.vector, [i + 1], id);
    assert.equal((await server.request('DELETE', path)).status, 204);
  }
  assert.equal((await server.request('GET', '/collections/odd')).body.count, 0);
});

test('bad points are refused and nothing of their batch is stored', async () => {
  await server.make('bad', 2, 'Cosine');
  const good = { id: 'good', vector: [1, 2] };
  const bad = [
    { points: {} },
    { points: null },
    {},
    { points: [good, 7] },
    { points: [good, null] },
    { points: [good, {}] },
    { points: [good, { id: 'x', vector: [1] }] },
    { points: [good, { id: 'x', vector: [1, 2, 3] }] },
    { points: [good, { id: 'x', vector: [1, '2'] }] },
    { points: [good, { id: 'x', vector: [1, null] }] },
    { points: [good, { id: 'x', vector: '12' }] },
    { points: [good, { id: 'x', vector: { 0: 1, 1: 2, length: 2 } }] },
    { points: [good, { id: 'x', vector: [0, 0] }] },
    { points: [good, { id: 'x', vector: [1e39, 1] }] },
    { points: [good, { id: 'x', vector: [-1e300, 1] }] },
    { points: [good, { id: '', vector: [1, 2] }] },
    { points: [good, { id: 7, vector: [1, 2] }] },
    { points: [good, { id: null, vector: [1, 2] }] },
    { points: [good, { id: 'x\0y', vector: [1, 2] }] },
    { points: [good, { id: 'x'.repeat(1025), vector: [1, 2] }] },
    { points: [good, { id: 'x', vector: [1, 2], metadata: [] }] },
    { points: [good, { id: 'x', vector: [1, 2], metadata: 'text' }] },
    { points: [good, { id: 'x', vector: [1, 2], metadata: { big: 'x'.repeat(70000) } }] },
  ];
  for (const body of bad) {
    errorOf(await server.request('PUT', '/collections/bad/points', body), 400);
  }
  const texts = [
    '',
    '{',
    'null',
    '[]',
    '7',
    '{"points":[{"id":"x","vector":[NaN,1]}]}',
    '{"points":[{"id":"x","vector":[1e999,1]}]}',
    '{"points":[{"id":"\\ud800","vector":[1,1]}]}',
    '{"points":[]} trailing',
  ];
  for (const text of texts) {
    errorOf(await server.request('PUT', '/collections/bad/points', text), 400);
  }
  const deep = `{"points":[{"id":"x","vector":[1,2],"metadata":${'{"a":'.repeat(100000)}1${'}'.repeat(100000)}}]}`;
  assert.match(errorOf(await server.request('PUT', '/collections/bad/points', deep), 400), /nested/);
  assert.equal((await server.request('GET', '/collections/bad')).body.count, 0);
});

test('searches', async () => {
  await server.make('search', 2);
  await server.put('search', [1, 2, 3, 4, 5].map((n) => ({ id: `p${n}`, vector: [n, 0], metadata: { odd: n % 2 === 1, n } })));
  const search = (body) => server.request('POST', '/collections/search/points/search', body);
  const ids = async (body) => (await search(body)).body.results.map((hit) => hit.id);

  const first = await search({ vector: [1, 0], k: 1 });
  assert.deepEqual(first.body, { results: [{ id: 'p1', score: 0, vector: [1, 0], metadata: { odd: true, n: 1 } }] });
  assert.deepEqual(await ids({ vector: [0, 0] }), ['p1', 'p2', 'p3', 'p4', 'p5']);
  assert.deepEqual(await ids({ vector: [0, 0], k: 2 }), ['p1', 'p2']);
  assert.equal((await search({ vector: [0, 0], k: 1, with_vector: false })).body.results[0].vector, undefined);
  // A threshold keeps what is near; a filter looks beyond the k nearest.
  assert.deepEqual(await ids({ vector: [0, 0], score_threshold: 2 }), ['p1', 'p2']);
  assert.deepEqual(await ids({ vector: [0, 0], k: 1, filter: { n: 4 } }), ['p4']);
  assert.deepEqual(await ids({ vector: [0, 0], k: 2, filter: { odd: true } }), ['p1', 'p3']);
  assert.deepEqual(await ids({ vector: [0, 0], filter: { n: '4' } }), []);
});

test('bad searches are refused', async () => {
  await server.make('badsearch', 2);
  const vector = [1, 2];
  const bad = [
    {},
    { vector: [1] },
    { vector: [1, 2, 3] },
    { vector: [1, 1e39] },
    { vector: 'x' },
    { vector, k: 0 },
    { vector, k: -1 },
    { vector, k: 2 ** 31 },
    { vector, k: 2 ** 53 },
    { vector, k: 1.5 },
    { vector, k: '3' },
    { vector, k: null },
    { vector, filter: [] },
    { vector, filter: 'x' },
    { vector, score_threshold: '1' },
  ];
  for (const body of bad) {
    errorOf(await server.request('POST', '/collections/badsearch/points/search', body), 400);
  }
  for (const body of [{ limit: 0 }, { limit: -1 }, { limit: 10001 }, { limit: 1.5 }, { after: 7 }, { after: '' }]) {
    errorOf(await server.request('POST', '/collections/badsearch/points/scroll', body), 400);
  }
  for (const body of [{}, { ids: 'a' }, { ids: [7] }, { ids: [''] }]) {
    errorOf(await server.request('POST', '/collections/badsearch/points/delete', body), 400);
  }
});

test('unknown places, methods and types', async () => {
  errorOf(await server.request('GET', '/'), 404);
  errorOf(await server.request('GET', '/nothing'), 404);
  errorOf(await server.request('GET', '/constructor'), 404);
  errorOf(await server.request('GET', '/collections/none/points/x'), 404);
  errorOf(await server.request('PUT', '/collections/none/points', { points: [] }), 404);
  errorOf(await server.request('GET', '/collections/a/b/c/d'), 404);
  errorOf(await server.request('GET', '/collections/%ff'), 400);
  errorOf(await server.request('PATCH', '/health'), 405);
  errorOf(await server.request('POST', '/collections/x', {}), 405);
  errorOf(await server.request('POST', '/collections', 'x', { 'content-type': 'text/plain' }), 415);
});

test('metadata that the engine would drop clear the old ones', async () => {
  await server.make('metadata', 1);
  const metadataAfter = async (text) => {
    await server.put('metadata', [{ id: 'a', vector: [1], metadata: { old: true } }]);
    const body = `{"points":[{"id":"a","vector":[1],"metadata":${text}}]}`;
    assert.equal((await server.request('PUT', '/collections/metadata/points', body)).status, 200, text.slice(0, 40));
    return (await server.request('GET', '/collections/metadata/points/a')).body.metadata;
  };
  assert.deepEqual(await metadataAfter('{"n":1e999}'), { n: null });
  assert.deepEqual(await metadataAfter('{"s":"\\ud800"}'), {});
  assert.deepEqual(await metadataAfter('{"s":"\\ud83d\\udc18"}'), { s: '🐘' });
  assert.deepEqual(await metadataAfter(`${'{"a":'.repeat(110)}1${'}'.repeat(110)}`), {});
  assert.deepEqual(await metadataAfter('{"n":1e5,"m":[1,{"x":null}]}'), { n: 1e5, m: [1, { x: null }] });
});

test('bodies over 64 MiB are refused before they are read', async () => {
  const socket = net.connect(server.port, '127.0.0.1');
  socket.write('PUT /collections/x/points HTTP/1.1\r\nHost: x\r\nContent-Length: 67108865\r\n\r\n{');
  const answer = await new Promise((resolve) => socket.once('data', (data) => resolve(data.toString())));
  assert.match(answer, /^HTTP\/1.1 413 /);
  socket.destroy();
});

test('half a body applies nothing and disturbs nobody', async () => {
  await server.make('half', 1);
  const body = '{"points":[{"id":"a","vector":[1]}]}';
  const socket = net.connect(server.port, '127.0.0.1');
  socket.write(`PUT /collections/half/points HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length + 1}\r\n\r\n${body}`);
  await new Promise((resolve) => socket.end(resolve));
  await server.put('half', [{ id: 'b', vector: [1] }]);
  assert.deepEqual(await server.list('half'), ['b']);
});

test('writes of one id that overlap leave one truth', async () => {
  await server.make('order', 1);
  for (let round = 0; round < 150; round++) {
    const writes = [];
    for (let i = 0; i < 10; i++) {
      writes.push(server.put('order', [{ id: 'same', vector: [round * 10 + i + 1] }]));
    }
    await Promise.all(writes);
    const found = await server.request('POST', '/collections/order/points/search', { vector: [0] });
    const stored = await server.request('GET', '/collections/order/points/same');
    assert.equal(found.body.results.length, 1);
    assert.equal(found.body.results[0].score, stored.body.vector[0]);
  }
});
