// The ids of one collection, which the engine's binding cannot list: a set in memory and a file of changes beside the
// engine's own file.
//
//   line 1   "OTRIDS1"
//   line 2   the machine's boot id (/proc/sys/kernel/random/boot_id)
//   records  u32 bytes of what follows, u8 operation (1 add, 2 remove), then each id: u32 bytes, UTF-8; little-endian
//
// A record is written before the engine is asked, one write at a time per collection, so after SIGKILL only the ids of the
// last record are in doubt, and the engine settles them. Nothing is synced: what a killed process wrote, the kernel
// still has; after a power cut the machine's boot id is another one, and the file is not believed. The same when the
// number of ids is not the engine's. Then the ids are asked of the engine, by a search for everything, once somebody
// wants the list; until then nothing is recorded.
import fs from 'node:fs/promises';

const MAGIC = 'OTRIDS1';
const ADD = 1;
const REMOVE = 2;

async function machineBoot() {
  try {
    return (await fs.readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  } catch {
    return `unknown-${process.pid}-${Date.now()}`; // equals nothing: never believed after a restart
  }
}

function encodeRecord(operation, ids) {
  let bytes = 1;
  for (const id of ids) {
    bytes += 4 + Buffer.byteLength(id);
  }
  const record = Buffer.allocUnsafe(4 + bytes);
  record.writeUInt32LE(bytes, 0);
  record[4] = operation;
  let at = 5;
  for (const id of ids) {
    const written = record.utf8Write(id, at + 4);
    record.writeUInt32LE(written, at);
    at += 4 + written;
  }
  return record;
}

function decodeRecord(record) {
  const ids = [];
  let at = 1;
  while (at < record.length) {
    const bytes = record.readUInt32LE(at);
    ids.push(record.utf8Slice(at + 4, at + 4 + bytes));
    at += 4 + bytes;
  }
  return { operation: record[0], ids };
}

export class Ids {
  // engine: { has(id), count(), all() }, each a promise; all() gives every id or throws.
  constructor(path, engine) {
    this.path = path;
    this.engine = engine;
    this.set = null; // null: not known, see above
    this.handle = null;
    this.recorded = 0; // ids in the file, to know when it is worth rewriting
    this.sorted = null; // what page() walks
  }

  // Reads the file; afterwards the ids are known if it was right.
  async open() {
    let content;
    try {
      content = await fs.readFile(this.path);
    } catch (error) {
      if (error.code !== 'ENOENT') {
        throw error;
      }
      content = Buffer.alloc(0);
    }
    const set = (await this.#replay(content)) ?? new Set();
    if (set.size === (await this.engine.count())) {
      await this.#adopt(set);
    }
  }

  async #replay(content) {
    const header = `${MAGIC}\n${await machineBoot()}\n`;
    if (content.toString('latin1', 0, header.length) !== header) {
      return null;
    }
    const set = new Set();
    let last = [];
    let at = header.length;
    // A record that does not end is one whose write was cut short: the engine was not asked yet.
    while (at + 4 <= content.length && at + 4 + content.readUInt32LE(at) <= content.length) {
      const bytes = content.readUInt32LE(at);
      const { operation, ids } = decodeRecord(content.subarray(at + 4, at + 4 + bytes));
      for (const id of ids) {
        operation === ADD ? set.add(id) : set.delete(id);
      }
      last = ids;
      at += 4 + bytes;
    }
    for (const id of last) {
      (await this.engine.has(id)) ? set.add(id) : set.delete(id);
    }
    return set;
  }

  // Makes `set` the truth: a new file in place of the old one.
  async #adopt(set) {
    const temporary = `${this.path}.new`;
    const handle = await fs.open(temporary, 'w');
    try {
      await handle.write(`${MAGIC}\n${await machineBoot()}\n`);
      let chunk = [];
      for (const id of set) {
        chunk.push(id);
        if (chunk.length === 4096) {
          await handle.write(encodeRecord(ADD, chunk));
          chunk = [];
        }
      }
      if (chunk.length > 0) {
        await handle.write(encodeRecord(ADD, chunk));
      }
      await fs.rename(temporary, this.path);
    } catch (error) {
      await handle.close();
      throw error;
    }
    await this.handle?.close();
    this.handle = handle;
    this.recorded = set.size;
    this.set = set;
    this.sorted = null;
  }

  // Makes sure that the ids are known. Call it where no write runs.
  async know() {
    if (this.set === null) {
      const set = new Set(await this.engine.all());
      const count = await this.engine.count();
      if (set.size !== count) {
        throw new Error(`the engine names ${set.size} of its ${count} ids: they cannot be listed`);
      }
      await this.#adopt(set);
    }
  }

  // True: it is there. False: it is not. Undefined: not known.
  has(id) {
    return this.set?.has(id);
  }

  async #record(operation, ids) {
    if (ids.length > 0) {
      await this.handle.write(encodeRecord(operation, ids));
      this.recorded += ids.length;
    }
  }

  // Runs `work`, which writes (or removes) these ids in the engine, and keeps the list right whatever comes of it.
  async changing(operation, ids, work) {
    if (this.set === null) {
      return work();
    }
    const changed = ids.filter((id) => this.set.has(id) === (operation === REMOVE));
    await this.#record(operation, changed);
    let result;
    try {
      result = await work();
    } catch (error) {
      await this.#settle(operation, changed);
      throw error;
    }
    for (const id of changed) {
      operation === ADD ? this.set.add(id) : this.set.delete(id);
    }
    if (this.recorded > 2 * this.set.size + 10000) {
      await this.#adopt(this.set);
    }
    return result;
  }

  // The engine failed half-way: ask it what is there, and record that. If even that fails, the list is given up.
  async #settle(operation, changed) {
    try {
      const present = [];
      const absent = [];
      for (const id of changed) {
        ((await this.engine.has(id)) ? present : absent).push(id);
      }
      await this.#record(operation === ADD ? REMOVE : ADD, operation === ADD ? absent : present);
      present.forEach((id) => this.set.add(id));
      absent.forEach((id) => this.set.delete(id));
    } catch {
      await this.forget();
    }
  }

  async forget() {
    this.set = null;
    this.sorted = null;
    await this.handle?.close().catch(() => {});
    this.handle = null;
    await fs.rm(this.path, { force: true });
  }

  // Up to `limit` ids behind `after`, in a fixed order. Ids that are there from the first page to the last are named
  // exactly once; those that come or go meanwhile may be left out.
  page(after, limit) {
    if (after === undefined || this.sorted === null) {
      this.sorted = [...this.set].sort();
    }
    let low = 0;
    let high = this.sorted.length;
    while (after !== undefined && low < high) {
      const middle = (low + high) >> 1;
      if (this.sorted[middle] <= after) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    const ids = [];
    while (low < this.sorted.length && ids.length < limit) {
      if (this.set.has(this.sorted[low])) {
        ids.push(this.sorted[low]);
      }
      low++;
    }
    if (low === this.sorted.length) {
      this.sorted = null; // the walk is over: give the memory back
      return { ids, more: false };
    }
    return { ids, more: true };
  }
}

Ids.ADD = ADD;
Ids.REMOVE = REMOVE;
