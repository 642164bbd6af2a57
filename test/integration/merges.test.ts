// Snapshots that come and go, day after day as it were, of a volume that a database writes to all the time. What
// nobody needs any more is merged away beside it, while supervisor and engine are killed: the chain stays short, the
// space comes back, each snapshot stays as it is, and the database has all that it committed.
import assert from 'node:assert/strict';
import { readdirSync, statSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { VolumeView } from '../../src/api/schemas.js';
import { change, getJson } from '../lab/api.js';
import { Cleanup } from '../lab/cleanup.js';
import { Database, examine } from '../lab/database.js';
import type { TestGuest } from '../lab/guest.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { isLongRun } from '../lab/run-length.js';
import { waitFor } from '../lab/wait.js';

const VM = 'db1';
const CHECKER = 'check1';
const ROUNDS = isLongRun ? 60 : 8;
/** How many snapshots there are at a time. */
const KEPT = 3;
const KILL_WITHIN_MS = 150;
const WAIT_MS = 300_000;

describe('snapshots that come and go under a database', () => {
  const cleanup = new Cleanup();
  let lab: Outrigger;
  let guest: TestGuest;
  let database: Database;
  const kept: { name: string; digest: string }[] = [];

  before(async () => {
    cleanup.onSignals();
    lab = await Outrigger.open({ mtu: 9000, cleanup, cacheSize: '32M' });
    await lab.startBoth();
    await lab.cli('iohv', 'volume', 'create', 'data', '--size', '128M', '--cache', 'write-back');
    await lab.cli('iohv', 'attach', VM, '--host', HOST_NAME, '--disk', 'data');
    guest = await lab.bootGuest(VM);
    database = await Database.start(guest);
  });

  after(() => cleanup.run());

  const digestOf = async (name: string) => (await lab.cli('iohv', 'volume', 'digest', name)).trim();
  const view = () => getJson<VolumeView>(lab.socket('iohv'), '/v1/volumes/data');
  const paths = () => readdirSync(lab.volumeDir).map((name) => `${lab.volumeDir}/${name}`);
  const usedBytes = () => paths().reduce((sum, path) => sum + statSync(path).blocks * 512, 0);

  /** Nothing is left to merge, and the volume's files are all that there are. */
  async function settled(layers: number): Promise<void> {
    await waitFor({ what: `${layers} layers`, timeoutMs: WAIT_MS }, async () => {
      const found = await view();
      const files = paths();
      return (
        found?.state === 'open' &&
        found.merging === null &&
        found.layers.length <= layers &&
        files.length === found.layers.length &&
        files.every((path) => found.layers.includes(path))
      );
    });
  }

  async function snapshot(name: string): Promise<void> {
    await lab.cli('iohv', 'volume', 'snapshot', 'create', 'data', name);
    kept.push({ name, digest: await digestOf(`data@${name}`) });
  }

  /** The oldest, and every third time the one in the middle. */
  async function removeOne(round: number, disturb = async () => {}): Promise<void> {
    const [{ name } = { name: '' }] = kept.splice(round % 3 === 2 ? 1 : 0, 1);
    const isRemoved = change(lab.socket('iohv'), 'DELETE', `/v1/volumes/data/snapshots/${name}`).then(
      () => true,
      () => false,
    );
    await disturb();
    if (!(await isRemoved)) {
      await lab.tryCli('iohv', 'volume', 'snapshot', 'rm', 'data', name); // it may be gone all the same
    }
    assert.ok(!(await view())?.snapshots.includes(name));
  }

  async function kill(round: number): Promise<void> {
    const engine = await lab.settledEngine('iohv');
    const supervisor = lab.supervisor('iohv');
    await sleep(Math.random() * KILL_WITHIN_MS);
    if (round % 3 !== 0) {
      process.kill(supervisor.pid, 'SIGKILL');
    }
    if (round % 3 !== 1) {
      process.kill(engine, 'SIGKILL');
    }
    if (round % 3 !== 0) {
      await supervisor.ended;
      await lab.start('iohv');
    }
  }

  test(`${ROUNDS} of them, with supervisor and engine killed: at most ${KEPT + 2} layers, and each snapshot as it was`, async () => {
    for (let round = 0; round < ROUNDS; round++) {
      await snapshot(`s${round}`);
      await database.commits(2);
      if (kept.length > KEPT) {
        await removeOne(round, () => kill(round));
      }
      await settled(kept.length + 2);
      for (const { name, digest } of kept) {
        assert.equal(await digestOf(`data@${name}`), digest, `${name} after round ${round}`);
      }
      await database.commits(1);
    }
  });

  test('without snapshots two files are left, and what the others took is free', async () => {
    const before = usedBytes();
    while (kept.length > 0) {
      await removeOne(0);
    }
    await settled(2);
    assert.ok(usedBytes() < before, `${usedBytes()} bytes, before ${before}`);
    await database.commits(2);
  });

  test('the database is whole, after a restart of everything too', async () => {
    const { committed } = database;
    await guest.powerOff();
    await lab.cli('iohv', 'detach', VM);
    await lab.stop();
    await lab.startBoth();
    await settled(2);
    await lab.cli('iohv', 'attach', CHECKER, '--host', HOST_NAME, '--disk', 'data');
    const checker = await lab.bootGuest(CHECKER);
    await examine(checker, '/dev/vda', committed, 'data');
    await checker.powerOff();
  });
});
