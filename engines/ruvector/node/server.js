#!/usr/bin/env node
// HTTP server around RuVector's npm core: the engine beside one Outrigger sidecar. lib/http.js has the REST contract,
// lib/store.js the data directory. One line on standard output says that it serves.
import { parseArgs } from 'node:util';
import { Store } from './lib/store.js';
import { makeServer } from './lib/http.js';

const USAGE = `usage: node server.js --data DIR --port N [--host 127.0.0.1]

  --data DIR   where the vectors are kept; made if need be          (or DATA in the environment)
  --port N     port to listen on; 0 takes a free one, 6333 default  (or PORT)
  --host H     address to listen on; default 127.0.0.1              (or HOST)
`;

const note = (text) => process.stderr.write(`ruvector: ${text}\n`);

function fail(text, status = 1) {
  process.stderr.write(`ruvector: ${text}\n`);
  process.exit(status);
}

function readSettings() {
  let values;
  try {
    ({ values } = parseArgs({
      options: {
        data: { type: 'string' },
        port: { type: 'string' },
        host: { type: 'string' },
        help: { type: 'boolean', short: 'h' },
      },
    }));
  } catch (error) {
    fail(`${error.message}\n${USAGE}`, 2);
  }
  if (values.help) {
    process.stdout.write(USAGE);
    process.exit(0);
  }
  const data = values.data ?? process.env.DATA;
  const port = values.port ?? process.env.PORT ?? '6333';
  const host = values.host ?? process.env.HOST ?? '127.0.0.1';
  if (!data) {
    fail(`--data is missing\n${USAGE}`, 2);
  }
  if (!/^\d{1,5}$/.test(port) || Number(port) > 65535) {
    fail(`--port ${port} is not a port number\n${USAGE}`, 2);
  }
  return { data, port: Number(port), host };
}

function listen(server, port, host) {
  return new Promise((resolve, reject) => {
    server.once('error', (error) => {
      const why = error.code === 'EADDRINUSE' ? 'the port is in use' : error.message;
      reject(new Error(`cannot listen on ${host}:${port}: ${why}`));
    });
    server.listen({ port, host, backlog: 511 }, () => resolve(server.address().port));
  });
}

async function main() {
  const { data, port, host } = readSettings();
  // A stop needs no farewell: what was answered is on disk, and the rest is repeated by the sidecar.
  process.on('SIGTERM', () => process.exit(0));
  process.on('SIGINT', () => process.exit(0));

  const store = new Store(data);
  const state = { ready: false };
  try {
    await store.claim();
    const server = makeServer(store, state, note);
    const actualPort = await listen(server, port, host);
    await store.open(note);
    state.ready = true;
    process.stdout.write(`ruvector: listening on http://${host}:${actualPort} data=${data}\n`);
  } catch (error) {
    fail(error.message);
  }
}

main();
