// Volumes that go from one worker of the I/O hypervisor to the other and back while guests use them, and while the
// processes that serve them die or are replaced:
//
//   guest ── QEMU ── host agent ══ veth ══ I/O hypervisor: worker 0 | worker 1 ── file
//   guest ── QEMU ──┘                                                          ── RAM
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { EventView, VolumeView, WorkerView } from '../../src/api/schemas.js';
import { getJson } from '../lab/api.js';
import { Cleanup } from '../lab/cleanup.js';
import type { TestGuest } from '../lab/guest.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { isLongRun } from '../lab/run-length.js';
import { waitFor } from '../lab/wait.js';
import { VerifiedLoad } from './verified-load.js';

const VOLUMES = { vm1: 'file', vm2: 'ram' } as const;
const MOVES = isLongRun ? 600 : 30;
const MOVE_EVERY_MS = 100;
const SUM = 'dd if=/dev/vda bs=1M skip=160 count=8 iflag=direct 2>/dev/null | sha256sum';

describe('guests whose volumes change their workers', () => {
  const cleanup = new Cleanup();
  let lab: Outrigger;
  let guests: Record<keyof typeof VOLUMES, TestGuest>;

  before(async () => {
    cleanup.onSignals();
    lab = await Outrigger.open({ mtu: 9000, cleanup, workers: 2 });
    await lab.startBoth();
    for (const [vm, volume] of Object.entries(VOLUMES)) {
      await lab.cli('iohv', 'volume', 'create', volume, '--size', '192M', '--kind', volume);
      await lab.cli('iohv', 'attach', vm, '--host', HOST_NAME, '--disk', volume);
    }
    const [vm1, vm2] = await Promise.all([lab.bootGuest('vm1'), lab.bootGuest('vm2')]);
    guests = { vm1, vm2 };
  });

  after(() => cleanup.run());

  const volumes = () => getJson<VolumeView[]>(lab.socket('iohv'), '/v1/volumes');

  async function workers(): Promise<WorkerView[]> {
    return (await getJson<WorkerView[]>(lab.socket('iohv'), '/v1/workers')) ?? [];
  }

  /** To and fro, until `until` is over; a move that falls into the death of an engine is made by the next one. */
  async function moveUntil(until: Promise<unknown>, names: readonly string[]): Promise<number> {
    let isOver = false;
    const end = until.finally(() => {
      isOver = true;
    });
    let moves = 0;
    while (!isOver) {
      for (const name of names) {
        await lab.moveVolume(name, moves % 2).catch(() => {});
      }
      moves++;
      await sleep(MOVE_EVERY_MS);
    }
    await end;
    return moves;
  }

  test('are spread over both workers', async () => {
    assert.deepEqual((await volumes())?.map(({ worker }) => worker).sort(), [0, 1]);
    assert.deepEqual(
      (await workers()).map((row) => [row.worker, row.volumes, row.sessions]),
      [
        [0, 1, 1],
        [1, 1, 1],
      ],
    );
    assert.match(await lab.cli('iohv', 'worker', 'ls'), /WORKER +CPU +BUSY/);
  });

  test('have no error and no mismatch, and a volume in RAM keeps its content', async (t) => {
    await guests.vm2.must('dd if=/dev/urandom of=/dev/vda bs=1M seek=160 count=8 oflag=direct');
    const sum = await guests.vm2.must(SUM);
    const loads = await Promise.all([VerifiedLoad.start(guests.vm1), VerifiedLoad.start(guests.vm2)]);
    const moves = await moveUntil(sleep(MOVES * MOVE_EVERY_MS), Object.values(VOLUMES));
    const results = [];
    for (const load of loads) {
      await load.waitForEndOfPass();
      results.push(await load.stop());
      assert.equal(await load.kernelErrors(), '');
    }
    assert.equal(await guests.vm2.must(SUM), sum);
    const events = (await getJson<EventView[]>(lab.socket('iohv'), '/v1/events')) ?? [];
    const moved = events.filter(({ kind }) => kind === 'volume.moved');
    assert.ok(moved.length >= moves, `${moved.length} of ${moves}`);
    const slowest = Math.max(...moved.map(({ fields }) => Number(fields.ms)));
    const blackout = Math.max(...results.map(({ blackoutMs }) => blackoutMs));
    t.diagnostic(
      `measured: ${moved.length} moves, the slowest ${slowest} ms; longest wait of a guest ${blackout.toFixed(0)} ms`,
    );
  });

  test('nor when the engine of the host is killed meanwhile', async () => {
    const load = await VerifiedLoad.start(guests.vm2);
    await moveUntil(lab.killEngine('host'), ['ram']);
    await load.waitForEndOfPass();
    await load.stop();
    assert.equal(await load.kernelErrors(), '');
    await guests.vm2.powerOff();
    await lab.cli('iohv', 'detach', 'vm2', '--force'); // an engine that dies takes volumes in RAM along
    await lab.cli('iohv', 'volume', 'rm', 'ram');
  });

  test('nor when the engine of the I/O hypervisor is killed, then upgraded, meanwhile', async (t) => {
    const load = await VerifiedLoad.start(guests.vm1);
    await moveUntil(lab.killEngine('iohv'), ['file']);
    await load.waitForEndOfPass();
    await lab.settledEngine('iohv');
    await moveUntil(lab.cli('iohv', 'engine', 'upgrade'), ['file']);
    await load.waitForEndOfPass();
    const { blackoutMs } = await load.stop();
    assert.equal(await load.kernelErrors(), '');
    t.diagnostic(`measured: engine killed and upgraded: longest wait of the guest ${blackoutMs.toFixed(0)} ms`);
  });

  test('a supervisor that is started anew finds a volume where it was', async () => {
    await lab.settledEngine('iohv');
    await lab.moveVolume('file', 1);
    lab.supervisor('iohv').kill();
    await lab.supervisor('iohv').ended;
    await lab.start('iohv');
    await waitFor({ what: 'the volume to be known', timeoutMs: 60_000 }, async () => {
      const [file] = (await volumes()) ?? [];
      return file?.state === 'open' && file.worker === 1;
    });
    await guests.vm1.must('dd if=/dev/vda of=/dev/null bs=1M count=8 iflag=direct');
  });
});
