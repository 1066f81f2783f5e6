// Vectors at the door. The engine takes everything and suffers later: a stored NaN or infinity makes every search of the
// collection wrong or panic, and so do finite vectors whose products overflow its float32 arithmetic (inf - inf). A zero
// vector has no cosine. So non-finite components and, under Cosine, zero vectors are refused here, and vectors whose
// length leaves the safe range are stored scaled into it. Cosine does not notice; for the other metrics the engine's
// score of such a vector is then only roughly right, which its caller, who scores anew with the true vectors, repairs.
import { invalid } from './errors.js';

export const METRICS = ['Cosine', 'Euclidean', 'DotProduct', 'Manhattan'];
export const DIMENSION_MAX = 16384;

// Squared lengths: two vectors of length 1e18 have a product of 1e36 and a squared difference of 4e36, both below
// float32's 3.4e38. Below 1e-24 the squares of components vanish in float32, and with them a cosine.
const SQUARED_MAX = 1e36;
const SQUARED_MIN = 1e-24;

function scaled(vector, squared, length) {
  const factor = length / Math.sqrt(squared);
  return vector.map((component) => component * factor);
}

// The vector as the engine may have it: `vector` itself (a Float32Array) or, rarely, a scaled copy. `what` names it in a
// refusal.
export function admitted(vector, metric, what) {
  let squared = 0;
  for (let i = 0; i < vector.length; i++) {
    squared += vector[i] * vector[i];
  }
  // Squares of float32 values never overflow a double, so this is NaN or infinite only if a component is.
  if (!Number.isFinite(squared)) {
    throw invalid(`${what}: every component must be a finite float32 number`);
  }
  if (metric === 'Cosine') {
    if (squared === 0) {
      throw invalid(`${what}: a zero vector has no direction, the metric is Cosine`);
    }
    return squared > SQUARED_MAX || squared < SQUARED_MIN ? scaled(vector, squared, 1) : vector;
  }
  return squared > SQUARED_MAX ? scaled(vector, squared, Math.sqrt(SQUARED_MAX)) : vector;
}

// A JSON array as Float32Array.
export function fromArray(array, dimension, what) {
  if (!Array.isArray(array)) {
    throw invalid(`${what}: the vector must be an array of numbers`);
  }
  checkDimension(array.length, dimension, what);
  for (const component of array) {
    if (typeof component !== 'number') {
      throw invalid(`${what}: the vector must be an array of numbers`);
    }
  }
  return Float32Array.from(array);
}

export function checkDimension(actual, expected, what) {
  if (actual !== expected) {
    throw invalid(`${what}: dimension mismatch: expected ${expected}, got ${actual}`);
  }
}

// The engine's distances, in double precision: smaller is better.
export function distance(metric, a, b) {
  let dot = 0;
  let aa = 0;
  let bb = 0;
  let l1 = 0;
  let l2 = 0;
  for (let i = 0; i < a.length; i++) {
    const d = a[i] - b[i];
    dot += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
    l1 += Math.abs(d);
    l2 += d * d;
  }
  switch (metric) {
    case 'Euclidean':
      return Math.sqrt(l2);
    case 'DotProduct':
      return -dot;
    case 'Manhattan':
      return l1;
    default:
      return 1 - dot / Math.sqrt(aa * bb);
  }
}
