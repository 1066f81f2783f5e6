// One collection: a database of the engine, the ids in it, and a queue that lets one write at a time through. The engine
// keeps no order between writes that overlap, and its index and its storage may then disagree. Searches and reads run
// beside the writes.
//
// With HNSW the engine leaves dead nodes in its graph: a replaced point stays findable at its old place (with the new
// vector beside it), a removed one as an id without vector, and both use up places among the k nearest. A search
// therefore asks for more, drops what is dead or comes twice, and scores anew. With many of them parts of the graph
// cannot be reached at all, however much one asks for. Only a restart, which builds the graph anew from what is stored,
// helps: in a running process a new graph either blocks everything while it grows (same file) or holds the old file's
// room on the disk for good (new file). Hence the flat index is the default, and `holes` tells how bad it is.
import { VectorDb } from './core.js';
import { Ids } from './ids.js';
import { admitted, checkDimension, distance } from './vectors.js';
import { invalid, notFound } from './errors.js';


export const K_MAX = 100000;
const HOLES_MAX = 2000; // how many more an HNSW search asks for at most

export class Collection {
  // settings: { name, dimension, metric, hnsw: null or { m, efConstruction, efSearch } }. Opening blocks: the engine
  // reads its file and builds its index here.
  constructor(settings, path) {
    this.settings = settings;
    this.path = path;
    this.db = new VectorDb({
      dimensions: settings.dimension,
      distanceMetric: settings.metric,
      storagePath: path,
      ...(settings.hnsw === null ? {} : { hnswConfig: settings.hnsw }),
    });
    this.ids = new Ids(`${path}.ids`, {
      has: async (id) => (await this.db.get(id)) !== null,
      count: () => this.db.len(),
      all: () => this.#askAllIds(),
    });
    this.queue = Promise.resolve();
    this.holes = 0;
    this.dropped = false;
  }

  async open() {
    await this.ids.open();
  }

  // Runs `work` after all writes that came before it. Its failure is its caller's alone.
  #inTurn(work) {
    const result = this.queue.then(() => {
      if (this.dropped) {
        throw notFound(`collection ${this.settings.name} was dropped meanwhile`);
      }
      return work();
    });
    this.queue = result.catch(() => {});
    return result;
  }

  // points: [{ id, vector: Float32Array, metadata: text or undefined }]. All or nothing; of an id that comes twice the
  // last one counts.
  async upsert(points) {
    const { dimension, metric } = this.settings;
    const entries = new Map();
    points.forEach((point, i) => {
      checkDimension(point.vector.length, dimension, `point ${i}`);
      const vector = admitted(point.vector, metric, `point ${i}`);
      entries.set(point.id, { id: point.id, vector, metadata: point.metadata });
    });
    if (entries.size === 0) {
      return 0;
    }
    await this.#inTurn(async () => {
      for (const entry of entries.values()) {
        const known = this.ids.has(entry.id);
        if (entry.metadata === undefined && known !== false) {
          entry.metadata = '{}'; // none at all would leave the old ones
        }
        if (known !== false) {
          this.holes++;
        }
      }
      await this.ids.changing(Ids.ADD, [...entries.keys()], () => this.db.insertBatch([...entries.values()]));
    });
    return entries.size;
  }

  // Absent ids are no error. -> how many were there
  remove(ids) {
    return this.#inTurn(async () => {
      const present = [...new Set(ids)].filter((id) => this.ids.has(id) !== false);
      let removed = 0;
      await this.ids.changing(Ids.REMOVE, present, async () => {
        for (const id of present) {
          removed += (await this.db.delete(id)) ? 1 : 0;
        }
      });
      this.holes += removed;
      return removed;
    });
  }

  // -> [{ id, score, vector, metadata: text }], best first, at most k
  async search(query, k) {
    const { dimension, metric, hnsw } = this.settings;
    if (!Number.isInteger(k) || k < 1 || k > K_MAX) {
      throw invalid(`k must be a whole number from 1 to ${K_MAX}`);
    }
    checkDimension(query.length, dimension, 'search');
    const vector = admitted(query, metric, 'search');
    if (hnsw === null) {
      return this.db.search({ vector, k });
    }
    const found = await this.db.search({ vector, k: k + Math.min(this.holes, HOLES_MAX) });
    const alive = new Map();
    for (const hit of found) {
      if (hit.vector && !alive.has(hit.id)) {
        hit.score = distance(metric, vector, hit.vector);
        alive.set(hit.id, hit);
      }
    }
    return [...alive.values()].sort((a, b) => a.score - b.score).slice(0, k);
  }

  // The k nearest whose metadata have these values. The engine's own filter looks at the k nearest of all and may come
  // back empty-handed, so this asks for more until there are enough.
  async searchFiltered(query, k, filter) {
    const wanted = Object.entries(filter).map(([key, value]) => [key, JSON.stringify(value)]);
    const matches = (hit) => {
      const metadata = hit.metadata ? JSON.parse(hit.metadata) : {};
      return wanted.every(([key, value]) => JSON.stringify(metadata[key]) === value);
    };
    const count = await this.count();
    for (let fetch = k; ; fetch = Math.min(fetch * 4, K_MAX)) {
      const found = (await this.search(query, fetch)).filter(matches);
      if (found.length >= k || fetch >= count || fetch === K_MAX) {
        return found.slice(0, k);
      }
    }
  }

  // -> { id, vector, metadata: text } or null
  get(id) {
    return this.db.get(id);
  }

  count() {
    return this.db.len();
  }

  async list(after, limit) {
    if (this.ids.set === null) {
      await this.#inTurn(() => this.ids.know());
    }
    return this.ids.page(after, limit);
  }

  async #askAllIds() {
    const count = await this.db.len();
    if (count === 0) {
      return [];
    }
    const vector = new Float32Array(this.settings.dimension).fill(1);
    const found = await this.db.search({ vector, k: count + this.holes });
    return found.filter((hit) => hit.vector).map((hit) => hit.id);
  }

  // Waits for the writes under way; later ones fail. The engine holds its file open until the process ends.
  async drop() {
    this.dropped = true;
    await this.queue;
    await this.ids.forget();
  }
}
