// The store after a power cut at any instant. A writer is recorded with strace, and the files are built again as
// they were after each of its system calls: with everything it wrote (it was killed), with its last write torn
// between two sectors, and with only what was synced (the power went). Each of them opens, as the result of some
// whole number of transactions, and none of those is missing that the writer had been told of.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Store } from '../../../src/supervisor/store.js';
import { assertPrefix } from './store-prefix.js';
import { type Scratch, scratch } from './support.js';

const WRITER = fileURLToPath(new URL('store-writer.js', import.meta.url));
const ROUNDS = 12;
const REOPEN_EVERY = 4;
const SECTOR = 512;
const CALLS = 'openat,close,pwrite64,ftruncate,fsync,fdatasync,unlink,write';

type Step =
  | { do: 'write'; file: string; offset: number; data: Buffer }
  | { do: 'truncate'; file: string; size: number }
  | { do: 'create' | 'sync' | 'unlink'; file: string }
  | { do: 'acknowledge'; rounds: number };

let dir: Scratch;
let steps: Step[];

before(async () => {
  dir = scratch();
  steps = readTrace(await record(`${dir.dir}/state`), `${dir.dir}/state`);
});

after(() => dir.remove());

async function record(stateDir: string): Promise<string> {
  const trace = `${dir.dir}/trace`;
  const strace = ['-f', '-qq', '-xx', '-s', '65536', '-e', `trace=${CALLS}`, '-o', trace];
  const writer = [process.execPath, WRITER, stateDir, `${ROUNDS}`, `${REOPEN_EVERY}`];
  // Its output goes nowhere, but into the trace.
  const child = spawn('strace', [...strace, ...writer], { stdio: ['ignore', 'ignore', 'inherit'] });
  const [status] = await once(child, 'close');
  assert.equal(status, 0);
  return readFileSync(trace, 'latin1');
}

const bytesOf = (text: string) => Buffer.from(text.replaceAll('\\x', ''), 'hex');

/** A call during which another thread made one is in two lines: whole again, at its end. */
function wholeCalls(trace: string): string[] {
  const begun = new Map<string, string>();
  return trace.split('\n').flatMap((line) => {
    const [, thread = '', start] = /^(\d+) +(.*) <unfinished \.\.\.>$/.exec(line) ?? [];
    if (start !== undefined) {
      begun.set(thread, start);
      return [];
    }
    const [, resumed = '', rest] = /^(\d+) +<\.\.\. \w+ resumed>(.*)$/.exec(line) ?? [];
    return rest === undefined ? [line] : [`${resumed} ${begun.get(resumed)}${rest}`];
  });
}

/** The calls that succeeded on files of the state directory, and what went to stdout. */
function readTrace(trace: string, stateDir: string): Step[] {
  const found: Step[] = [];
  const open = new Map<string, string>();
  const nameOf = (path: string) => (path.startsWith(`${stateDir}/`) ? path.slice(stateDir.length + 1) : undefined);
  for (const line of wholeCalls(trace)) {
    const [, call, args = '', result = '-1'] = /^\d+ +(\w+)\((.*)\) += (-?\d+)/.exec(line) ?? [];
    if (call === undefined || Number(result) < 0) {
      continue;
    }
    const text = bytesOf(/"([^"]*)"/.exec(args)?.[1] ?? '');
    const fd = /^\d+/.exec(args)?.[0] ?? '';
    const file = open.get(fd);
    const last = Number(/(\d+)$/.exec(args)?.[1]);
    if (call === 'openat') {
      const name = nameOf(text.toString());
      open.delete(result);
      if (name?.startsWith('state.db')) {
        open.set(result, name);
        found.push({ do: 'create', file: name });
      }
    } else if (call === 'close') {
      open.delete(fd);
    } else if (call === 'unlink') {
      const name = nameOf(text.toString());
      found.push(...(name === undefined ? [] : [{ do: 'unlink', file: name } as const]));
    } else if (call === 'write') {
      found.push(...(fd === '1' ? [{ do: 'acknowledge', rounds: Number(text.toString()) } as const] : []));
    } else if (file !== undefined && call === 'pwrite64') {
      assert.equal(text.length, Number(result), 'strace records every byte');
      found.push({ do: 'write', file, offset: last, data: text });
    } else if (file !== undefined && call === 'ftruncate') {
      found.push({ do: 'truncate', file, size: last });
    } else if (file !== undefined) {
      found.push({ do: 'sync', file });
    }
  }
  return found;
}

type Files = Map<string, Buffer>;

function apply(files: Files, step: Step): void {
  if (step.do === 'create' && !files.has(step.file)) {
    files.set(step.file, Buffer.alloc(0));
  } else if (step.do === 'unlink') {
    files.delete(step.file);
  } else if (step.do === 'truncate') {
    files.set(step.file, resized(files.get(step.file), step.size));
  } else if (step.do === 'write') {
    const content = resized(files.get(step.file), step.offset + step.data.length, true);
    step.data.copy(content, step.offset);
    files.set(step.file, content);
  }
}

function resized(content: Buffer = Buffer.alloc(0), size: number, onlyGrows = false): Buffer {
  const bytes = Buffer.alloc(onlyGrows ? Math.max(size, content.length) : size);
  content.copy(bytes);
  return bytes;
}

function assertOpens(files: Files, acknowledged: number, when: string): void {
  const target = `${dir.dir}/again`;
  rmSync(target, { recursive: true, force: true });
  mkdirSync(target);
  for (const [name, content] of files) {
    writeFileSync(`${target}/${name}`, content);
  }
  try {
    const store = new Store(target);
    const rounds = assertPrefix(store);
    store.close();
    assert.ok(rounds >= acknowledged, `holds ${rounds} rounds of the ${acknowledged} that were acknowledged`);
  } catch (error) {
    throw new Error(when, { cause: error });
  }
}

/** Calls body for every instant: before the step, with the files as they are then. */
function replay(body: (index: number, step: Step, files: Files, acknowledged: number) => void): void {
  const files: Files = new Map();
  let acknowledged = 0;
  steps.forEach((step, index) => {
    body(index, step, files, acknowledged);
    apply(files, step);
    if (step.do === 'acknowledge') {
      acknowledged = step.rounds;
    }
  });
}

test('the recording holds transactions, and moves of the log into the database', () => {
  const count = (what: Step['do'], file?: string) =>
    steps.filter((step) => step.do === what && (file === undefined || ('file' in step && step.file === file))).length;
  assert.equal(count('acknowledge'), ROUNDS);
  assert.ok(count('sync', 'state.db-wal') >= ROUNDS);
  assert.ok(count('write', 'state.db') > ROUNDS / REOPEN_EVERY);
  assert.ok(count('unlink', 'state.db-wal') >= ROUNDS / REOPEN_EVERY);
});

test('killed after any system call, the store opens and holds what was acknowledged', () => {
  replay((index, _step, files, acknowledged) => assertOpens(files, acknowledged, `before call ${index}`));
});

test('so it does when the last write was torn between two sectors', () => {
  replay((index, step, files, acknowledged) => {
    if (step.do !== 'write') {
      return;
    }
    // All cuts of some writes, one of each other.
    const sectors = Math.ceil(step.data.length / SECTOR);
    const cuts = index % 16 === 0 ? Array.from({ length: sectors }, (_, i) => i) : [index % sectors];
    for (const cut of cuts) {
      const torn = new Map(files);
      apply(torn, { ...step, data: step.data.subarray(0, cut * SECTOR) });
      assertOpens(torn, acknowledged, `in call ${index}, after ${cut} sectors`);
    }
  });
});

test('so it does when what was not synced is lost, but for its last write', () => {
  const synced: Files = new Map();
  let pending: Step[] = [];
  replay((index, step, _files, acknowledged) => {
    if (index % 3 === 0 || step.do === 'sync' || step.do === 'unlink') {
      assertOpens(synced, acknowledged, `before call ${index}, what was synced`);
      const last = pending.at(-1);
      if (last !== undefined) {
        const reordered = new Map(synced);
        apply(reordered, last);
        assertOpens(reordered, acknowledged, `before call ${index}, out of order`);
      }
    }
    if (step.do === 'sync') {
      const isOfFile = (other: Step) => 'file' in other && other.file === step.file;
      for (const other of pending.filter(isOfFile)) {
        apply(synced, other);
      }
      pending = pending.filter((other) => !isOfFile(other));
    } else if (step.do === 'create' || step.do === 'unlink') {
      apply(synced, step); // of the folder, which SQLite syncs itself
      pending = pending.filter((other) => !('file' in other) || other.file !== step.file || step.do === 'create');
    } else if (step.do !== 'acknowledge') {
      pending.push(step);
    }
  });
});
