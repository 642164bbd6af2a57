// Protection domains as an operator and a checkpointing program see them, with real supervisors and engines on both
// sides, and a verifying client in place of a guest: epochs, takeover, and what is left when engine, supervisor, or both
// are killed.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CommitAnswer, CutAnswer, DomainView, FencedAnswer } from '../../src/api/domain-schemas.js';
import { ApiClient } from '../../src/cli/client.js';
import { DOMAIN_BYTES_MIN, journalBytesMin } from '../../src/supervisor/domain-operations.js';
import { VerifyClient } from '../campaign/client.js';
import { Cleanup } from '../lab/cleanup.js';
import { HOST_NAMES, Outrigger } from '../lab/outrigger.js';
import { waitFor } from '../lab/wait.js';

const WAIT_MS = 60_000;
const EPOCH_MS = 25;
/** OR_DOMAIN_EMPTY of native/intercept/intercept.h. */
const EMPTY_MAX = 31;

/** Cuts and commits until it is stopped, as far as the supervisor is there. */
class Driver {
  readonly #api: ApiClient;
  readonly #ended: Promise<void>;
  #stopped = false;

  constructor(socket: string) {
    this.#api = new ApiClient({ socket });
    this.#ended = this.#drive();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#ended;
  }

  async #drive(): Promise<void> {
    while (!this.#stopped) {
      try {
        const { epoch } = await this.#api.call<CutAnswer>('POST', '/v1/domains/ft/cut', {});
        await this.#api.call('POST', '/v1/domains/ft/commit', { epoch });
      } catch {
        // Somebody was just killed.
      }
      await sleep(EPOCH_MS);
    }
  }
}

describe('a protection domain', () => {
  const cleanup = new Cleanup();
  let lab: Outrigger;

  const cli = (...args: string[]) => lab.cli('iohv', ...args);
  const domain = async <T = DomainView>(...args: string[]) =>
    JSON.parse(await cli('protect', 'domain', ...args, '--json')) as T;
  const show = () => domain('show', 'ft');
  const checkpoint = async () => {
    const { epoch } = await domain<CutAnswer>('cut', 'ft');
    const { committed } = await domain<CommitAnswer>('commit', 'ft', String(epoch));
    assert.equal(committed, epoch);
    return epoch;
  };
  const becomes = (what: string, isSo: (view: DomainView) => boolean) =>
    waitFor({ what: `the domain to be ${what}`, timeoutMs: WAIT_MS }, async () => {
      const view = await show().catch(() => undefined);
      return view !== undefined && isSo(view) ? view : undefined;
    });
  const isServing = ({ state, volumes }: DomainView) =>
    state === 'running' && volumes.every((volume) => volume.state === 'protected');

  before(async () => {
    cleanup.onSignals();
    lab = await Outrigger.open({ mtu: 9000, cleanup, secondHost: true });
    await lab.startBoth();
    await cli('volume', 'create', 'data', '--size', '64M');
    await cli('nic', 'create', 'nic1', '--hub', 'lab');
    await cli('attach', 'web', '--host', HOST_NAMES.host, '--disk', 'data', '--nic', 'nic1');
    await cli('protect', 'domain', 'create', 'ft', '--vm', 'web', '--standby', 'copy', '--bytes', '16M');
    await cli('attach', 'copy', '--host', HOST_NAMES.host2, '--disk', 'data', '--nic', 'nic1');
  });

  after(() => cleanup.run());

  test('holds the disk and the NIC of its VM, and serves the sockets of the copy', async () => {
    const view = await becomes('running', isServing);
    assert.deepEqual([view.generation, view.nics], [1, ['nic1']]);
    await lab.vmArgs('copy'); // waits until its host has them
  });

  test('commits epoch after epoch', async () => {
    const epoch = await checkpoint();
    assert.equal(await checkpoint(), epoch + 1);
    const { status, stderr } = await lab.tryCli('iohv', 'protect', 'domain', 'commit', 'ft', String(epoch + 2));
    assert.equal(status, 1);
    assert.match(stderr, /domain_epoch/);
  });

  test('tells who cuts and commits that protection was dropped meanwhile', async () => {
    const { epoch, unprotected } = await domain<CutAnswer>('cut', 'ft');
    await domain('set', 'ft', '--overflow', 'unprotect', '--commit-timeout', '1ms');
    await becomes('unprotected', (view) => view.unprotected);
    await domain('set', 'ft', '--overflow', 'push-back', '--commit-timeout', 'none');
    const late = await domain<CommitAnswer>('commit', 'ft', String(epoch));
    const next = await domain<CutAnswer>('cut', 'ft');
    const safe = await domain<CommitAnswer>('commit', 'ft', String(next.epoch));
    const told = [unprotected, late.unprotected, next.unprotected, safe.unprotected];
    assert.deepEqual(told, [false, true, true, false]);
  });

  test('loses nothing of what a client was told when engines and supervisors are killed one by one', async () => {
    const driver = new Driver(lab.socket('iohv'));
    cleanup.add(() => driver.stop());
    const [disk] = (await lab.hostStatus()).vms.flatMap(({ disks }) => disks);
    const options = { lab, socket: disk?.socket ?? '', journal: `${lab.dir}/client`, seed: 7, cleanup };
    const bad: string[] = [];
    const client = await VerifyClient.start(options, (line) => bad.push(line));
    for (let round = 0; round < 2; round++) {
      await client.settle(WAIT_MS);
      await lab.killEngine('iohv');
      await becomes('running again', isServing);
      await client.settle(WAIT_MS);
      await lab.supervisor('iohv').kill();
      await lab.start('iohv');
      await becomes('known', isServing);
    }
    const { completed, errors, mismatches } = await client.stop();
    await driver.stop();
    assert.deepEqual([errors, mismatches, bad], [0, 0, []]);
    assert.ok(completed > 0);
    const { open = 0, committed = 0 } = (await show()).counters ?? {};
    assert.ok(committed > 4 && open > committed);
  });

  test('is taken over by the copy, and nobody drives it with the old generation', async () => {
    const epoch = await checkpoint();
    const running = lab.tryCli('iohv', 'protect', 'domain', 'abort', 'ft');
    assert.match((await running).stderr, /domain_running/);
    for (const answer of ['lost', 'heard']) {
      assert.deepEqual(await domain<FencedAnswer>('takeover', 'ft'), { generation: 2, committed: epoch }, answer);
    }
    const stale = await lab.tryCli('iohv', 'protect', 'domain', 'cut', 'ft', '--generation', '1');
    assert.match(stale.stderr, /domain_stale/);
    assert.equal(await checkpoint(), epoch + 1);
    await waitFor({ what: 'the NIC of the copy', timeoutMs: WAIT_MS }, async () => {
      const [nic] = (await lab.iohvStatus()).nics;
      return nic?.state === 'open' && nic.attachment?.vm === 'copy';
    });
  });

  test('has its fenced and its active VM as they were after the engine was killed', async () => {
    await lab.killEngine('iohv');
    const view = await becomes('running again', isServing);
    assert.deepEqual(
      view.members.map(({ vm, role, generation }) => `${vm} ${role} ${generation}`),
      ['copy active 2', 'web fenced 1'],
    );
    await checkpoint();
  });

  test('waits for a reset when engine and supervisor are killed together', async () => {
    const epoch = await checkpoint();
    const engine = await lab.enginePid('iohv');
    await lab.supervisor('iohv').kill();
    process.kill(engine, 'SIGKILL');
    await lab.start('iohv');
    await becomes('rewind', ({ state }) => state === 'rewind');
    assert.match((await lab.tryCli('iohv', 'protect', 'domain', 'cut', 'ft')).stderr, /domain_refused/);
    const { generation, committed } = await domain<FencedAnswer>('reset', 'ft');
    assert.equal(generation, 3);
    const missing = epoch - committed; // which held nothing, so no disk knows of them
    assert.ok(missing >= 0 && missing <= EMPTY_MAX, `epoch ${epoch} was committed, now ${committed} is`);
    await becomes('running', isServing);
    await checkpoint();
  });

  test('needs no larger journal than the least that a domain may have', async () => {
    await cli('volume', 'create', 'small', '--size', '1M');
    await cli('attach', 'other', '--host', HOST_NAMES.host, '--disk', 'small');
    for (const bytes of [DOMAIN_BYTES_MIN, 3 * 2 ** 20, 16 * 2 ** 20]) {
      const sizes = ['--bytes', `${bytes / 1024}K`, '--journal-bytes', `${journalBytesMin(bytes) / 1024}K`];
      assert.equal((await domain('create', 'least', '--vm', 'other', ...sizes)).state, 'running', String(bytes));
      await cli('protect', 'domain', 'rm', 'least');
      await waitFor({ what: 'its end', timeoutMs: WAIT_MS }, async () => {
        const domains = await domain<DomainView[]>('ls');
        return domains.every(({ name }) => name !== 'least') || undefined;
      });
    }
  });

  test('is removed with its journal, and its VM goes on', async () => {
    const { journal } = await show();
    const refused = await lab.tryCli('iohv', 'protect', 'domain', 'rm', 'ft');
    assert.match(refused.stderr, /domain_shared/);
    await cli('detach', 'web', '--force');
    await cli('protect', 'domain', 'rm', 'ft');
    await waitFor({ what: 'the domain to go', timeoutMs: WAIT_MS }, async () => {
      return (await domain<DomainView[]>('ls')).length === 0;
    });
    assert.equal(existsSync(journal), false);
    const [disk] = (await lab.iohvStatus()).vms.flatMap(({ disks }) => disks);
    assert.equal(disk?.state, 'listening');
  });
});
