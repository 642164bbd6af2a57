// A guest's disk while the processes that serve it die or are replaced: engines and supervisors of both sides.
// QEMU is to notice nothing: whether it had to connect again is read off the sockets that it has open.
import assert from 'node:assert/strict';
import { readdirSync, readlinkSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import type { EngineUpgrade, EventView } from '../../src/api/schemas.js';
import { getJson } from '../lab/api.js';
import { Cleanup } from '../lab/cleanup.js';
import type { TestGuest } from '../lab/guest.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { VerifiedLoad } from './verified-load.js';

const VM = 'vm1';
const KILLS = 2;
const SIDES = ['host', 'iohv'] as const;

describe('a guest with verified I/O notices nothing', () => {
  const cleanup = new Cleanup();
  let lab: Outrigger;
  let guest: TestGuest;

  before(async () => {
    cleanup.onSignals();
    lab = await Outrigger.open({ mtu: 9000, cleanup });
    await lab.startBoth();
    await lab.cli('iohv', 'volume', 'create', 'data', '--size', '256M');
    await lab.cli('iohv', 'attach', VM, '--host', HOST_NAME, '--disk', 'data');
    guest = await lab.bootGuest(VM);
  });

  after(() => cleanup.run());

  /** The sockets that QEMU has open: another one is there after it has connected again. */
  function qemuSockets(): string[] {
    const folder = `/proc/${guest.qemu.process.pid}/fd`;
    const targets = readdirSync(folder).map((fd) => readlinkSync(`${folder}/${fd}`));
    return targets.filter((target) => target.startsWith('socket:')).sort();
  }

  for (const side of SIDES) {
    test(`when the engine of the ${side} is killed`, async (t) => {
      const sockets = qemuSockets();
      const load = await VerifiedLoad.start(guest);
      const seen: number[] = [];
      for (let i = 0; i < KILLS; i++) {
        seen.push(await lab.killEngine(side));
        await load.waitForEndOfPass();
      }
      const { blackoutMs } = await load.stop();
      assert.equal(await load.kernelErrors(), '');
      assert.deepEqual(qemuSockets(), sockets, 'QEMU has not connected again');
      const events = (await getJson(lab.socket(side), '/v1/events')) as EventView[];
      const restored = events.filter(({ kind, fields }) => kind === 'step.done' && fields.restored === true);
      assert.equal(restored.length, side === 'host' ? KILLS : 0);
      t.diagnostic(
        `measured: engine of the ${side} killed ${KILLS} times: longest blackout ${blackoutMs.toFixed(0)} ms, ` +
          `as the supervisor saw them ${seen.map((ms) => ms.toFixed(0)).join(', ')} ms`,
      );
    });
  }

  test('when the supervisors of both sides are killed and come back', async (t) => {
    const sockets = qemuSockets();
    const engines = [await lab.settledEngine('host'), await lab.settledEngine('iohv')];
    const load = await VerifiedLoad.start(guest);
    for (const side of SIDES) {
      lab.supervisor(side).kill();
      await lab.supervisor(side).ended;
      await load.waitForEndOfPass();
      await lab.start(side);
    }
    await load.waitForEndOfPass();
    const { blackoutMs } = await load.stop();
    assert.equal(await load.kernelErrors(), '');
    assert.deepEqual(
      [await lab.settledEngine('host'), await lab.settledEngine('iohv')],
      engines,
      'the engines went on',
    );
    assert.deepEqual(qemuSockets(), sockets);
    t.diagnostic(`measured: both supervisors killed: longest wait of the guest ${blackoutMs.toFixed(0)} ms`);
  });

  for (const side of SIDES) {
    test(`when a new supervisor's first engine of the ${side} dies`, async () => {
      const sockets = qemuSockets();
      await lab.killEngine(side);
      await guest.must('dd if=/dev/vda of=/dev/null bs=1M count=16 iflag=direct');
      assert.deepEqual(qemuSockets(), sockets);
    });

    test(`when the engine of the ${side} is upgraded`, async (t) => {
      const sockets = qemuSockets();
      const load = await VerifiedLoad.start(guest);
      const seen: number[] = [];
      for (let i = 0; i < KILLS; i++) {
        const pid = await lab.settledEngine(side);
        const result = JSON.parse(await lab.cli(side, 'engine', 'upgrade', '--json')) as EngineUpgrade;
        assert.equal(result.from.pid, pid);
        assert.equal(result.to.pid, await lab.settledEngine(side));
        assert.ok(result.blackout_ms !== null);
        seen.push(result.blackout_ms);
        await load.waitForEndOfPass();
      }
      const { blackoutMs } = await load.stop();
      assert.equal(await load.kernelErrors(), '');
      assert.deepEqual(qemuSockets(), sockets);
      t.diagnostic(
        `measured: engine of the ${side} upgraded ${KILLS} times: longest blackout ${blackoutMs.toFixed(0)} ms, ` +
          `as the supervisor saw them ${seen.map((ms) => ms.toFixed(1)).join(', ')} ms`,
      );
    });
  }
});
