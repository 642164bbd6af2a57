// Snapshots and clones of a volume that a guest writes to all the time: a database commits transaction after
// transaction and tells of each on its console. Whatever was committed before a snapshot was asked for is in it, also
// when supervisor and engine are killed while it is being taken, and every clone of it is a disk of its own.
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { VolumeView } from '../../src/api/schemas.js';
import type { SnapshotView } from '../../src/api/snapshot-schemas.js';
import { change, getJson } from '../lab/api.js';
import { Cleanup } from '../lab/cleanup.js';
import { Database, examine } from '../lab/database.js';
import type { TestGuest } from '../lab/guest.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { isLongRun } from '../lab/run-length.js';
import { waitFor } from '../lab/wait.js';

const VM = 'db1';
const CHECKER = 'check1';
const CLONES = 8;
const KILLS = isLongRun ? 60 : 6;
/** A cut takes some milliseconds: a kill is somewhere in it, before it or after it. */
const KILL_WITHIN_MS = 60;
const WAIT_MS = 300_000;

interface Taken {
  name: string;
  /** The last transaction that was committed before the snapshot was asked for. */
  committed: number;
  digest: string;
}

describe('snapshots and clones under a database', () => {
  const cleanup = new Cleanup();
  let lab: Outrigger;
  let guest: TestGuest;
  let database: Database;
  const taken: Taken[] = [];

  before(async () => {
    cleanup.onSignals();
    lab = await Outrigger.open({ mtu: 9000, cleanup });
    await lab.startBoth();
    await lab.cli('iohv', 'volume', 'create', 'data', '--size', '128M');
    await lab.cli('iohv', 'attach', VM, '--host', HOST_NAME, '--disk', 'data');
    guest = await lab.bootGuest(VM);
    database = await Database.start(guest);
  });

  after(() => cleanup.run());

  const snapshotsPath = '/v1/volumes/data/snapshots';
  const digestOf = async (name: string) => (await lab.cli('iohv', 'volume', 'digest', name)).trim();

  async function volume(name: string): Promise<VolumeView> {
    const found = await getJson<VolumeView>(lab.socket('iohv'), `/v1/volumes/${name}`);
    assert.ok(found);
    return found;
  }

  async function snapshots(): Promise<SnapshotView[]> {
    return (await getJson<SnapshotView[]>(lab.socket('iohv'), snapshotsPath)) ?? [];
  }

  async function snapshot(name: string): Promise<void> {
    const before = database.committed;
    await lab.cli('iohv', 'volume', 'snapshot', 'create', 'data', name);
    taken.push({ name, committed: before, digest: await digestOf(`data@${name}`) });
  }

  /** Every file of a layer is one that a volume or a snapshot needs. */
  async function assertNoLeftovers(): Promise<void> {
    const volumes = (await lab.iohvStatus()).volumes;
    const known = new Set(volumes.flatMap(({ layers }) => layers));
    await waitFor({ what: 'files that nobody needs to go', timeoutMs: WAIT_MS }, () =>
      readdirSync(lab.volumeDir).every((name) => known.has(`${lab.volumeDir}/${name}`)),
    );
  }

  async function isOpen(name: string): Promise<void> {
    await waitFor({ what: `${name} to be open`, timeoutMs: WAIT_MS }, async () => {
      const view = await getJson<VolumeView>(lab.socket('iohv'), `/v1/volumes/${name}`);
      return view?.state === 'open';
    });
  }

  test('a snapshot is taken under load, and holds still', async () => {
    await snapshot('s1');
    await database.commits(3);
    assert.equal(await digestOf('data@s1'), taken[0]?.digest);
    await snapshot('s2');
    assert.notEqual(taken[1]?.digest, taken[0]?.digest);
    assert.equal((await volume('data')).layers.length, 3);
  });

  test(`supervisor and engine are killed at ${KILLS} moments of a cut: it has happened or not, and nothing is left over`, async () => {
    for (let round = 0; round < KILLS; round++) {
      const name = `k${round}`;
      const before = database.committed;
      const engine = await lab.settledEngine('iohv');
      const supervisor = lab.supervisor('iohv');
      const asked = change(lab.socket('iohv'), 'POST', snapshotsPath, { name }).then(
        () => true,
        () => false,
      );
      await sleep(Math.random() * KILL_WITHIN_MS);
      if (round % 3 !== 0) {
        process.kill(supervisor.pid, 'SIGKILL');
      }
      if (round % 3 !== 1) {
        process.kill(engine, 'SIGKILL');
      }
      const isAnswered = await asked;
      if (round % 3 !== 0) {
        await supervisor.ended;
        await lab.start('iohv');
      }
      await isOpen('data');
      await waitFor({ what: 'no snapshot to be pending', timeoutMs: WAIT_MS }, async () =>
        (await snapshots()).every(({ state }) => state === 'ready'),
      );
      const isTaken = (await snapshots()).some((other) => other.name === name);
      assert.ok(isTaken || !isAnswered, `${name} was acknowledged`);
      if (isTaken) {
        taken.push({ name, committed: before, digest: await digestOf(`data@${name}`) });
      }
      await assertNoLeftovers();
      await database.commits(1);
    }
  });

  test(`${CLONES} clones at once, each a whole database with all that was committed before its snapshot`, async () => {
    const chosen = [...taken.slice(0, 2), ...taken.slice(2).slice(-(CLONES - 3))];
    const clones = chosen.map(({ name, committed: least }) => ({ from: `data@${name}`, least }));
    while (clones.length < CLONES) {
      clones.push({ from: 'data', least: database.committed });
    }
    await Promise.all(
      clones.map(({ from }, i) => change(lab.socket('iohv'), 'PUT', `/v1/volumes/c${i}`, { from, size: 160 << 20 })),
    );
    assert.equal((await volume('c0')).size, 160 << 20);
    const disks = clones.flatMap((_, i) => ['--disk', `c${i}`]);
    await lab.cli('iohv', 'attach', CHECKER, '--host', HOST_NAME, ...disks);
    const checker = await lab.bootGuest(CHECKER);
    for (const [i, { from, least }] of clones.entries()) {
      await examine(checker, `/dev/vd${'abcdefgh'[i]}`, least, from);
    }
    await checker.powerOff();
    for (const { name, digest } of taken) {
      assert.equal(await digestOf(`data@${name}`), digest, `what clones write is theirs: ${name}`);
    }
  });

  test('a base stays while clones are there', async () => {
    await lab.cli('iohv', 'detach', CHECKER);
    const refused = await lab.tryCli('iohv', 'volume', 'snapshot', 'rm', 'data', 's1');
    assert.match(refused.stderr, /began with .*volume_has_clones[\s\S]*volume rm c0/);
    const busy = await lab.tryCli('iohv', 'volume', 'snapshot', 'rollback', 'data', 's1');
    assert.match(busy.stderr, /attached to db1/);
  });

  test('after a restart of everything all chains are open, and the guest goes on', async () => {
    await lab.stop();
    await lab.startBoth();
    for (const { name, state } of (await lab.iohvStatus()).volumes) {
      if (state !== 'open') {
        await isOpen(name);
      }
    }
    await database.commits(2);
  });

  test('a volume that is rolled back holds what the snapshot holds, and an export of it too', async () => {
    await guest.powerOff();
    await lab.cli('iohv', 'detach', VM);
    await lab.cli('iohv', 'volume', 'snapshot', 'rollback', 'data', 's1');
    await isOpen('data');
    assert.equal(await digestOf('data'), taken[0]?.digest);
    await lab.cli('iohv', 'volume', 'export', 'data@s2', `${lab.dir}/s2.orvol`);
    await lab.cli('iohv', 'volume', 'import', 'copy', `${lab.dir}/s2.orvol`);
    await isOpen('copy');
    assert.equal(await digestOf('copy'), taken[1]?.digest);
    await assertNoLeftoversAfterRemoval();
  });

  async function assertNoLeftoversAfterRemoval(): Promise<void> {
    for (const name of ['copy', ...Array.from({ length: CLONES }, (_, i) => `c${i}`), 'data']) {
      await lab.cli('iohv', 'volume', 'rm', name);
      await waitFor({ what: `${name} to be gone`, timeoutMs: WAIT_MS }, async () =>
        (await lab.iohvStatus()).volumes.every((view) => view.name !== name),
      );
    }
    await waitFor({ what: 'all files to be gone', timeoutMs: WAIT_MS }, () => readdirSync(lab.volumeDir).length === 0);
  }
});
