// A guest's disk over AF_XDP, on both sides and on one, at MTU 9000: its frames come in several pieces then. Engines
// are killed under verified I/O; their successors have the interface's XDP program only when it is free again.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { EngineUpgrade } from '../../src/api/schemas.js';
import type { PortMode } from '../../src/supervisor/protocol.js';
import { Cleanup } from '../lab/cleanup.js';
import { runSync } from '../lab/command.js';
import type { TestGuest } from '../lab/guest.js';
import { SEGMENT_INTERFACE, type Side } from '../lab/netns.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { waitFor } from '../lab/wait.js';
import { VerifiedLoad } from './verified-load.js';

const VM = 'vm1';
const SIDES = ['iohv', 'host'] as const;
const ATTACH_TIMEOUT_MS = 30_000;

interface Case {
  name: string;
  portMode: Record<Side, PortMode>;
}

const cases: Case[] = [
  { name: 'AF_XDP on both sides', portMode: { host: 'xdp', iohv: 'xdp' } },
  { name: 'AF_XDP at the host only', portMode: { host: 'xdp', iohv: 'packet' } },
];

for (const { name, portMode } of cases) {
  describe(name, () => {
    const cleanup = new Cleanup();
    let lab: Outrigger;
    let guest: TestGuest;

    before(async () => {
      cleanup.onSignals();
      lab = await Outrigger.open({ mtu: 9000, portMode, cleanup });
      await lab.startBoth();
      await lab.cli('iohv', 'volume', 'create', 'data', '--size', '256M');
      await lab.cli('iohv', 'attach', VM, '--host', HOST_NAME, '--disk', 'data');
      guest = await lab.bootGuest(VM);
    });

    after(() => cleanup.run());

    /** Waits until every side that is told to use AF_XDP does. */
    async function isAttached(): Promise<void> {
      for (const side of SIDES) {
        await waitFor({ what: `AF_XDP at ${side}`, timeoutMs: ATTACH_TIMEOUT_MS }, async () => {
          const { mode, xdp } = (await lab.tryStatus(side))?.port ?? {};
          assert.equal(mode ?? portMode[side], portMode[side]);
          return portMode[side] === 'packet' || (xdp?.queues === 1 && xdp.frames === 'copied');
        });
      }
    }

    test('status says so', async () => {
      await isAttached();
      assert.match(await lab.cli('host', 'status'), /^port .*, mtu 9000, AF_XDP, copied: the driver has no/m); // it is veth
      assert.match(await lab.cli('host', 'status'), /^frames +plain: AF_XDP has no super-frames$/m);
      assert.doesNotMatch(await lab.cli('host', 'status'), /another process/);
    });

    test('the rest of the interface works beside it', () => {
      for (const [side, address] of [
        ['iohv', '10.8.0.1/24'],
        ['host', '10.8.0.2/24'],
      ] as const) {
        runSync(lab.segment.wrap(side, ['ip', 'address', 'add', address, 'dev', SEGMENT_INTERFACE]));
      }
      runSync(lab.segment.wrap('host', ['ping', '-q', '-c', '3', '-i', '0.01', '-w', '20', '10.8.0.1']));
    });

    for (const side of SIDES) {
      test(`has no error and no mismatch when the engine of the ${side} is killed`, async (t) => {
        const load = await VerifiedLoad.start(guest);
        const before = await lab.killEngine(side);
        await isAttached();
        await load.waitForEndOfPass();
        const { passes, blackoutMs } = await load.stop();
        assert.equal(await load.kernelErrors(), '');
        t.diagnostic(
          `measured: engine of ${side} killed: ${before.toFixed(0)} ms without one, blackout ${blackoutMs.toFixed(0)} ms, ${passes} passes`,
        );
      });

      test(`and when the engine of the ${side} is upgraded`, async (t) => {
        const load = await VerifiedLoad.start(guest);
        await lab.settledEngine(side);
        const result = JSON.parse(await lab.cli(side, 'engine', 'upgrade', '--json')) as EngineUpgrade;
        await isAttached();
        await load.waitForEndOfPass();
        const { passes, blackoutMs } = await load.stop();
        assert.equal(await load.kernelErrors(), '');
        t.diagnostic(
          `measured: engine of ${side} upgraded: ${result.blackout_ms} ms without one, blackout ${blackoutMs.toFixed(0)} ms, ${passes} passes`,
        );
      });
    }
  });
}
