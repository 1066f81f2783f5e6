// RuVector's own code, or a word on how to get it.
import { createRequire } from 'node:module';

function load() {
  try {
    return createRequire(import.meta.url)('@ruvector/core');
  } catch (error) {
    process.stderr.write(`ruvector: the npm packages do not load (${error.message.split('\n')[0]}): run scripts/fetch-ruvector.sh\n`);
    process.exit(1);
  }
}

export const { VectorDb } = load();
