// A lab's directory: configuration, sockets, logs, volumes. It goes at the end; its logs are saved first when
// OUTRIGGER_LAB_LOGS names a place for them (the test runner does). What a killed run left goes after a day.
import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { basename } from 'node:path';
import type { Cleanup } from './cleanup.js';

// Not the directory for temporary files, which is often in memory: volumes shall be on a disk. And a short
// name: the path of a unix socket may have 107 bytes.
const PARENT = '/var/tmp';
const LEFTOVER_AGE_MS = 24 * 3600 * 1000;

export function makeLabDir(cleanup: Cleanup): string {
  sweepLeftovers();
  const dir = mkdtempSync(`${PARENT}/or-${process.pid}-`);
  cleanup.add(() => {
    saveLogs(dir);
    rmSync(dir, { recursive: true, force: true });
  });
  return dir;
}

/** To a directory that outlives the lab. */
export function saveLogs(dir: string, target = process.env.OUTRIGGER_LAB_LOGS): void {
  if (target !== undefined) {
    const isKept = (path: string) => statSync(path).isDirectory() || /\.(log|yaml)$/.test(path);
    cpSync(dir, `${target}/${basename(dir)}`, { recursive: true, filter: isKept });
  }
}

function sweepLeftovers(): void {
  for (const name of readdirSync(PARENT)) {
    const pid = /^or-(\d+)-\w{6}$/.exec(name)?.[1];
    const path = `${PARENT}/${name}`;
    if (
      pid !== undefined &&
      !existsSync(`/proc/${pid}`) &&
      Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now()) > LEFTOVER_AGE_MS
    ) {
      rmSync(path, { recursive: true, force: true });
    }
  }
}
