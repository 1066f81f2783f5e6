// Binary bodies as lib/codec.js lays them down, built here by hand.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Server, makeDirectory } from './helper.js';

let server;
before(async () => {
  server = await Server.start(makeDirectory());
});
after(() => server.stop());

function header(kind, count, dimension) {
  const buffer = Buffer.alloc(16);
  buffer.write('OTRV', 0, 'latin1');
  buffer.writeUInt16LE(1, 4);
  buffer.writeUInt16LE(kind, 6);
  buffer.writeUInt32LE(count, 8);
  buffer.writeUInt32LE(dimension, 12);
  return buffer;
}

const u32 = (...values) => Buffer.from(Uint32Array.from(values).buffer);
const f32 = (...values) => Buffer.from(Float32Array.from(values).buffer);
const bytes = (text) => (Buffer.isBuffer(text) ? text : Buffer.from(text));

// points: [id, [components], metadata text]
function upsertBody(dimension, points) {
  return Buffer.concat([
    header(1, points.length, dimension),
    ...points.map(([id, , metadata = '']) => u32(bytes(id).length, bytes(metadata).length)),
    ...points.map(([, vector]) => f32(...vector)),
    ...points.map(([id]) => bytes(id)),
    ...points.map(([, , metadata = '']) => bytes(metadata)),
  ]);
}

function deleteBody(ids) {
  return Buffer.concat([header(2, ids.length, 0), ...ids.map((id) => u32(bytes(id).length)), ...ids.map(bytes)]);
}

const searchBody = (k, vector) => Buffer.concat([header(3, k, vector.length), f32(...vector)]);

function parseHits(raw) {
  assert.equal(raw.toString('latin1', 0, 4), 'OTRV');
  assert.equal(raw.readUInt16LE(6), 4);
  const count = raw.readUInt32LE(8);
  const hits = [];
  let at = 16 + count * 12;
  for (let i = 0; i < count; i++) {
    const idBytes = raw.readUInt32LE(16 + count * 8 + i * 4);
    hits.push([raw.toString('utf8', at, at + idBytes), raw.readDoubleLE(16 + i * 8)]);
    at += idBytes;
  }
  assert.equal(at, raw.length);
  return hits;
}

function assertDone(answer, count) {
  assert.equal(answer.status, 200, answer.raw.toString());
  assert.equal(answer.headers['content-type'], 'application/octet-stream');
  assert.equal(answer.raw.length, 16);
  assert.equal(answer.raw.readUInt16LE(6), 5);
  assert.equal(answer.raw.readUInt32LE(8), count);
}

test('upsert, search and delete', async () => {
  await server.make('b', 2);
  const points = [
    ['a/é', [3, 4], '{"n":1}'],
    ['b', [0, 1]],
    ['🐘', [0.5, 0]],
  ];
  assertDone(await server.binary('PUT', '/collections/b/points', upsertBody(2, points)), 3);
  const point = await server.request('GET', `/collections/b/points/${encodeURIComponent('a/é')}`);
  assert.deepEqual(point.body, { id: 'a/é', vector: [3, 4], metadata: { n: 1 } });
  const found = await server.binary('POST', '/collections/b/points/search', searchBody(2, [0, 0]));
  assert.deepEqual(parseHits(found.raw), [['🐘', 0.5], ['b', 1]]);
  const gone = await server.binary('POST', '/collections/b/points/delete', deleteBody(['b', 'never', 'b', 'a/é']));
  assertDone(gone, 2);
  assert.deepEqual(await server.list('b'), ['🐘']);
  const rest = await server.binary('POST', '/collections/b/points/search', searchBody(100, [0, 0]));
  assert.deepEqual(parseHits(rest.raw), [['🐘', 0.5]]);
});

test('empty batches and empty answers', async () => {
  await server.make('empty', 2);
  assertDone(await server.binary('PUT', '/collections/empty/points', header(1, 0, 2)), 0);
  assertDone(await server.binary('POST', '/collections/empty/points/delete', header(2, 0, 0)), 0);
  const found = await server.binary('POST', '/collections/empty/points/search', searchBody(3, [1, 1]));
  assert.deepEqual(parseHits(found.raw), []);
});

test('without metadata the old ones go', async () => {
  await server.make('meta', 1);
  await server.binary('PUT', '/collections/meta/points', upsertBody(1, [['a', [1], '{"x":1}']]));
  await server.binary('PUT', '/collections/meta/points', upsertBody(1, [['a', [2]]]));
  assert.deepEqual((await server.request('GET', '/collections/meta/points/a')).body.metadata, {});
});

test('whatever is wrong is refused whole', async () => {
  await server.make('wrong', 2, 'Cosine');
  const good = upsertBody(2, [['ok', [1, 2], '{"n":1}'], ['x', [3, 4]]]);
  const changed = (at, value) => {
    const copy = Buffer.from(good);
    copy.writeUInt32LE(value, at);
    return copy;
  };
  const bad = [
    Buffer.alloc(0),
    Buffer.from('{"points":[]}'),
    changed(0, 0),
    changed(4, 2),
    changed(4, 0x20001),
    changed(8, 3),
    changed(8, 1),
    changed(8, 0xffffffff),
    changed(12, 3),
    changed(12, 0xffffffff),
    changed(16, 3),
    changed(16, 0xffffffff),
    changed(20, 8),
    changed(20, 0xffffffff),
    Buffer.concat([good, Buffer.from('x')]),
    upsertBody(2, [['ok', [1, 2]], ['', [1, 2]]]),
    upsertBody(2, [['ok', [1, 2]], ['x\0', [1, 2]]]),
    upsertBody(2, [['ok', [1, 2]], [Buffer.from([0xff, 0xfe]), [1, 2]]]),
    upsertBody(2, [['ok', [1, 2]], ['x'.repeat(1025), [1, 2]]]),
    upsertBody(2, [['ok', [1, 2]], ['x', [0, 0]]]),
    upsertBody(2, [['ok', [1, 2]], ['x', [1, NaN]]]),
    upsertBody(2, [['ok', [1, 2]], ['x', [1, Infinity]]]),
    upsertBody(2, [['ok', [1, 2]], ['x', [1, 2], '[1]']]),
    upsertBody(2, [['ok', [1, 2]], ['x', [1, 2], '{"a":']]),
    upsertBody(3, [['ok', [1, 2, 3]]]),
  ];
  for (let cut = 1; cut < good.length; cut += 3) {
    bad.push(good.subarray(0, cut));
  }
  for (const [i, body] of bad.entries()) {
    const answer = await server.binary('PUT', '/collections/wrong/points', body);
    assert.equal(answer.status, 400, `body ${i}: ${answer.raw}`);
    assert.equal(typeof answer.body.error, 'string');
  }
  assert.equal((await server.request('GET', '/collections/wrong')).body.count, 0);

  const searches = [searchBody(0, [1, 2]), searchBody(2 ** 31, [1, 2]), searchBody(3, [1]), searchBody(3, [0, 0]), searchBody(3, [1, NaN])];
  for (const body of [...searches, header(3, 1, 2), header(3, 1, 0xffffffff), deleteBody(['x'])]) {
    assert.equal((await server.binary('POST', '/collections/wrong/points/search', body)).status, 400);
  }
  for (const body of [deleteBody(['']), header(2, 5, 0), header(2, 0xffffffff, 0), good]) {
    assert.equal((await server.binary('POST', '/collections/wrong/points/delete', body)).status, 400);
  }
});

test('vectors that would overflow the engine poison nothing', async () => {
  for (const metric of ['Cosine', 'Euclidean', 'DotProduct', 'Manhattan']) {
    await server.make(`huge-${metric}`, 2, metric);
    const path = `/collections/huge-${metric}/points`;
    await server.binary('PUT', path, upsertBody(2, [['huge', [3e38, -3e38]], ['one', [1, 0]], ['tiny', [0, 1e-38]]]));
    for (const query of [[3e38, 3e38], [1, 0], [1e-38, 0]]) {
      const found = await server.binary('POST', `${path}/search`, searchBody(5, query));
      assert.equal(found.status, 200, found.raw.toString());
      const hits = parseHits(found.raw);
      assert.equal(hits.length, 3, metric);
      assert.ok(hits.every(([, score]) => !Number.isNaN(score)), metric);
      if (metric === 'Cosine') {
        const angles = { huge: query[1] === 0 ? 1 - Math.SQRT1_2 : 1, one: 1 - query[0] / Math.hypot(...query), tiny: 1 - query[1] / Math.hypot(...query) };
        hits.forEach(([id, score]) => assert.ok(Math.abs(score - angles[id]) < 1e-5, `${id} from ${query}: ${score}`));
      }
    }
  }
});
