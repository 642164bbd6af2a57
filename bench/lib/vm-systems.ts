// A VM's disk: loadgen plays QEMU and the guest's driver on a vhost-user socket (native/engine_vhost.c).
//
//   outrigger-vm   loadgen ── socket ── host agent ══ veth ══ I/O hypervisor
//   qsd-vm         loadgen ── socket ── qemu-storage-daemon, on the same machine: what Outrigger has to match
//
// A machine with two CPUs has fewer than these programs want. Driver and host agent, which share a VM's host, share
// its CPU, so the driver sleeps at once and leaves it to the agent, as a guest does whose driver waits for an
// interrupt. qemu-storage-daemon, which has no far end, gets the other CPU for itself; `-shared` is the same with
// both on one, as driver and host agent are.
import { appendFileSync, existsSync } from 'node:fs';
import type { VmView } from '../../src/api/schemas.js';
import { HOST_NAME, Outrigger } from '../../test/lab/outrigger.js';
import { LabProcess } from '../../test/lab/process.js';
import { waitFor } from '../../test/lab/wait.js';
import { BenchError } from './errors.js';
import type { Files } from './files.js';
import { CPUS, NICE, onSide } from './network.js';
import {
  INTEGRITIES,
  onClientCpu,
  onServerCpu,
  START_TIMEOUT_MS,
  type System,
  type Target,
  type Visit,
} from './system.js';

/** `outrigger volume create` arguments of disk `index` of `count`. */
type VolumeArgs = (files: Files, index: number, count: number) => Promise<string[]>;

/** The driver leaves the CPU that it shares at once. */
const SLEEPS = ['--spin-us', '0'];

const indexes = (count: number) => [...Array(count).keys()];

function outriggerVm(name: string, needsFill: boolean, volume: VolumeArgs): System {
  return {
    ...{ name, kind: 'vm', byDefault: true, hasWorkers: true, integrities: INTEGRITIES, remote: true, needsFill },
    cpus: `loadgen and host agent share CPU ${CPUS.host}, the I/O hypervisor on ${CPUS.iohv}`,
    open: (visit) => openOutrigger(visit, volume),
  };
}

async function openOutrigger(visit: Visit, volume: VolumeArgs): Promise<Target> {
  const { mtu, integrity, cleanup, files, vms, workers } = visit;
  const lab = await Outrigger.open({
    mtu,
    cleanup,
    workers: 1,
    cacheSize: '0',
    ...(integrity !== 'none' && { integrity }),
  });
  for (const side of ['iohv', 'host'] as const) {
    const count = side === 'iohv' ? `  count: ${workers}\n` : '';
    appendFileSync(lab.configFile(side), `worker:\n  cpu: ${cpuOf(side, workers)}\n  nice: ${NICE}\n${count}`);
  }
  await lab.startBoth();
  for (const index of indexes(vms)) {
    await lab.cli('iohv', 'volume', 'create', `volume${index}`, ...(await volume(files, index, vms)));
    await lab.cli('iohv', 'attach', `vm${index}`, '--host', HOST_NAME, '--disk', `volume${index}`);
  }
  const reach = (...sockets: string[]) => ['--engine', 'vhost-user', '--socket', sockets.join()];
  const sockets = await Promise.all(indexes(vms).map((index) => socketOf(lab, index)));
  const pids = async (side: 'host' | 'iohv') => [lab.supervisor(side).pid, await lab.enginePid(side)];
  return {
    args: [...reach(...sockets), ...SLEEPS],
    fills: sockets.map((socket) => reach(socket)),
    sharesCpu: true,
    pids: await pids('iohv'),
    agentPids: await pids('host'),
    wrap: (argv) => onSide(lab.segment, 'host', argv),
    stop: () => lab.stop(),
    log: () => `${lab.engineLog('host')}\n${lab.engineLog('iohv')}`.trim(),
  };
}

/** The second worker of the I/O hypervisor is on the host's CPU, the third on the first's: there are two. */
function cpuOf(side: 'host' | 'iohv', workers: number): string {
  const cpus = [CPUS[side], CPUS[side === 'iohv' ? 'host' : 'iohv']];
  return side === 'iohv' && workers > 1
    ? `[${indexes(workers).map((worker) => cpus[worker % cpus.length])}]`
    : String(CPUS[side]);
}

async function socketOf(lab: Outrigger, index: number): Promise<string> {
  await lab.vmArgs(`vm${index}`); // waits until the host has it
  const { disks } = JSON.parse(await lab.cli('host', 'vm', 'show', `vm${index}`, '--json')) as VmView;
  const socket = disks[0]?.socket;
  if (socket === undefined) {
    throw new BenchError('the host agent has no disk');
  }
  return socket;
}

interface Qsd {
  name: string;
  cache: string;
  file(files: Files, index: number, count: number): Promise<string>;
  sharesCpu: boolean;
}

function qsd({ name, cache, file, sharesCpu }: Qsd): System {
  const onItsCpu = sharesCpu ? onClientCpu : onServerCpu;
  return {
    ...{ name, kind: 'vm', byDefault: !sharesCpu, integrities: ['none'], remote: false, needsFill: false },
    cpus: sharesCpu
      ? `loadgen and qemu-storage-daemon share CPU ${CPUS.host}`
      : `loadgen on CPU ${CPUS.host}, qemu-storage-daemon on ${CPUS.iohv}`,
    open: async ({ files, vms, cleanup }) => {
      const directory = files.directory();
      const sockets = indexes(vms).map((index) => `${directory}/qsd${index}.sock`);
      const disks = await Promise.all(
        sockets.map(async (socket, index) => [
          ...['--blockdev', `driver=file,node-name=f${index},filename=${await file(files, index, vms)},${cache}`],
          '--export',
          `type=vhost-user-blk,id=e${index},node-name=f${index},addr.type=unix,addr.path=${socket},writable=on,iothread=io`,
        ]),
      );
      const pidFile = `${directory}/qsd.pid`;
      const server = new LabProcess({
        name,
        argv: onItsCpu(['qemu-storage-daemon', '--pidfile', pidFile, '--object', 'iothread,id=io', ...disks.flat()]),
        logFile: `${directory}/${name}.log`,
        cleanup,
      });
      await waitFor({ what: 'qemu-storage-daemon', timeoutMs: START_TIMEOUT_MS }, () => {
        if (!server.isRunning) {
          throw new BenchError(`qemu-storage-daemon: ${server.tail()}`);
        }
        return existsSync(pidFile);
      });
      return {
        // Without a record of what is in flight: it has none.
        args: ['--engine', 'vhost-user', '--no-record', '--socket', sockets.join(), ...(sharesCpu ? SLEEPS : [])],
        pids: [server.pid],
        sharesCpu,
        wrap: onClientCpu,
        stop: () => server.stop(),
        log: () => server.tail(),
      };
    },
  };
}

const onDisk: Pick<Qsd, 'cache' | 'file'> = {
  cache: 'cache.direct=on,aio=io_uring',
  file: (files, index, count) => files.onDisk(index, count),
};
const inMemory: Pick<Qsd, 'cache' | 'file'> = {
  cache: 'cache.direct=off,aio=io_uring',
  file: (files, index, count) => files.inMemory(index, count),
};

export const VM_SYSTEMS: readonly System[] = [
  outriggerVm('outrigger-vm', true, async (files, _, count) => [
    ...['--kind', 'ram', '--size', String(files.bytesOfEach(count))],
  ]),
  outriggerVm('outrigger-vm-file', false, async (files, index, count) => ['--adopt', await files.onDisk(index, count)]),
  qsd({ name: 'qsd-vm', ...onDisk, sharesCpu: false }),
  qsd({ name: 'qsd-vm-memory', ...inMemory, sharesCpu: false }),
  qsd({ name: 'qsd-vm-memory-shared', ...inMemory, sharesCpu: true }),
];
