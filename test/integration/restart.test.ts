// A guest's disk while the processes that serve it die or are replaced: engines and supervisors of both sides.
// QEMU is to notice nothing: whether it had to connect again is read off the sockets that it has open.
import assert from 'node:assert/strict';
import { readdirSync, readlinkSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import type { EngineUpgrade, EventView } from '../../src/api/schemas.js';
import { findAccel } from '../lab/accel.js';
import { getJson } from '../lab/api.js';
import { Cleanup } from '../lab/cleanup.js';
import { TestGuest } from '../lab/guest.js';
import type { Side } from '../lab/netns.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { waitFor } from '../lab/wait.js';
import { VerifiedLoad } from './verified-load.js';

const VM = 'vm1';
const KILLS = 3;
const UP_TIMEOUT_MS = 60_000;
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
    const { args } = await lab.vmArgs(VM, '--memory', '512M');
    const wrap = (argv: readonly [string, ...string[]]) => lab.segment.wrap('host', argv);
    guest = await TestGuest.boot({ dir: lab.dir, name: VM, accel: await findAccel(), args, wrap, cleanup });
  });

  after(() => cleanup.run());

  const engineOf = async (side: Side) => (await lab.tryStatus(side))?.engine;

  /** The sockets that QEMU has open: another one is there after it has connected again. */
  function qemuSockets(): string[] {
    const folder = `/proc/${guest.qemu.process.pid}/fd`;
    const targets = readdirSync(folder).map((fd) => readlinkSync(`${folder}/${fd}`));
    return targets.filter((target) => target.startsWith('socket:')).sort();
  }

  /** The engine runs and, with `standby`, the next one is ready. */
  async function settled(side: Side): Promise<number> {
    const engine = await waitFor({ what: `engine and standby of ${side}`, timeoutMs: UP_TIMEOUT_MS }, async () => {
      const now = await engineOf(side);
      return now?.state === 'running' && now.standby === 'ready' ? now : undefined;
    });
    await lab.waitForSession();
    return engine.pid ?? 0;
  }

  /** kill -9 of the engine; resolves with the blackout as the supervisor saw it, ms. */
  async function killEngine(side: Side): Promise<number> {
    const victim = await settled(side);
    const deaths = (await engineOf(side))?.deaths ?? 0;
    process.kill(victim, 'SIGKILL');
    await waitFor({ what: 'another engine', timeoutMs: UP_TIMEOUT_MS }, async () => {
      const engine = await engineOf(side);
      return engine?.deaths === deaths + 1 && engine.state === 'running';
    });
    await lab.waitForSession();
    return (await engineOf(side))?.last_blackout_ms ?? Number.NaN;
  }

  for (const side of SIDES) {
    test(`when the engine of the ${side} is killed`, async (t) => {
      const sockets = qemuSockets();
      const load = await VerifiedLoad.start(guest);
      const seen: number[] = [];
      for (let i = 0; i < KILLS; i++) {
        seen.push(await killEngine(side));
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
    const engines = [await settled('host'), await settled('iohv')];
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
    assert.deepEqual([await settled('host'), await settled('iohv')], engines, 'the engines went on');
    assert.deepEqual(qemuSockets(), sockets);
    t.diagnostic(`measured: both supervisors killed: longest wait of the guest ${blackoutMs.toFixed(0)} ms`);
  });

  for (const side of SIDES) {
    test(`when a new supervisor's first engine of the ${side} dies`, async () => {
      const sockets = qemuSockets();
      await killEngine(side);
      await guest.must('dd if=/dev/vda of=/dev/null bs=1M count=16 iflag=direct');
      assert.deepEqual(qemuSockets(), sockets);
    });

    test(`when the engine of the ${side} is upgraded`, async (t) => {
      const sockets = qemuSockets();
      const load = await VerifiedLoad.start(guest);
      const seen: number[] = [];
      for (let i = 0; i < KILLS; i++) {
        const pid = await settled(side);
        const result = JSON.parse(await lab.cli(side, 'engine', 'upgrade', '--json')) as EngineUpgrade;
        assert.equal(result.from.pid, pid);
        assert.equal(result.to.pid, await settled(side));
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
