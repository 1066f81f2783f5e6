// Metadata goes into the engine as the text of a JSON object. What its parser cannot read (nested more than 127 deep,
// a number beyond a double, a lone surrogate) it drops silently, and the *old* metadata of the id stay. Such metadata
// are stored as {}; whoever needs them to the letter has them in a log of their own.
import { invalid } from './errors.js';

const DEPTH_MAX = 100;
const BYTES_MAX = 64 * 1024;
// Escaped surrogates, exponents of three digits, endless digits: rare, and the only texts worth a second look.
const SUSPICIOUS = /\\u[dD][89a-fA-F]|\d[eE]\+?\d{3}|\d{300}/;
const SURROGATE = /\\ud[89a-f]/;

// How deeply brackets nest in JSON text given as bytes; strings are skipped.
export function jsonDepth(bytes) {
  let depth = 0;
  let deepest = 0;
  let inString = false;
  for (let i = 0; i < bytes.length; i++) {
    const c = bytes[i];
    if (inString) {
      if (c === 0x5c) {
        i++;
      } else if (c === 0x22) {
        inString = false;
      }
    } else if (c === 0x22) {
      inString = true;
    } else if (c === 0x7b || c === 0x5b) {
      if (++depth > deepest) {
        deepest = depth;
      }
    } else if (c === 0x7d || c === 0x5d) {
      depth--;
    }
  }
  return deepest;
}

export const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

// Text that the engine will take, from text that claims to be a JSON object.
export function metadataFromText(text, what) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    value = undefined;
  }
  if (!isObject(value)) {
    throw invalid(`${what}: metadata must be a JSON object`);
  }
  // Fewer than 200 bytes cannot nest 100 deep.
  if (text.length >= 2 * DEPTH_MAX && jsonDepth(Buffer.from(text)) > DEPTH_MAX) {
    return '{}';
  }
  if (!SUSPICIOUS.test(text)) {
    return text;
  }
  const canonical = JSON.stringify(value); // pairs of surrogates become characters, numbers out of range null
  return SURROGATE.test(canonical) ? '{}' : canonical;
}

// The same from a parsed value.
export function metadataFromValue(value, what) {
  if (!isObject(value)) {
    throw invalid(`${what}: metadata must be a JSON object`);
  }
  const text = JSON.stringify(value);
  if (Buffer.byteLength(text) > BYTES_MAX) {
    throw invalid(`${what}: metadata is larger than ${BYTES_MAX} bytes`);
  }
  return metadataFromText(text, what);
}
