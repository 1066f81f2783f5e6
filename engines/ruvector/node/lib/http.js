// The REST contract: RuVector's own (collections, points, search), with true dimensions and counts, a real 404, and what
// it lacks: removal, listing, binary bodies (codec.js) for upsert, delete and search.
//
//   GET    /health                       200 {status:"healthy", data_id, boot_id, kept}; 503 {status:"starting", ...}
//   GET    /ready                        200 {status:"ready", collections, total_points}
//   POST   /collections                  {name, dimension, metric?, hnsw?} -> 201; 409
//   GET    /collections                  {collections: [name]}
//   GET    /collections/:c               {name, dimension, metric, index: "flat" or "hnsw", holes, count}
//                                        holes: dead nodes in the graph of an HNSW index (collection.js)
//   DELETE /collections/:c               204; 404
//   PUT    /collections/:c/points        {points: [{id?, vector, metadata?}]} -> {ids}
//   POST   /collections/:c/points/search {vector, k = 10, score_threshold?, filter?, with_vector = true}
//                                        -> {results: [{id, score, vector, metadata}]}
//                                        score is a distance; score_threshold keeps what is at most that far
//   POST   /collections/:c/points/delete {ids} -> {deleted}
//   POST   /collections/:c/points/scroll {after?, limit = 1000} -> {ids, next: id or null}
//   GET    /collections/:c/points/:id    {id, vector, metadata}; 404
//   DELETE /collections/:c/points/:id    204; 404
//
// Names and ids are percent-encoded in paths. Errors: {error, status}; 400 says that nothing was done.
import http from 'node:http';
import { randomUUID } from 'node:crypto';
import * as codec from './codec.js';
import { Refusal, invalid, notFound } from './errors.js';
import { isObject, jsonDepth, metadataFromValue } from './metadata.js';
import { DIMENSION_MAX, METRICS, fromArray } from './vectors.js';

const BODY_BYTES_MAX = 64 << 20;
const JSON_DEPTH_MAX = 128;
const NAME_BYTES_MAX = 200;
const SCROLL_MAX = 10000;
const BINARY = 'application/octet-stream';
const JSON_TYPE = 'application/json';

// --- requests ---------------------------------------------------------------------------------------------------------

// The whole body in memory of its own, so that it starts at a multiple of eight bytes and vectors can be used in place.
function readBody(request) {
  return new Promise((resolve, reject) => {
    const declared = Number(request.headers['content-length'] ?? 0);
    const tooLarge = () => new Refusal(413, `the body is larger than ${BODY_BYTES_MAX} bytes`);
    if (declared > BODY_BYTES_MAX) {
      reject(tooLarge());
      return;
    }
    const chunks = [];
    let body = declared > 0 ? Buffer.allocUnsafeSlow(declared) : null;
    let bytes = 0;
    request.on('data', (chunk) => {
      bytes += chunk.length;
      if (bytes > BODY_BYTES_MAX) {
        request.pause();
        reject(tooLarge());
      } else if (body) {
        chunk.copy(body, bytes - chunk.length);
      } else {
        chunks.push(chunk);
      }
    });
    request.on('end', () => {
      if (!body) {
        body = Buffer.allocUnsafeSlow(bytes);
        let at = 0;
        for (const chunk of chunks) {
          at += chunk.copy(body, at);
        }
      }
      resolve(body);
    });
    request.on('close', () => {
      if (!request.complete) {
        reject(invalid('the connection ended inside the body'));
      }
    });
    request.on('error', reject);
  });
}

const contentType = (request) => (request.headers['content-type'] ?? JSON_TYPE).split(';')[0].trim().toLowerCase();

async function readJson(request) {
  if (contentType(request) !== JSON_TYPE) {
    throw new Refusal(415, `content type ${contentType(request)} is not understood here; send ${JSON_TYPE}`);
  }
  const body = await readBody(request);
  if (jsonDepth(body) > JSON_DEPTH_MAX) {
    throw invalid(`JSON nested more than ${JSON_DEPTH_MAX} deep`);
  }
  let value;
  try {
    value = JSON.parse(body.toString());
  } catch (error) {
    throw invalid(`malformed JSON: ${error.message}`);
  }
  if (!isObject(value)) {
    throw invalid('the body must be a JSON object');
  }
  return value;
}

function checkText(text, bytesMax, what) {
  if (typeof text !== 'string' || text === '' || Buffer.byteLength(text) > bytesMax) {
    throw invalid(`${what} must be a string of 1 to ${bytesMax} bytes`);
  }
  if (text.includes('\0') || Buffer.from(text).toString() !== text) {
    throw invalid(`${what} must be text without NUL and without lone surrogates`);
  }
  return text;
}

const checkId = (id, what) => checkText(id, codec.ID_BYTES_MAX, what);

function checkHnsw(hnsw, metric) {
  if (hnsw === undefined || hnsw === null || hnsw === false) {
    return null;
  }
  const { m = 16, efConstruction = 100, efSearch = 64 } = isObject(hnsw) ? hnsw : {};
  for (const value of [m, efConstruction, efSearch]) {
    if (!Number.isInteger(value) || value < 2 || value > 10000) {
      throw invalid('hnsw: m, efConstruction and efSearch must be whole numbers from 2 to 10000');
    }
  }
  if (metric === 'DotProduct') {
    throw invalid('hnsw: the engine orders dot products wrongly in this index; leave it out');
  }
  return { m, efConstruction, efSearch };
}

// --- answers ----------------------------------------------------------------------------------------------------------

function send(response, status, body, type = JSON_TYPE) {
  response.writeHead(status, { 'Content-Type': type, 'Content-Length': Buffer.byteLength(body) });
  response.end(body);
}

const sendJson = (response, status, value) => send(response, status, JSON.stringify(value));

function sendNothing(response) {
  response.writeHead(204);
  response.end();
}

function sendError(request, response, error, note) {
  let status = error.status;
  if (!(error instanceof Refusal)) {
    status = /no space left|ENOSPC/i.test(error.message) ? 507 : 500;
    note(`${request.method} ${request.url}: ${error.stack ?? error}`);
  }
  if (response.headersSent || response.destroyed) {
    response.destroy();
    return;
  }
  // What is left of a body is not worth reading.
  if (!request.complete) {
    response.setHeader('Connection', 'close');
  }
  sendJson(response, status, { error: error.message, status });
}

// Metadata are JSON text already: they are put in as they are.
function pointText(point, score, withVector) {
  const fields = [`"id":${JSON.stringify(point.id)}`];
  if (score !== undefined) {
    fields.push(`"score":${JSON.stringify(score)}`);
  }
  if (withVector) {
    fields.push(`"vector":[${Array.prototype.join.call(point.vector, ',')}]`);
  }
  fields.push(`"metadata":${point.metadata ?? '{}'}`);
  return `{${fields.join(',')}}`;
}

// --- handlers: (context of the server, request, response, collection name, point id) ------------------------------------

function health({ store, state }, request, response) {
  sendJson(response, state.ready ? 200 : 503, {
    status: state.ready ? 'healthy' : 'starting',
    data_id: store.dataId,
    boot_id: store.bootId,
    kept: store.kept,
  });
}

async function ready({ store }, request, response) {
  const counts = await Promise.all([...store.collections.values()].map((collection) => collection.count()));
  sendJson(response, 200, {
    status: 'ready',
    collections: counts.length,
    total_points: counts.reduce((sum, count) => sum + count, 0),
  });
}

async function collectionMake({ store }, request, response) {
  const { name, dimension, metric = 'Cosine', hnsw } = await readJson(request);
  checkText(name, NAME_BYTES_MAX, 'name');
  if (!Number.isInteger(dimension) || dimension < 1 || dimension > DIMENSION_MAX) {
    throw invalid(`dimension must be a whole number from 1 to ${DIMENSION_MAX}`);
  }
  if (!METRICS.includes(metric)) {
    throw invalid(`metric must be one of ${METRICS.join(', ')}`);
  }
  await store.make({ name, dimension, metric, hnsw: checkHnsw(hnsw, metric) });
  sendJson(response, 201, { name, dimension, metric });
}

function collectionList({ store }, request, response) {
  sendJson(response, 200, { collections: [...store.collections.keys()] });
}

async function collectionGet({ store }, request, response, name) {
  const collection = store.get(name);
  const { dimension, metric, hnsw } = collection.settings;
  const count = await collection.count();
  const index = hnsw === null ? { index: 'flat', holes: 0 } : { index: 'hnsw', holes: collection.holes };
  sendJson(response, 200, { name, dimension, metric, ...index, count });
}

async function collectionDrop({ store }, request, response, name) {
  await store.drop(name);
  sendNothing(response);
}

function pointFromJson(point, i, dimension) {
  if (!isObject(point)) {
    throw invalid(`point ${i} must be an object`);
  }
  const { id = randomUUID(), vector, metadata } = point;
  return {
    id: checkId(id, `point ${i}: id`),
    vector: fromArray(vector, dimension, `point ${i}`),
    metadata: metadata === undefined || metadata === null ? undefined : metadataFromValue(metadata, `point ${i}`),
  };
}

async function pointsPut({ store }, request, response, name) {
  if (contentType(request) === BINARY) {
    const { points } = codec.decodeUpsert(await readBody(request));
    send(response, 200, codec.encodeDone(await store.get(name).upsert(points)), BINARY);
    return;
  }
  const { points } = await readJson(request);
  const collection = store.get(name);
  if (!Array.isArray(points)) {
    throw invalid('points must be an array');
  }
  const checked = points.map((point, i) => pointFromJson(point, i, collection.settings.dimension));
  await collection.upsert(checked);
  sendJson(response, 200, { ids: checked.map((point) => point.id) });
}

async function pointsSearch({ store }, request, response, name) {
  if (contentType(request) === BINARY) {
    const { k, vector } = codec.decodeSearch(await readBody(request));
    send(response, 200, codec.encodeHits(await store.get(name).search(vector, k)), BINARY);
    return;
  }
  const { vector, k = 10, score_threshold: threshold, filter, with_vector: withVector = true } = await readJson(request);
  const collection = store.get(name);
  if (filter !== undefined && !isObject(filter)) {
    throw invalid('filter must be an object');
  }
  if (threshold !== undefined && typeof threshold !== 'number') {
    throw invalid('score_threshold must be a number');
  }
  const query = fromArray(vector, collection.settings.dimension, 'search');
  const found = filter ? await collection.searchFiltered(query, k, filter) : await collection.search(query, k);
  const kept = threshold === undefined ? found : found.filter((hit) => hit.score <= threshold);
  send(response, 200, `{"results":[${kept.map((hit) => pointText(hit, hit.score, withVector)).join(',')}]}`);
}

async function pointsDelete({ store }, request, response, name) {
  if (contentType(request) === BINARY) {
    const ids = codec.decodeDelete(await readBody(request));
    send(response, 200, codec.encodeDone(await store.get(name).remove(ids)), BINARY);
    return;
  }
  const { ids } = await readJson(request);
  if (!Array.isArray(ids)) {
    throw invalid('ids must be an array');
  }
  ids.forEach((id, i) => checkId(id, `ids[${i}]`));
  sendJson(response, 200, { deleted: await store.get(name).remove(ids) });
}

async function pointsScroll({ store }, request, response, name) {
  const { after, limit = 1000 } = await readJson(request);
  if (after !== undefined) {
    checkId(after, 'after');
  }
  if (!Number.isInteger(limit) || limit < 1 || limit > SCROLL_MAX) {
    throw invalid(`limit must be a whole number from 1 to ${SCROLL_MAX}`);
  }
  const { ids, more } = await store.get(name).list(after, limit);
  sendJson(response, 200, { ids, next: more && ids.length > 0 ? ids[ids.length - 1] : null });
}

async function pointGet({ store }, request, response, name, id) {
  const point = await store.get(name).get(checkId(id, 'id'));
  if (point === null) {
    throw notFound(`point ${id} not found`);
  }
  send(response, 200, pointText(point, undefined, true));
}

async function pointDelete({ store }, request, response, name, id) {
  if ((await store.get(name).remove([checkId(id, 'id')])) === 0) {
    throw notFound(`point ${id} not found`);
  }
  sendNothing(response);
}

// --- routes -----------------------------------------------------------------------------------------------------------

const AT_ROOT = { health: { GET: health }, ready: { GET: ready }, collections: { GET: collectionList, POST: collectionMake } };
const AT_COLLECTION = { GET: collectionGet, DELETE: collectionDrop };
const AT_POINTS = { PUT: pointsPut };
const AT_POINT = { GET: pointGet, DELETE: pointDelete };
const AT_ACTION = { search: pointsSearch, delete: pointsDelete, scroll: pointsScroll };

// The path's segments are taken apart before they are decoded: an id may contain anything, "/" and ".." included.
function route(request) {
  let parts;
  try {
    parts = request.url.split('?')[0].split('/').slice(1).map(decodeURIComponent);
  } catch {
    throw invalid('the path is not percent-encoded UTF-8');
  }
  const [root, name, points, id] = parts;
  let methods;
  if (parts.length === 1) {
    methods = Object.hasOwn(AT_ROOT, root) ? AT_ROOT[root] : undefined;
  } else if (root === 'collections' && parts.length === 2) {
    methods = AT_COLLECTION;
  } else if (root === 'collections' && points === 'points' && parts.length === 3) {
    methods = AT_POINTS;
  } else if (root === 'collections' && points === 'points' && parts.length === 4) {
    methods = Object.hasOwn(AT_ACTION, id) ? { ...AT_POINT, POST: AT_ACTION[id] } : AT_POINT;
  }
  if (!methods) {
    throw notFound(`there is nothing at ${request.url}`);
  }
  if (!Object.hasOwn(methods, request.method)) {
    throw new Refusal(405, `${request.method} is not possible here`);
  }
  return { handler: methods[request.method], name, id };
}

async function handle(context, request, response) {
  try {
    const { handler, name, id } = route(request);
    if (!context.state.ready && handler !== health) {
      throw new Refusal(503, 'the server is starting: it reads its data');
    }
    await handler(context, request, response, name, id);
  } catch (error) {
    sendError(request, response, error, context.note);
  }
}

// state: { ready }, set by the caller once the store is open. note: takes texts for the log.
export function makeServer(store, state, note) {
  const context = { store, state, note };
  const server = http.createServer({ requestTimeout: 60000, headersTimeout: 60000 }, (request, response) => {
    handle(context, request, response);
  });
  // A sidecar keeps its few connections for good; one that the server closes just as it is used again costs a retry.
  server.keepAliveTimeout = 3600 * 1000;
  return server;
}
