// The data directory of one server:
//
//   collections.json   the list of collections and the data id; replaced as a whole (write, fsync, rename, fsync of the
//                      directory), and the only thing that says which files count
//   <n>.redb           the engine's file of one incarnation of a collection; <n>.redb.ids its ids (ids.js)
//   lock.redb          an empty database, open as long as this process lives: the engine locks its files against
//                      other processes, and the kernel lets go of the lock however we end
//
// The engine keeps every file open that it ever opened, under its path: an unlinked path opened anew shows the old
// data. So each incarnation of a collection gets a name that this process never had.
//
// The data id is drawn with a new collections.json and says "these data are the ones you saw before". A file of the list
// that is missing or cannot be opened breaks that promise: the collection is dropped and another id is drawn.
import fs from 'node:fs/promises';
import path from 'node:path';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Collection } from './collection.js';
import { VectorDb } from './core.js';
import { conflict, notFound } from './errors.js';

const LIST = 'collections.json';
const LOCK_PATIENCE_MS = 2000; // a process that was just killed takes a moment to be gone

async function writeDurably(directory, name, text) {
  const temporary = path.join(directory, `${name}.new`);
  const handle = await fs.open(temporary, 'w');
  try {
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await fs.rename(temporary, path.join(directory, name));
  const parent = await fs.open(directory, 'r');
  try {
    await parent.sync();
  } finally {
    await parent.close();
  }
}

// Makes a directory and its parents. Not `recursive: true`, which never returns where mkdir says ENOENT for good (/proc).
async function makeDirectory(directory) {
  try {
    await fs.mkdir(directory);
  } catch (error) {
    if (error.code === 'ENOENT' && path.dirname(directory) !== directory) {
      await makeDirectory(path.dirname(directory));
      await fs.mkdir(directory);
    } else if (error.code !== 'EEXIST') {
      throw error;
    }
  }
}

export class Store {
  constructor(directory) {
    this.directory = path.resolve(directory);
    this.bootId = randomUUID();
    this.dataId = null;
    this.kept = false; // the data of an earlier process are all there
    this.next = 1;
    this.collections = new Map(); // name -> Collection
    this.changes = Promise.resolve(); // one change of the list at a time
    this.lock = null;
  }

  // Makes the directory if need be and takes it for this process. Throws an Error with a text for people.
  async claim() {
    try {
      await makeDirectory(this.directory);
      const probe = path.join(this.directory, `probe-${this.bootId}`);
      await fs.writeFile(probe, '');
      await fs.rm(probe);
    } catch (error) {
      throw new Error(`data directory ${this.directory} is not writable: ${error.message}`);
    }
    const deadline = Date.now() + LOCK_PATIENCE_MS;
    while (this.lock === null) {
      try {
        this.lock = new VectorDb({ dimensions: 1, storagePath: path.join(this.directory, 'lock.redb') });
      } catch (error) {
        if (!/lock/i.test(error.message)) {
          throw new Error(`data directory ${this.directory} cannot be locked: ${error.message}`);
        }
        if (Date.now() > deadline) {
          throw new Error(`data directory ${this.directory} is in use by another process`);
        }
        await sleep(50);
      }
    }
  }

  // Opens what is in the directory. `note` takes texts for the log. Between collections other work gets its turn, within
  // one it does not: the engine builds its index in the constructor.
  async open(note) {
    const list = await this.#readList();
    this.kept = list !== null;
    this.dataId = list?.dataId ?? randomUUID();
    this.next = list?.next ?? 1;
    for (const { file, ...settings } of list?.collections ?? []) {
      const full = path.join(this.directory, file);
      try {
        await fs.access(full);
        const collection = new Collection(settings, full);
        await collection.open();
        this.collections.set(settings.name, collection);
      } catch (error) {
        note(`collection ${settings.name} is lost: ${error.message}`);
        this.kept = false;
      }
      await sleep(0);
    }
    if (!this.kept) {
      this.dataId = randomUUID();
      await this.#writeList();
    }
    await this.#removeStrays();
  }

  async #readList() {
    let text;
    try {
      text = await fs.readFile(path.join(this.directory, LIST), 'utf8');
    } catch (error) {
      if (error.code === 'ENOENT') {
        return null;
      }
      throw error;
    }
    try {
      const list = JSON.parse(text);
      if (list.version !== 1 || typeof list.dataId !== 'string' || !Array.isArray(list.collections)) {
        throw new Error('not a list of version 1');
      }
      return list;
    } catch (error) {
      throw new Error(`${path.join(this.directory, LIST)} is damaged: ${error.message}`);
    }
  }

  #writeList() {
    const collections = [...this.collections.values()].map((collection) => ({
      ...collection.settings,
      file: path.basename(collection.path),
    }));
    const list = { version: 1, dataId: this.dataId, next: this.next, collections };
    return writeDurably(this.directory, LIST, `${JSON.stringify(list, null, 2)}\n`);
  }

  // Files of collections that were made or dropped when the process was killed.
  async #removeStrays() {
    const kept = new Set([...this.collections.values()].map((collection) => path.basename(collection.path)));
    for (const file of await fs.readdir(this.directory)) {
      const match = /^(\d+\.redb)(\.ids)?(\.new)?$/.exec(file);
      if (match && !kept.has(match[1])) {
        await fs.rm(path.join(this.directory, file), { force: true });
      }
    }
  }

  #inTurn(work) {
    const result = this.changes.then(work);
    this.changes = result.catch(() => {});
    return result;
  }

  make(settings) {
    return this.#inTurn(async () => {
      if (this.collections.has(settings.name)) {
        throw conflict(`collection ${settings.name} already exists`);
      }
      const file = path.join(this.directory, `${this.next++}.redb`);
      const collection = new Collection(settings, file);
      await collection.open();
      this.collections.set(settings.name, collection);
      try {
        await this.#writeList();
      } catch (error) {
        this.collections.delete(settings.name);
        await collection.drop();
        await fs.rm(file, { force: true });
        throw error;
      }
    });
  }

  drop(name) {
    return this.#inTurn(async () => {
      const collection = this.get(name);
      this.collections.delete(name);
      try {
        await this.#writeList();
      } catch (error) {
        this.collections.set(name, collection);
        throw error;
      }
      await collection.drop();
      await fs.rm(collection.path, { force: true });
    });
  }

  get(name) {
    const collection = this.collections.get(name);
    if (!collection) {
      throw notFound(`collection ${name} not found`);
    }
    return collection;
  }
}
