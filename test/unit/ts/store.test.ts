import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import Database from 'better-sqlite3';
import { OutriggerError } from '../../../src/errors.js';
import { NO_LIMIT } from '../../../src/supervisor/limits.js';
import type { Volume } from '../../../src/supervisor/model.js';
import { SCHEMA_VERSION, Store } from '../../../src/supervisor/store.js';
import { assertPrefix } from './store-prefix.js';
import { type Scratch, scratch } from './support.js';

const WRITER = fileURLToPath(new URL('store-writer.js', import.meta.url));

function withScratch(body: (dir: Scratch) => void | Promise<void>): () => Promise<void> {
  return async () => {
    const dir = scratch();
    try {
      await body(dir);
    } finally {
      dir.remove();
    }
  };
}

const disk: Volume = {
  ...{ name: 'd1', kind: 'file', path: '/v/d1', size: 4096, blockSize: 512 },
  ...{ readOnly: false, adopted: false, phase: 'creating', geometry: null, fault: null, ioTimeoutMs: 0 },
  limit: NO_LIMIT,
};
const use = { vm: 'web', disk: 'd1', host: 'h1', volume: 'd1', readOnly: false, queues: 2 };

const refused = (code: string) => (error: unknown) => error instanceof OutriggerError && error.code === code;

/** Runs the writer until it has acknowledged `rounds`, then kills it. Returns the last acknowledged round. */
async function killAfter(stateDir: string, rounds: number, limit: string): Promise<number> {
  const child: ChildProcess = spawn(process.execPath, [WRITER, stateDir, limit], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let acknowledged = 0;
  child.stdout?.on('data', (chunk: Buffer) => {
    acknowledged = Number(chunk.toString().trim().split('\n').at(-1));
    if (acknowledged >= rounds) {
      child.kill('SIGKILL');
    }
  });
  await once(child, 'close');
  return acknowledged;
}

test(
  'what was written is read back after the store was closed',
  withScratch((dir) => {
    let store = new Store(dir.dir);
    store.addVolume(disk);
    store.setReady('d1');
    const geometry = {
      size: 4096,
      blockSize: 512,
      physicalBlockSize: 512,
      direct: true,
      discard: false,
      writeZeroes: true,
    };
    store.setGeometry('d1', geometry);
    store.attach([use]);
    store.putReport('h1', '{}');
    store.close();
    store = new Store(dir.dir);
    const { volumes, attachments, revision } = store.desired();
    assert.deepEqual(volumes, [{ ...disk, phase: 'ready', geometry }]);
    assert.deepEqual(attachments, [{ id: 1, generation: 1, ...use }]);
    assert.equal(revision, 4);
    assert.equal(store.reports().get('h1'), '{}');
    store.close();
  }),
);

test(
  'ids and generations are never used again',
  withScratch((dir) => {
    let store = new Store(dir.dir);
    store.addVolume(disk);
    for (let n = 1; n <= 3; n++) {
      store.attach([use]);
      const [attachment] = store.desired().attachments;
      assert.equal(attachment?.id, n);
      assert.equal(attachment?.generation, n);
      store.detach([n]);
      store.close();
      store = new Store(dir.dir);
    }
    store.close();
  }),
);

test(
  'of several disks all are attached or none',
  withScratch((dir) => {
    const store = new Store(dir.dir);
    store.addVolume(disk);
    assert.throws(() => store.attach([use, { ...use, disk: 'd2', volume: 'none' }]));
    assert.deepEqual(store.desired().attachments, []);
    store.close();
  }),
);

test(
  'a second supervisor on the same state directory is refused',
  withScratch((dir) => {
    const store = new Store(dir.dir);
    assert.throws(() => new Store(dir.dir), refused('state_locked'));
    store.close();
    new Store(dir.dir).close();
  }),
);

test(
  'a state of a newer version is refused and left alone',
  withScratch((dir) => {
    new Store(dir.dir).close();
    const db = new Database(`${dir.dir}/state.db`);
    db.pragma(`user_version = ${SCHEMA_VERSION + 1}`);
    db.close();
    assert.throws(() => new Store(dir.dir), refused('state_version'));
  }),
);

test(
  'a state that is no database is refused',
  withScratch((dir) => {
    dir.file('state.db', 'this is not a database, but long enough to be mistaken for one'.repeat(20));
    assert.throws(() => new Store(dir.dir), refused('state_unreadable'));
  }),
);

test(
  'kill -9 in the middle of writing loses nothing that was acknowledged',
  withScratch(async (dir) => {
    for (let rounds = 1; rounds <= 20; rounds++) {
      const stateDir = `${dir.dir}/${rounds}`;
      const acknowledged = await killAfter(stateDir, rounds, 'Infinity');
      const store = new Store(stateDir);
      assert.ok(assertPrefix(store) >= acknowledged);
      store.close();
    }
  }),
);

test(
  'a write-ahead log that was cut anywhere opens at a whole transaction',
  withScratch(async (dir) => {
    const source = `${dir.dir}/source`;
    const acknowledged = await killAfter(source, 30, '30');
    const wal = readFileSync(`${source}/state.db-wal`);
    const frame = 4096 + 24;
    assert.ok(wal.length > 50 * frame, 'the log holds all that was written');
    const counts: number[] = [];
    // Cuts at frame borders, within frame headers and within pages, over the whole log.
    for (let cut = 0, n = 0; cut <= wal.length; cut += Math.ceil(wal.length / 120) + (n % 3), n++) {
      const target = `${dir.dir}/cut-${cut}`;
      const store = openCopy(source, target, wal.subarray(0, cut));
      counts.push(assertPrefix(store));
      store.close();
    }
    assert.deepEqual(
      counts,
      [...counts].sort((a, b) => a - b),
      'a longer log never holds less',
    );
    const whole = openCopy(source, `${dir.dir}/whole`, wal);
    assert.equal(assertPrefix(whole), acknowledged);
    whole.close();
  }),
);

function openCopy(source: string, target: string, wal: Buffer): Store {
  const fresh = new Store(target); // makes the folder
  fresh.close();
  copyFileSync(`${source}/state.db`, `${target}/state.db`);
  writeFileSync(`${target}/state.db-wal`, wal);
  assert.ok(existsSync(`${target}/state.db`) && statSync(`${target}/state.db-wal`).size === wal.length);
  return new Store(target);
}
