// The systems under test: how the far end of each is started, and how loadgen reaches it.
import { appendFileSync, writeFileSync } from 'node:fs';
import type { VmView } from '../../src/api/schemas.js';
import { generateKey } from '../../src/config/keys.js';
import type { Cleanup } from '../../test/lab/cleanup.js';
import type { Argv } from '../../test/lab/command.js';
import { SEGMENT_INTERFACE, type Segment } from '../../test/lab/netns.js';
import { HOST_NAME, Outrigger } from '../../test/lab/outrigger.js';
import { LabProcess } from '../../test/lab/process.js';
import { waitFor } from '../../test/lab/wait.js';
import { BenchError } from './errors.js';
import type { Files } from './files.js';
import { loadgenProgram } from './loadgen.js';
import { CPUS, NICE, onSide, openNetwork, SERVER_ADDRESS } from './network.js';

export type Integrity = 'encrypt' | 'mac' | 'crc' | 'none';
export type ServerKind = 'engine' | 'harness';

/** One visit to a system: how to start it, and what takes it all down again. */
export interface Visit {
  mtu: number;
  integrity: Integrity;
  server: ServerKind;
  files: Files;
  cleanup: Cleanup;
}

/** A far end that serves. */
export interface Target {
  /** How loadgen reaches it. */
  args: string[];
  /** The processes whose CPU time is the server's. */
  pids: number[];
  /** loadgen's command, on the client's side. */
  wrap(argv: Argv): Argv;
  stop(): Promise<unknown>;
  /** The last of what the server printed. */
  log(): string;
}

export interface System {
  name: string;
  kind: 'outrigger' | 'nbd' | 'local' | 'limit';
  byDefault: boolean;
  integrities: readonly Integrity[];
  /** The volume starts empty: memory never written would be read too cheaply. */
  needsFill: boolean;
  open(visit: Visit): Promise<Target>;
}

const NBD_PORT = 10809;
const ECHO_PORT = 7777;
const START_TIMEOUT_MS = 20_000;
const VOLUME = 'bench';

/** A server that is one process on its own network. */
function startServer(
  name: string,
  argv: Argv,
  { mtu, files, cleanup }: Visit,
): { segment: Segment; server: LabProcess } {
  const segment = openNetwork(mtu, cleanup);
  const logFile = `${files.directory()}/${name}.log`;
  return { segment, server: new LabProcess({ name, argv: onSide(segment, 'iohv', argv), logFile, cleanup }) };
}

function target(segment: Segment, server: LabProcess, args: string[]): Target {
  return {
    args,
    pids: [server.pid],
    wrap: (argv) => onSide(segment, 'host', argv),
    stop: () => server.stop(),
    log: () => server.tail(),
  };
}

// ---- NBD servers. They are ready when loadgen, which is patient, can connect.

function nbd(name: string, argv: (files: Files) => Promise<Argv>, more: Partial<System> = {}): System {
  return {
    name,
    kind: 'nbd',
    byDefault: true,
    integrities: ['none'],
    needsFill: false,
    open: async (visit) => {
      const { segment, server } = startServer(name, await argv(visit.files), visit);
      return target(segment, server, ['--engine', 'nbd', '--uri', `nbd://${SERVER_ADDRESS}:${NBD_PORT}`]);
    },
    ...more,
  };
}

function qemuNbd(file: string, ...options: string[]): Argv {
  return ['qemu-nbd', '--format=raw', '--persistent', '--export-name=', `--port=${NBD_PORT}`, ...options, file];
}

function nbdkit(...plugin: string[]): Argv {
  return ['nbdkit', '--foreground', `--port=${NBD_PORT}`, ...plugin];
}

// ---- limits, and the local file

function limit(name: string, far: readonly string[], near: (segment: Segment) => string[]): System {
  return {
    name,
    kind: 'limit',
    byDefault: true,
    integrities: ['none'],
    needsFill: false,
    open: async (visit) => {
      const { segment, server } = startServer(name, [loadgenProgram(), '--serve', name, ...far], visit);
      await server.waitForLine(/^ready$/, START_TIMEOUT_MS);
      return target(segment, server, ['--engine', name, ...near(segment)]);
    },
  };
}

const localFile: System = {
  name: 'local-file',
  kind: 'local',
  byDefault: true,
  integrities: ['none'],
  needsFill: false,
  open: async ({ files }) => ({
    args: ['--engine', 'io_uring', '--file', await files.onDisk()],
    pids: [],
    wrap: (argv) => ['nice', '-n', String(NICE), 'taskset', '-c', String(CPUS.host), ...argv],
    stop: async () => {},
    log: () => '',
  }),
};

// ---- Outrigger

interface Volume {
  /** `outrigger volume create` arguments. */
  create: string[];
  /** The same for `loadgen --serve outrigger --volume`. */
  spec: string;
}

function outrigger(name: string, needsFill: boolean, volume: (files: Files) => Promise<Volume>): System {
  return {
    name,
    kind: 'outrigger',
    byDefault: true,
    integrities: ['encrypt', 'mac', 'crc'],
    needsFill,
    open: async (visit) => {
      const made = await volume(visit.files);
      return visit.server === 'engine' ? openEngine(visit, made) : openHarness(name, visit, made);
    },
  };
}

function clientArgs(segment: Segment, keyFile: string, { integrity, files }: Visit): string[] {
  return [
    ...['--engine', 'outrigger', '--if', SEGMENT_INTERFACE, '--server-mac', segment.mac('iohv')],
    ...['--name', HOST_NAME, '--psk-file', keyFile, '--integrity', integrity, '--size', String(files.bytes)],
  ];
}

/** The I/O hypervisor as an operator runs it; loadgen takes the place of the host agent. */
async function openEngine(visit: Visit, { create }: Volume): Promise<Target> {
  const { mtu, integrity, cleanup } = visit;
  const lab = await Outrigger.open({ mtu, cleanup });
  const settings = [`integrity: ${integrity}`, 'worker:', `  cpu: ${CPUS.iohv}`, `  nice: ${NICE}`, ''];
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
    wrap: (argv) => onSide(lab.segment, 'host', argv),
    stop: () => lab.stop(),
    log: () => `${supervisor.tail()}\n${lab.engineLog('iohv')}`.trim(),
  };
}

/** The data path alone: the same session, back-ends and loop, without supervisor and control interface. */
async function openHarness(name: string, visit: Visit, { spec }: Volume): Promise<Target> {
  const keyFile = `${visit.files.directory()}/key`;
  writeFileSync(keyFile, `${generateKey()}\n`, { mode: 0o600 });
  const argv: Argv = [
    ...([loadgenProgram(), '--serve', 'outrigger', '--if', SEGMENT_INTERFACE, '--volume', spec] as const),
    ...['--name', HOST_NAME, '--psk-file', keyFile, '--integrity', visit.integrity],
  ];
  const { segment, server } = startServer(name, argv, visit);
  await server.waitForLine(/^ready$/, START_TIMEOUT_MS);
  return target(segment, server, clientArgs(segment, keyFile, visit));
}

export const SYSTEMS: readonly System[] = [
  outrigger('outrigger-ram', true, async ({ bytes }) => ({
    create: ['--kind', 'ram', '--size', String(bytes)],
    spec: `ram:${bytes}`,
  })),
  outrigger('outrigger-file', false, async (files) => {
    const file = await files.onDisk();
    return { create: ['--adopt', file], spec: `file:${file}` };
  }),
  nbd('qemu-nbd', async (files) => qemuNbd(await files.inMemory(), '--cache=writeback')),
  nbd('nbdkit-file', async (files) => nbdkit('file', await files.inMemory())),
  nbd('nbdkit-memory', async ({ bytes }) => nbdkit('memory', String(bytes)), { needsFill: true }),
  nbd('qemu-nbd-disk', async (files) => qemuNbd(await files.onDisk(), '--cache=none', '--aio=io_uring'), {
    byDefault: false,
  }),
  nbd('nbdkit-file-disk', async (files) => nbdkit('file', await files.onDisk()), { byDefault: false }),
  localFile,
  limit('port-echo', ['--if', SEGMENT_INTERFACE], (segment) => [
    ...['--if', SEGMENT_INTERFACE, '--server-mac', segment.mac('iohv')],
  ]),
  limit('tcp-echo', ['--port', String(ECHO_PORT)], () => ['--address', SERVER_ADDRESS, '--port', String(ECHO_PORT)]),
];
