// Somebody without the key floods the segment while a client reads and writes what it verifies: nothing that
// they do changes a result or ends a session. What it costs is printed: throughput under attack against
// throughput beside the same program sending the same frames to an address that nobody has, in turns.
//
//   loadgen, session of the host ── hub ── I/O hypervisor's engine ── RAM volume
//                                    └── rogue
//
// bin/test --long --group integration repeats it often enough for a figure; the machine must be quiet then.
import assert from 'node:assert/strict';
import { appendFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { VmView } from '../../src/api/schemas.js';
import type { LoggedEvent } from '../../src/telemetry/events.js';
import { getJson } from '../lab/api.js';
import { Cleanup } from '../lab/cleanup.js';
import { type Outcome, run } from '../lab/command.js';
import { SEGMENT_INTERFACE } from '../lab/netns.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { repoRoot } from '../lab/paths.js';
import { makeHub, Rogue, type RogueCounters } from '../lab/rogue.js';
import { isLongRun } from '../lab/run-length.js';
import { waitFor } from '../lab/wait.js';

const VOLUME = 'data';
const BYTES = 64 * 1024 * 1024;
const SECONDS = isLongRun ? 5 : 2;
const PAIRS = isLongRun ? 6 : 2;
const RATE = 50_000;
const TIMEOUT_MS = 120_000;
const IOHV_CPU = Math.min(1, availableParallelism() - 1);

interface Stats {
  port: { rxFiltered: number; rxDropped: number; sessionFilter: number };
  server: { sessions: number; handshakes: number; refused: Record<string, number> };
}

interface Load {
  iops: number;
  errors: number;
}

interface Window {
  load: Load;
  rogue: RogueCounters;
}

for (const integrity of ['mac', 'encrypt'] as const) {
  describe(`verified I/O under ${integrity} beside a rogue`, () => {
    const cleanup = new Cleanup();
    let lab: Outrigger;
    let client: string[];

    before(async () => {
      cleanup.onSignals();
      lab = await Outrigger.open({ mtu: 9000, cleanup, relayed: true, cpu: IOHV_CPU });
      makeHub(lab.segment);
      appendFileSync(lab.configFile('iohv'), `integrity: ${integrity}\n`);
      await lab.start('iohv');
      await lab.cli('iohv', 'volume', 'create', VOLUME, '--kind', 'ram', '--size', `${BYTES}`);
      await lab.cli('iohv', 'attach', VOLUME, '--host', HOST_NAME, '--disk', VOLUME);
      await waitFor({ what: 'the volume to be open', timeoutMs: TIMEOUT_MS }, async () =>
        (await lab.iohvStatus()).volumes.some(({ state }) => state === 'open'),
      );
      const [disk] = (JSON.parse(await lab.cli('iohv', 'vm', 'show', VOLUME, '--json')) as VmView).disks;
      assert.ok(disk);
      client = [
        ...['--engine', 'outrigger', '--if', SEGMENT_INTERFACE, '--server-mac', lab.segment.mac('iohv')],
        ...['--name', HOST_NAME, '--psk-file', `${lab.dir}/${HOST_NAME}.key`, '--integrity', integrity],
        ...['--device', `${disk.id}`, '--generation', `${disk.generation}`, '--size', `${BYTES}`, '--json'],
        ...['--op', 'randrw', '--bs', '4k', '--qd', '32', '--verify', '--seconds', `${SECONDS}`],
      ];
    });

    after(() => cleanup.run());

    async function stats(): Promise<Stats> {
      const found = await getJson<Stats>(lab.socket('iohv'), '/v1/stats');
      assert.ok(found, 'the I/O hypervisor answers');
      return found;
    }

    function loadgen(seed: number): Promise<Outcome> {
      const program = ['taskset', '-c', '0', `${repoRoot}/build-rel/loadgen`] as const;
      return run(lab.segment.wrap('host', [...program, ...client, '--seed', `${seed}`]), TIMEOUT_MS);
    }

    /** One session from its handshake on, all of it beside the rogue. */
    async function window(rate: number, dead: boolean, seed: number): Promise<Window> {
      const rogue = await Rogue.start({ segment: lab.segment, dir: lab.dir, cleanup, rate, dead, seed });
      await sleep(300);
      const { status, stdout, stderr } = await loadgen(seed);
      const counters = await rogue.stop();
      assert.equal(status, 0, `no error and no mismatch: ${stderr}`);
      assert.deepEqual(stderr.match(/session (up|down)/g), ['session up'], stderr);
      const load = JSON.parse(stdout) as Load;
      assert.equal(load.errors, 0);
      return { load, rogue: counters };
    }

    /** Attack and dead windows in turns; returns what is to be printed. */
    async function compare(rate: number): Promise<string> {
      const before = await stats();
      const [attacked, beside]: [Window[], Window[]] = [[], []];
      for (let pair = 0; pair < PAIRS; pair++) {
        attacked.push(await window(rate, false, 2 * pair + 1));
        beside.push(await window(rate, true, 2 * pair + 2));
      }
      const now = await stats();
      assert.equal(now.server.sessions - before.server.sessions, 2 * PAIRS, 'every session was the client’s');
      const reasons = Object.entries(now.server.refused)
        .map(([reason, count]) => [reason, count - (before.server.refused[reason] ?? 0)] as const)
        .filter(([, count]) => count > 0);
      const refused = new Map(reasons);
      for (const reason of ['digest', 'handshake', 'cookie', 'replay']) {
        assert.ok((refused.get(reason) ?? 0) > 0, `nothing was refused as ${reason}: was there an attack?`);
      }
      assert.equal(now.port.sessionFilter, lab.workers);
      assert.ok(now.port.rxFiltered > before.port.rxFiltered, 'the kernel kept nothing out');
      assert.equal((await lab.iohvStatus()).engine.deaths, 0);
      const events = (await getJson<LoggedEvent[]>(lab.socket('iohv'), '/v1/events')) ?? [];
      assert.ok(
        events.some(({ kind }) => kind === 'segment.intrusion'),
        'the operator was not told',
      );
      const ratio = iops(attacked) / iops(beside);
      return (
        `${iops(attacked).toFixed(0)} IOPS under attack (${framesPerSecond(attacked)}), ${iops(beside).toFixed(0)} ` +
        `beside it (${framesPerSecond(beside)}): ${ratio.toFixed(3)}; refused ` +
        `${reasons.map(([reason, count]) => `${reason} ${count}`).join(', ')}; kept out by the kernel ` +
        `${now.port.rxFiltered - before.port.rxFiltered}, ring full ${now.port.rxDropped - before.port.rxDropped}`
      );
    }

    test(`has no error, no mismatch and one session at ${RATE} hostile frames per second`, async (t) => {
      t.diagnostic(`measured: ${integrity}, ${RATE}/s: ${await compare(RATE)}`);
    });

    test('has no error, no mismatch and one session at as many hostile frames as go', async (t) => {
      t.diagnostic(`measured: ${integrity}, unlimited: ${await compare(0)}`);
    });
  });
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

function iops(windows: readonly Window[]): number {
  return median(windows.map(({ load }) => load.iops));
}

function framesPerSecond(windows: readonly Window[]): string {
  const rate = median(windows.map(({ rogue }) => rogue.sent / rogue.seconds));
  const cpu = median(windows.map(({ rogue }) => rogue.cpu_seconds / rogue.seconds));
  return `${(rate / 1000).toFixed(1)}k frames/s, ${(cpu * 100).toFixed(0)} % of a CPU`;
}
