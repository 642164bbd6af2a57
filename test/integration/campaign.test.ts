// A short campaign, and that its instruments would show what it must not find. `npm run campaign` makes long
// ones (test/campaign/README.md).
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { runCampaign } from '../campaign/campaign.js';
import { VerifyClient } from '../campaign/client.js';
import { judge, type Verdict } from '../campaign/exactly-once.js';
import { clientRecords, writeRecords } from '../campaign/journals.js';
import { Recorder, type RecorderOptions } from '../campaign/recorder.js';
import { formatSummary, formatTable } from '../campaign/result.js';
import { Cleanup } from '../lab/cleanup.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';

const EVENTS = 36;
const VM = 'client';
const LOAD_MS = 3000;

test(`${EVENTS} kills, cuts and upgrades leave no error, no mismatch and no duplicate`, async (t) => {
  const cleanup = new Cleanup();
  cleanup.onSignals();
  t.after(() => cleanup.run());
  const lines: string[] = [];
  const print = (line: string) => lines.push(line);
  const options = { events: EVENTS, seed: 1, only: [], delayShare: 0.01, delayMs: 100, cleanup, print };
  const result = await runCampaign(options);
  const { events, ioErrors, mismatches, duplicates, unexecuted, problems } = result;
  assert.deepEqual(
    { events, ioErrors, mismatches, duplicates, unexecuted, problems },
    { events: EVENTS, ioErrors: 0, mismatches: 0, duplicates: 0, unexecuted: 0, problems: [] },
    lines.join('\n'),
  );
  t.diagnostic(`measured: ${formatSummary(result)}`);
  for (const line of formatTable(result).trimEnd().split('\n')) {
    t.diagnostic(`measured: ${line}`);
  }
});

describe('a campaign would notice', () => {
  /** A client's load on a recorder with a fault, and nothing else. */
  async function observe(cleanup: Cleanup, faults: Partial<RecorderOptions>) {
    const lab = await Outrigger.open({ mtu: 9000, cleanup, cacheSize: '0' });
    const { dir } = lab;
    const none = { delayShare: 0, delayMs: 0, seed: 1 };
    const recorder = await Recorder.start({ dir, size: 16 << 20, ...none, ...faults, cleanup });
    await lab.startBoth();
    await lab.cli('iohv', 'volume', 'create', 'recorded', '--adopt', recorder.file);
    await lab.cli('iohv', 'attach', VM, '--host', HOST_NAME, '--disk', 'recorded');
    await lab.vmArgs(VM);
    const socket = (await lab.hostStatus()).vms[0]?.disks[0]?.socket ?? '';
    const journal = `${dir}/client.journal`;
    const client = await VerifyClient.start({ lab, socket, journal, seed: 1, cleanup }, () => {});
    await sleep(LOAD_MS);
    const totals = await client.stop();
    await lab.stop();
    await recorder.stop();
    return { totals, verdict: judge(clientRecords(journal), writeRecords(recorder.journal)) };
  }

  const right: Partial<Verdict> = { duplicates: 0, unexecuted: 0, strays: 0 };

  async function observed(t: { after(undo: () => void): void }, faults: Partial<RecorderOptions>) {
    const cleanup = new Cleanup();
    cleanup.onSignals();
    t.after(() => cleanup.run());
    return observe(cleanup, faults);
  }

  test('nothing where nothing is wrong', async (t) => {
    const { totals, verdict } = await observed(t, {});
    assert.equal(totals.errors + totals.mismatches, 0);
    assert.ok(verdict.acknowledged > 0);
    assert.deepEqual({ ...verdict, ...right }, verdict);
  });

  test('a write that is executed again', async (t) => {
    const { totals, verdict } = await observed(t, { replayEvery: 20 });
    assert.ok(verdict.duplicates > 0, 'by the journals');
    assert.ok(totals.mismatches > 0, 'by reading: it undid later writes');
  });

  test('a write that is lost', async (t) => {
    const { totals, verdict } = await observed(t, { loseEvery: 20 });
    assert.ok(verdict.unexecuted > 0, 'by the journals');
    assert.ok(totals.mismatches > 0, 'by reading');
  });
});
