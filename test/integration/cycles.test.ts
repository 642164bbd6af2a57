// Volumes and disks that come and go by the hundred (bin/test --long: ten thousand) leave nothing behind:
// memory, open descriptors, sockets and files of all four processes are as they were.
//
// What a process holds moves with its garbage collector: an engine makes some 2 KiB of garbage per cycle, which
// V8 collects only when its heap has grown by many MiB, so the heaps of the supervisors are bounded here: what is left
// over then is needed, or has leaked. The allowance for growth after the warm-up is a constant, whatever the number of
// cycles: a leak of 4 KiB per cycle is seen in the long run.
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { change } from '../lab/api.js';
import { Cleanup } from '../lab/cleanup.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { isLongRun } from '../lab/run-length.js';
import { waitFor } from '../lab/wait.js';

const CYCLES = isLongRun ? 10_000 : 300;
const WARM_UP = isLongRun ? 1000 : 100;
const SAMPLES = 10;
/** One cycle in so many has a client on the socket; one of the run's guests boots from the disk. */
const CLIENT_EVERY = 4;
const GUESTS = isLongRun ? 20 : 2;
const GROWTH_MIB_MAX = 16;
/** Of every process that is started from here. */
process.env.NODE_OPTIONS = '--max-semi-space-size=1 --max-old-space-size=64';
const TIMEOUT_MS = 60_000;

type Processes = Record<'iohv supervisor' | 'iohv engine' | 'host supervisor' | 'host engine', number>;
type Sample = Record<keyof Processes, { mib: number; descriptors: number }>;

describe(`${CYCLES} attachments that come and go`, () => {
  const cleanup = new Cleanup();
  let lab: Outrigger;
  let processes: Processes;

  before(async () => {
    cleanup.onSignals();
    lab = await Outrigger.open({ mtu: 9000, cleanup });
    await lab.startBoth();
    processes = {
      'iohv supervisor': lab.supervisor('iohv').pid,
      'iohv engine': await lab.enginePid('iohv'),
      'host supervisor': lab.supervisor('host').pid,
      'host engine': await lab.enginePid('host'),
    };
  });

  after(() => cleanup.run());

  const socketOf = (vm: string) => `${lab.dir}/host/run/vhost/${vm}/${vm}.sock`;

  function sample(): Sample {
    const of = (pid: number) => {
      const pss = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1];
      return { mib: Number(pss) / 1024, descriptors: readdirSync(`/proc/${pid}/fd`).length };
    };
    return Object.fromEntries(Object.entries(processes).map(([name, pid]) => [name, of(pid)])) as Sample;
  }

  async function cycle(i: number): Promise<void> {
    const vm = `vm${i}`;
    const volume = i % 2 === 0 ? { size: 1 << 20 } : { size: 16 << 20, kind: 'ram' };
    const api = lab.socket('iohv');
    await change(api, 'PUT', `/v1/volumes/${vm}`, volume);
    await change(api, 'POST', '/v1/attachments', { vm, host: HOST_NAME, disks: [{ volume: vm }] });
    await waitForSocket(vm, true);
    if (i % Math.ceil(CYCLES / GUESTS) === 0) {
      await useByGuest(vm);
    } else if (i % CLIENT_EVERY === 0) {
      await useByClient(vm);
    }
    await change(api, 'DELETE', `/v1/vms/${vm}?force=true`);
    await waitForSocket(vm, false);
    await change(api, 'DELETE', `/v1/volumes/${vm}`);
  }

  function waitForSocket(vm: string, isThere: boolean): Promise<unknown> {
    const what = `the socket of ${vm} to ${isThere ? 'appear' : 'go'}`;
    return waitFor({ what, timeoutMs: TIMEOUT_MS, intervalMs: 2 }, () => existsSync(socketOf(vm)) === isThere);
  }

  /** Someone who connects and leaves: the device's connection is made and taken down. */
  function useByClient(vm: string): Promise<void> {
    return new Promise((resolve, reject) => {
      const socket = connect(socketOf(vm));
      socket.once('connect', () => socket.end());
      socket.once('error', reject);
      socket.once('close', () => resolve());
      socket.resume();
    });
  }

  async function useByGuest(vm: string): Promise<void> {
    const guest = await lab.bootGuest(vm);
    await guest.must('dd if=/dev/zero of=/dev/vda bs=64k count=16 oflag=direct');
    await guest.powerOff();
  }

  /** Milliseconds of each. */
  async function cycles(from: number, to: number): Promise<number[]> {
    const times: number[] = [];
    for (let i = from; i < to; i++) {
      const startedAt = performance.now();
      await cycle(i);
      times.push(performance.now() - startedAt);
    }
    return times;
  }

  test('leave memory, descriptors and files as they were', async (t) => {
    await cycles(0, WARM_UP);
    const first = sample();
    const samples = [first];
    const times: number[] = [];
    for (let s = 0; s < SAMPLES; s++) {
      const [from, to] = [s, s + 1].map((n) => WARM_UP + Math.round((n * CYCLES) / SAMPLES));
      times.push(...(await cycles(from ?? 0, to ?? 0)));
      samples.push(sample());
    }
    const medianMs = times.sort((a, b) => a - b)[Math.floor(times.length / 2)] ?? 0;

    for (const name of Object.keys(processes) as (keyof Processes)[]) {
      const what = samples.map((one) => `${one[name].mib.toFixed(1)}`).join(' ');
      t.diagnostic(`measured: ${name}: ${what} MiB; descriptors ${samples.map((one) => one[name].descriptors)}`);
    }
    t.diagnostic(`measured: ${medianMs.toFixed(1)} ms per cycle`);
    const leftOver = (dir: string) => (existsSync(dir) ? readdirSync(dir) : []);
    assert.deepEqual(leftOver(`${lab.dir}/host/run/vhost`), [], 'sockets and their folders');
    assert.deepEqual(leftOver(lab.volumeDir), [], 'files of volumes');
    const { volumes, vms } = await lab.iohvStatus();
    assert.deepEqual([volumes, vms, (await lab.hostStatus()).vms], [[], [], []]);
    // A connection that was just closed may still be on its way out.
    await waitFor({ what: 'as many open descriptors as before', timeoutMs: TIMEOUT_MS, intervalMs: 500 }, () => {
      const now = sample();
      return (Object.keys(processes) as (keyof Processes)[]).every(
        (name) => now[name].descriptors <= first[name].descriptors,
      );
    });
    for (const name of Object.keys(processes) as (keyof Processes)[]) {
      const grown = Math.min(...samples.slice(-3).map((one) => one[name].mib)) - first[name].mib;
      assert.ok(grown < GROWTH_MIB_MAX, `${name} has grown by ${grown.toFixed(1)} MiB`);
    }
  });
});
