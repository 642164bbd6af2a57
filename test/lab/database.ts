// A database in a guest that commits transaction after transaction, and what must hold of any moment of it.
import assert from 'node:assert/strict';
import type { TestGuest } from './guest.js';
import { waitFor } from './wait.js';

const WAIT_MS = 300_000;

/** Makes the tables that the workload writes to. */
export const CREATE =
  'sqlite3 /mnt/db "CREATE TABLE entry(n INTEGER PRIMARY KEY, payload BLOB, digest BLOB);' +
  'CREATE TABLE counter(value INTEGER); INSERT INTO counter VALUES(0);"; sync';

export interface Workload {
  /** The number of the first transaction. */
  first: number;
  journal: 'WAL' | 'DELETE';
  synchronous: 'FULL' | 'EXTRA';
  /** Bytes: at most so many of what is inserted, and of what an old row is changed to. */
  inserted: number;
  changed: number;
}

/** Transactions without end: each inserts rows, changes an old one and counts itself. */
export const workload = ({ first, journal, synchronous, inserted, changed }: Workload) => `
(
    echo "PRAGMA journal_mode=${journal}; PRAGMA synchronous=${synchronous}; PRAGMA busy_timeout=60000;"
    n=${first}
    while :; do
        echo "BEGIN;
INSERT INTO entry(n, payload) VALUES($n, randomblob(1 + abs(random()) % ${inserted}));
UPDATE entry SET digest = sha3(payload) WHERE n = $n;
UPDATE entry SET payload = randomblob(${changed}) WHERE n = $n / 2;
UPDATE entry SET digest = sha3(payload) WHERE n = $n / 2;
UPDATE counter SET value = $n;
COMMIT;
SELECT 'committed $n';"
        n=$((n + 1))
    done
) | sqlite3 /mnt/db >/dev/ttyS0 2>&1 &
`;

/** On the guest's disk /dev/vda, of which it takes all. */
export class Database {
  /** The last transaction that it said it had committed. */
  committed = 0;

  static async start(guest: TestGuest): Promise<Database> {
    const database = new Database();
    await guest.must('mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt');
    await guest.must(CREATE);
    await guest.qemu.onConsole((line) => {
      database.committed = Math.max(database.committed, Number(/committed (\d+)\s*$/.exec(line)?.[1] ?? 0));
    });
    await guest.must(workload({ first: 1, journal: 'WAL', synchronous: 'FULL', inserted: 20000, changed: 3000 }));
    await database.commits(2);
    return database;
  }

  commits(count: number): Promise<unknown> {
    const target = this.committed + count;
    return waitFor({ what: `the commit of ${target}`, timeoutMs: WAIT_MS }, () => this.committed >= target);
  }
}

/** The disk of a guest holds a whole database, with what was committed up to `least`. */
export async function examine(checker: TestGuest, device: string, least: number, what: string): Promise<void> {
  const fsck = await checker.run(`e2fsck -fp ${device}`, WAIT_MS);
  assert.ok(fsck.status <= 1, `${what}: e2fsck: ${fsck.output}`); // 1: it has replayed the journal
  await checker.must(`e2fsck -fn ${device} && mount ${device} /mnt`, WAIT_MS);
  const answer = await checker.must(
    'sqlite3 /mnt/db "PRAGMA integrity_check; SELECT value FROM counter; SELECT count(*) FROM entry;' +
      'SELECT max(n) FROM entry; SELECT count(*) FROM entry WHERE sha3(payload) IS NOT digest;"',
    WAIT_MS,
  );
  const [integrity, ...numbers] = answer.split('\n');
  assert.equal(integrity, 'ok', `${what}: ${answer}`);
  const [counter = -1, rows, last, wrong] = numbers.map(Number);
  assert.deepEqual([rows, last, wrong], [counter, counter, 0], `${what}: ${answer}`);
  assert.ok(counter >= least, `${what}: ${least} was committed, the database ends at ${counter}`);
  await checker.must('umount /mnt');
}
