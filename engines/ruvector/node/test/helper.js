// A real server as child process, and requests to it.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const SERVER = fileURLToPath(new URL('../server.js', import.meta.url));

export const makeDirectory = () => fs.mkdtempSync(path.join(os.tmpdir(), 'outrigger-ruvector-'));

// Runs the program to its end. -> { code, stdout, stderr }
export function run(args, env = {}) {
  const child = spawn(process.execPath, [SERVER, ...args], { env: { ...process.env, ...env } });
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', (data) => (output.stdout += data));
  child.stderr.on('data', (data) => (output.stderr += data));
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, ...output })));
}

export class Server {
  static async start(directory, port = 0) {
    const server = new Server();
    server.directory = directory;
    server.child = spawn(process.execPath, [SERVER, '--data', directory, '--port', String(port)]);
    server.log = '';
    server.child.stderr.on('data', (data) => (server.log += data));
    server.ended = new Promise((resolve) => server.child.on('close', (code) => resolve(code)));
    server.agent = new http.Agent({ keepAlive: true });
    const line = await new Promise((resolve, reject) => {
      let text = '';
      server.child.stdout.on('data', (data) => {
        text += data;
        if (text.includes('\n')) {
          resolve(text);
        }
      });
      server.ended.then(() => reject(new Error(`the server ended: ${server.log}`)));
    });
    server.port = Number(/:(\d+) /.exec(line)[1]);
    return server;
  }

  // SIGKILL; returns when the process is gone.
  async kill() {
    this.child.kill('SIGKILL');
    this.agent.destroy();
    await this.ended;
  }

  async stop() {
    await this.kill();
    fs.rmSync(this.directory, { recursive: true, force: true });
  }

  // -> { status, headers, raw: Buffer, body: parsed JSON if it is JSON }. `body`: an object is sent as JSON, a Buffer or
  // string as it is.
  request(method, target, body, headers = {}) {
    const raw = Buffer.isBuffer(body) || typeof body === 'string';
    const payload = body === undefined || raw ? body : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const options = { port: this.port, host: '127.0.0.1', method, path: target, agent: this.agent };
      const request = http.request({ ...options, headers: { 'content-type': 'application/json', ...headers } }, (answer) => {
        const chunks = [];
        answer.on('data', (chunk) => chunks.push(chunk));
        answer.on('end', () => {
          const all = Buffer.concat(chunks);
          const isJson = /json/.test(answer.headers['content-type'] ?? '');
          const parsed = isJson && all.length > 0 ? JSON.parse(all.toString()) : undefined;
          resolve({ status: answer.statusCode, headers: answer.headers, raw: all, body: parsed });
        });
      });
      request.on('error', reject);
      request.end(payload);
    });
  }

  binary(method, target, body) {
    return this.request(method, target, body, { 'content-type': 'application/octet-stream' });
  }

  async make(name, dimension, metric = 'Euclidean', more = {}) {
    const answer = await this.request('POST', '/collections', { name, dimension, metric, ...more });
    if (answer.status !== 201) {
      throw new Error(`make ${name}: ${answer.status} ${answer.raw}`);
    }
  }

  async put(name, points) {
    const answer = await this.request('PUT', `/collections/${encodeURIComponent(name)}/points`, { points });
    if (answer.status !== 200) {
      throw new Error(`put into ${name}: ${answer.status} ${answer.raw}`);
    }
    return answer.body.ids;
  }

  // All ids, page by page.
  async list(name, limit = 1000) {
    const ids = [];
    let after;
    do {
      const answer = await this.request('POST', `/collections/${name}/points/scroll`, { after, limit });
      if (answer.status !== 200) {
        throw new Error(`scroll: ${answer.status} ${answer.raw}`);
      }
      ids.push(...answer.body.ids);
      after = answer.body.next;
    } while (after !== null);
    return ids;
  }
}
