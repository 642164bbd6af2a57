// Where a test run leaves its logs: a directory of its own, named after the time. The last few are kept.
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { repoRoot } from '../lab/paths.js';

const RUNS_KEPT = 10;

export function makeLogDir(): string {
  const parent = `${repoRoot}/build/test-logs`;
  const dir = `${parent}/${new Date().toISOString().replace(/[:.]/g, '-')}`;
  mkdirSync(dir, { recursive: true });
  for (const old of readdirSync(parent).sort().slice(0, -RUNS_KEPT)) {
    rmSync(`${parent}/${old}`, { recursive: true });
  }
  return dir;
}
