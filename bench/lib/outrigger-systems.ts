// Outrigger without a host agent: loadgen holds the session itself.
import { appendFileSync, writeFileSync } from 'node:fs';
import type { CacheView } from '../../src/api/cache-schemas.js';
import type { VmView } from '../../src/api/schemas.js';
import { generateKey } from '../../src/config/keys.js';
import type { PortMode } from '../../src/supervisor/protocol.js';
import type { Argv } from '../../test/lab/command.js';
import { SEGMENT_INTERFACE, type Segment } from '../../test/lab/netns.js';
import { HOST_NAME, Outrigger } from '../../test/lab/outrigger.js';
import { waitFor } from '../../test/lab/wait.js';
import { BenchError } from './errors.js';
import type { Files } from './files.js';
import { loadgenProgram } from './loadgen.js';
import { CPUS, NICE, onSide } from './network.js';
import {
  INTEGRITIES,
  ON_TWO_CPUS,
  START_TIMEOUT_MS,
  type System,
  startServer,
  type Target,
  target,
  type Visit,
} from './system.js';

const VOLUME = 'bench';
const WRITTEN_OUT_MS = 60_000;

interface Volume {
  /** `outrigger volume create` arguments. */
  create: string[];
  /** The same for `loadgen --serve outrigger --volume`; left out: that cannot serve it. */
  spec?: string;
  /** `cache.size` of the I/O hypervisor; left out: no cache. */
  cacheSize?: string;
}

interface Variant {
  byDefault?: boolean;
  /** Of both ends. */
  portMode?: PortMode;
  /** What else loadgen is told. */
  client?: readonly string[];
}

function outrigger(
  name: string,
  needsFill: boolean,
  volume: (files: Files) => Promise<Volume>,
  { byDefault = true, portMode = 'packet', client = [] }: Variant = {},
): System {
  return {
    ...{ name, kind: 'outrigger', byDefault, integrities: INTEGRITIES, remote: true, needsFill },
    cpus: ON_TWO_CPUS,
    open: async (visit) => {
      const made = await volume(visit.files);
      const target = await (visit.server === 'engine'
        ? openEngine(visit, made, portMode)
        : openHarness(name, visit, made, portMode));
      return { ...target, args: [...target.args, '--port-mode', portMode, ...client] };
    },
  };
}

function clientArgs(segment: Segment, keyFile: string, { integrity, files }: Visit): string[] {
  return [
    ...['--engine', 'outrigger', '--if', SEGMENT_INTERFACE, '--server-mac', segment.mac('iohv')],
    ...['--name', HOST_NAME, '--psk-file', keyFile, '--integrity', integrity, '--size', String(files.bytes)],
  ];
}

async function isClean(lab: Outrigger): Promise<boolean> {
  const { counters } = JSON.parse(await lab.cli('iohv', 'cache', 'show', '--json')) as CacheView;
  return counters.dirty_bytes === 0;
}

/** The I/O hypervisor as an operator runs it; loadgen takes the place of the host agent. */
async function openEngine(visit: Visit, { create, cacheSize = '0' }: Volume, portMode: PortMode): Promise<Target> {
  const { mtu, integrity, cleanup, nice = NICE } = visit;
  const lab = await Outrigger.open({ mtu, portMode: { iohv: portMode }, cacheSize, cleanup });
  const settings = [`integrity: ${integrity}`, 'worker:', `  cpu: ${CPUS.iohv}`, `  nice: ${nice}`, ''];
  appendFileSync(lab.configFile('iohv'), settings.join('\n'));
  const supervisor = await lab.start('iohv');
  await lab.cli('iohv', 'volume', 'create', VOLUME, ...create);
  await lab.cli('iohv', 'attach', VOLUME, '--host', HOST_NAME, '--disk', VOLUME);
  await waitFor({ what: 'the volume to be open', timeoutMs: START_TIMEOUT_MS }, async () =>
    (await lab.iohvStatus()).volumes.some(({ state }) => state === 'open'),
  );
  const vm = JSON.parse(await lab.cli('iohv', 'vm', 'show', VOLUME, '--json')) as VmView;
  const disk = vm.disks[0];
  if (disk === undefined) {
    throw new BenchError('the I/O hypervisor attached nothing');
  }
  return {
    args: [
      ...clientArgs(lab.segment, `${lab.dir}/${HOST_NAME}.key`, visit),
      ...['--device', String(disk.id), '--generation', String(disk.generation)],
    ],
    pids: [supervisor.pid, await lab.enginePid('iohv')],
    settled: async () => {
      await waitFor({ what: 'the cache to be written out', timeoutMs: WRITTEN_OUT_MS }, () => isClean(lab));
    },
    wrap: (argv) => onSide(lab.segment, 'host', argv, nice),
    stop: () => lab.stop(),
    log: () => `${supervisor.tail()}\n${lab.engineLog('iohv')}`.trim(),
  };
}

/** The data path alone: the same session, back-ends and loop, without supervisor and control interface. */
async function openHarness(name: string, visit: Visit, { spec }: Volume, portMode: PortMode): Promise<Target> {
  if (spec === undefined) {
    throw new BenchError(`${name} needs the I/O hypervisor: --server engine`);
  }
  const keyFile = `${visit.files.directory()}/key`;
  writeFileSync(keyFile, `${generateKey()}\n`, { mode: 0o600 });
  const argv: Argv = [
    ...([loadgenProgram(), '--serve', 'outrigger', '--if', SEGMENT_INTERFACE, '--volume', spec] as const),
    ...['--name', HOST_NAME, '--psk-file', keyFile, '--integrity', visit.integrity, '--port-mode', portMode],
  ];
  const { segment, server } = startServer(name, argv, visit);
  await server.waitForLine(/^ready$/, START_TIMEOUT_MS);
  return target(segment, server, clientArgs(segment, keyFile, visit));
}

const inMemory = async ({ bytes }: Files): Promise<Volume> => ({
  create: ['--kind', 'ram', '--size', String(bytes)],
  spec: `ram:${bytes}`,
});

export const OUTRIGGER_SYSTEMS: readonly System[] = [
  outrigger('outrigger-ram', true, inMemory),
  // One side that takes no super-frames is enough for neither to send any.
  outrigger('outrigger-ram-plain', true, inMemory, { byDefault: false, client: ['--super-frames', 'off'] }),
  outrigger('outrigger-ram-xdp', true, inMemory, { byDefault: false, portMode: 'xdp' }),
  outrigger('outrigger-file', false, async (files) => {
    const file = await files.onDisk();
    return { create: ['--adopt', file], spec: `file:${file}` };
  }),
  // Filled through the cache, which has room for all of it: every read is a hit.
  outrigger(
    'outrigger-cached',
    true,
    async (files) => {
      const file = await files.onDisk();
      const mib = Math.ceil((files.bytes * 1.25) / (1 << 20)) + 16;
      const cache = ['--cache', 'write-back', '--dirty-max', `${mib}M`];
      return { create: ['--adopt', file, ...cache], cacheSize: `${mib}M` };
    },
    { byDefault: false },
  ),
];
