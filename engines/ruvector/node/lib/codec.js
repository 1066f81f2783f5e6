// Binary bodies, content type application/octet-stream. Little-endian throughout. Every message starts with
//
//   offset 0  4 bytes  "OTRV"
//          4  2        version, 1
//          6  2        kind
//          8  4        count
//         12  4        dimension
//
//   kind 1, upsert: count points of one dimension. Then
//          count x (u32 bytes of the id, u32 bytes of the metadata, 0: none)
//          count x dimension x float32
//          the ids, UTF-8, one after the other
//          the metadata, each the UTF-8 text of a JSON object, one after the other
//   kind 2, delete: dimension 0. Then
//          count x u32 bytes of the id
//          the ids
//   kind 3, search: count is k. Then
//          dimension x float32
//   kind 4, the answer to a search: count hits, best first; dimension 0. Then
//          count x float64 score (distance, smaller is better)
//          count x u32 bytes of the id
//          the ids
//   kind 5, the answer to an upsert or delete: count is the number of points written or deleted; nothing follows.
//
// A message ends where its last part ends: anything shorter or longer is refused. Vectors start at a multiple of four
// bytes, so that they are used where they lie.
import { invalid } from './errors.js';
import { metadataFromText } from './metadata.js';

const MAGIC = 0x5652544f; // "OTRV"
const VERSION = 1;
const HEADER_BYTES = 16;
export const KIND_UPSERT = 1;
export const KIND_DELETE = 2;
export const KIND_SEARCH = 3;
export const KIND_HITS = 4;
export const KIND_DONE = 5;

export const ID_BYTES_MAX = 1024;

function readHeader(body, kind) {
  if (body.length < HEADER_BYTES || body.readUInt32LE(0) !== MAGIC) {
    throw invalid('binary body: does not start with OTRV');
  }
  if (body.readUInt16LE(4) !== VERSION) {
    throw invalid(`binary body: version ${body.readUInt16LE(4)}, this server speaks ${VERSION}`);
  }
  if (body.readUInt16LE(6) !== kind) {
    throw invalid(`binary body: kind ${body.readUInt16LE(6)} where ${kind} belongs`);
  }
  return { count: body.readUInt32LE(8), dimension: body.readUInt32LE(12) };
}

// All additions below stay far under 2^53, so a hostile count cannot wrap.
function checkLength(body, expected, what) {
  if (body.length !== expected) {
    throw invalid(`binary body: ${what} must end at byte ${expected}, the body has ${body.length}`);
  }
}

// An id is text without NUL, and equal ids are equal bytes: bytes that are not UTF-8 would not come back as they went in.
function readId(body, offset, bytes) {
  if (bytes === 0 || bytes > ID_BYTES_MAX) {
    throw invalid(`binary body: an id of ${bytes} bytes; 1 to ${ID_BYTES_MAX} are allowed`);
  }
  const id = body.utf8Slice(offset, offset + bytes);
  if (id.includes('\0')) {
    throw invalid('binary body: an id contains NUL');
  }
  if (id.includes('\ufffd') && !Buffer.from(id).equals(body.subarray(offset, offset + bytes))) {
    throw invalid('binary body: an id is not UTF-8');
  }
  return id;
}

// The body must lie at a multiple of four bytes in its ArrayBuffer (http.js sees to it).
function floats(body, offset, count) {
  return new Float32Array(body.buffer, body.byteOffset + offset, count);
}

// -> { dimension, points: [{ id, vector: Float32Array into the body, metadata: text or undefined }] }
export function decodeUpsert(body) {
  const { count, dimension } = readHeader(body, KIND_UPSERT);
  const vectorsAt = HEADER_BYTES + count * 8;
  let idAt = vectorsAt + count * dimension * 4;
  if (idAt > body.length) {
    throw invalid(`binary body: ${count} points of dimension ${dimension} do not fit into ${body.length} bytes`);
  }
  let idsBytes = 0;
  let metadataBytes = 0;
  for (let i = 0; i < count; i++) {
    idsBytes += body.readUInt32LE(HEADER_BYTES + i * 8);
    metadataBytes += body.readUInt32LE(HEADER_BYTES + i * 8 + 4);
  }
  let metadataAt = idAt + idsBytes;
  checkLength(body, metadataAt + metadataBytes, 'the metadata');

  const points = new Array(count);
  for (let i = 0; i < count; i++) {
    const idBytes = body.readUInt32LE(HEADER_BYTES + i * 8);
    const bytes = body.readUInt32LE(HEADER_BYTES + i * 8 + 4);
    const id = readId(body, idAt, idBytes);
    const text = bytes === 0 ? undefined : body.utf8Slice(metadataAt, metadataAt + bytes);
    points[i] = {
      id,
      vector: floats(body, vectorsAt + i * dimension * 4, dimension),
      metadata: text === undefined ? undefined : metadataFromText(text, `point ${i}`),
    };
    idAt += idBytes;
    metadataAt += bytes;
  }
  return { dimension, points };
}

// -> [id]
export function decodeDelete(body) {
  const { count } = readHeader(body, KIND_DELETE);
  let idAt = HEADER_BYTES + count * 4;
  if (idAt > body.length) {
    throw invalid(`binary body: ${count} ids do not fit into ${body.length} bytes`);
  }
  let idsBytes = 0;
  for (let i = 0; i < count; i++) {
    idsBytes += body.readUInt32LE(HEADER_BYTES + i * 4);
  }
  checkLength(body, idAt + idsBytes, 'the ids');
  const ids = new Array(count);
  for (let i = 0; i < count; i++) {
    const idBytes = body.readUInt32LE(HEADER_BYTES + i * 4);
    ids[i] = readId(body, idAt, idBytes);
    idAt += idBytes;
  }
  return ids;
}

// -> { k, vector }
export function decodeSearch(body) {
  const { count, dimension } = readHeader(body, KIND_SEARCH);
  checkLength(body, HEADER_BYTES + dimension * 4, 'the vector');
  return { k: count, vector: floats(body, HEADER_BYTES, dimension) };
}

function writeHeader(buffer, kind, count) {
  buffer.writeUInt32LE(MAGIC, 0);
  buffer.writeUInt16LE(VERSION, 4);
  buffer.writeUInt16LE(kind, 6);
  buffer.writeUInt32LE(count, 8);
  buffer.writeUInt32LE(0, 12);
}

export function encodeHits(hits) {
  let idsBytes = 0;
  for (const hit of hits) {
    idsBytes += Buffer.byteLength(hit.id);
  }
  const lengthsAt = HEADER_BYTES + hits.length * 8;
  let idAt = lengthsAt + hits.length * 4;
  const out = Buffer.allocUnsafe(idAt + idsBytes);
  writeHeader(out, KIND_HITS, hits.length);
  hits.forEach((hit, i) => {
    const written = out.utf8Write(hit.id, idAt);
    out.writeDoubleLE(hit.score, HEADER_BYTES + i * 8);
    out.writeUInt32LE(written, lengthsAt + i * 4);
    idAt += written;
  });
  return out;
}

export function encodeDone(count) {
  const out = Buffer.allocUnsafe(HEADER_BYTES);
  writeHeader(out, KIND_DONE, count);
  return out;
}
