// A database in a guest, killed in the middle of its transactions: QEMU and the engine of the I/O hypervisor
// die at the same moment, sometimes with everything else. After each death the guest boots again, and every
// transaction that was committed is there.
//
// The guest tells of each commit on its console, after SQLite has returned from it. Without the sync of the
// directory (synchronous=EXTRA) SQLite itself does not promise that a transaction in DELETE mode stays.
// A long run (bin/test --long) does it 50 times.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Cleanup } from '../lab/cleanup.js';
import { CREATE, workload } from '../lab/database.js';
import type { TestGuest } from '../lab/guest.js';
import type { Side } from '../lab/netns.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { isLongRun } from '../lab/run-length.js';
import { waitFor } from '../lab/wait.js';

const VM = 'db1';
const ROUNDS = isLongRun ? 50 : 4;
/** The cache is small, so that it is full when the guest dies, and what is dirty is not written out by its age. */
const STORAGES = [
  { title: 'on a file', cacheSize: '0', flags: [] },
  { title: 'on a cache in write-back', cacheSize: '16M', flags: ['--cache', 'write-back', '--dirty-age', '1min'] },
];
const COMMITS_MAX = 30;
const PAUSE_MS_MAX = 300;
const COMMIT_TIMEOUT_MS = 180_000;

/** Who dies with QEMU and the engine of the I/O hypervisor, round by round. */
const COMPANY: readonly (readonly ['engine' | 'supervisor', Side][])[] = [
  [],
  [['supervisor', 'iohv']],
  [['engine', 'host']],
  [],
  [
    ['supervisor', 'iohv'],
    ['engine', 'host'],
    ['supervisor', 'host'],
  ],
];

for (const { title, cacheSize, flags } of STORAGES) {
  describe(`a database in a guest that is killed ${ROUNDS} times, ${title}`, () => {
    const cleanup = new Cleanup();
    let lab: Outrigger;
    let guest: TestGuest;

    before(async () => {
      cleanup.onSignals();
      lab = await Outrigger.open({ mtu: 9000, cleanup, cacheSize });
      await lab.startBoth();
      await lab.cli('iohv', 'volume', 'create', 'data', '--size', '256M', ...flags);
      await lab.cli('iohv', 'attach', VM, '--host', HOST_NAME, '--disk', 'data');
      await bootGuest(0);
      await guest.must('mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt');
      await guest.must(CREATE);
    });

    after(() => cleanup.run());

    async function bootGuest(round: number): Promise<void> {
      guest = await lab.bootGuest(VM, { name: `${VM}-${round}` });
    }

    /** The last transaction of which the guest said that it was committed, before everything died. */
    async function runUntilDeath(first: number, round: number): Promise<number> {
      let committed = first - 1;
      const close = await guest.qemu.onConsole((line) => {
        const n = /committed (\d+)\s*$/.exec(line)?.[1];
        committed = n === undefined ? committed : Math.max(committed, Number(n));
      });
      const journal = Math.random() < 0.5 ? 'WAL' : 'DELETE';
      await guest.must(workload({ first, journal, synchronous: 'EXTRA', inserted: 30000, changed: 5000 }));
      const target = first + Math.floor(Math.random() * COMMITS_MAX);
      await waitFor({ what: `the commit of ${target}`, timeoutMs: COMMIT_TIMEOUT_MS }, () => committed >= target);

      const company = COMPANY[round % COMPANY.length] ?? [];
      const pids = [await lab.enginePid('iohv')];
      for (const [what, side] of company) {
        pids.push(what === 'engine' ? await lab.enginePid(side) : lab.supervisor(side).pid);
      }
      await sleep(Math.random() * PAUSE_MS_MAX);
      for (const pid of [guest.qemu.process.pid, ...pids]) {
        process.kill(pid, 'SIGKILL');
      }
      await guest.qemu.process.ended;
      await sleep(100); // what the console had sent is read
      close();
      for (const [what, side] of company) {
        if (what === 'supervisor') {
          await lab.supervisor(side).ended;
          await lab.start(side);
        }
      }
      return committed;
    }

    /** What the guest finds after its next boot: the number of the last transaction. */
    async function examine(committed: number): Promise<number> {
      const fsck = await guest.run('e2fsck -fp /dev/vda');
      assert.ok(fsck.status <= 1, `e2fsck: ${fsck.output}`); // 1: it has replayed the journal
      await guest.must('e2fsck -fn /dev/vda && mount /dev/vda /mnt');
      const answer = await guest.must(
        'sqlite3 /mnt/db "PRAGMA integrity_check; SELECT value FROM counter; SELECT count(*) FROM entry;' +
          'SELECT max(n) FROM entry; SELECT count(*) FROM entry WHERE sha3(payload) IS NOT digest;"',
      );
      const [integrity, ...numbers] = answer.split('\n');
      assert.equal(integrity, 'ok', answer);
      const [counter = -1, rows, last, wrong] = numbers.map(Number);
      assert.deepEqual([rows, last, wrong], [counter, counter, 0], answer);
      assert.ok(counter >= committed, `${committed} was committed, the database ends at ${counter}`);
      return counter;
    }

    test('has every transaction that was committed', async (t) => {
      let last = 0;
      for (let round = 1; round <= ROUNDS; round++) {
        const committed = await runUntilDeath(last + 1, round - 1);
        assert.ok(committed > last, 'the guest committed nothing');
        await bootGuest(round);
        last = await examine(committed);
      }
      t.diagnostic(`measured: killed ${ROUNDS} times, ${last} transactions, none lost`);
    });
  });
}
