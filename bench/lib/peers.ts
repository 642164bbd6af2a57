// The peers, which speak NBD, and the limits: what no system over this network, or on this file, can exceed.
import type { PortMode } from '../../src/supervisor/protocol.js';
import type { Argv } from '../../test/lab/command.js';
import { SEGMENT_INTERFACE, type Segment } from '../../test/lab/netns.js';
import type { Files } from './files.js';
import { loadgenProgram } from './loadgen.js';
import { CPUS, SERVER_ADDRESS } from './network.js';
import { ON_TWO_CPUS, onClientCpu, START_TIMEOUT_MS, type System, startServer, target } from './system.js';

const NBD_PORT = 10809;
const ECHO_PORT = 7777;
/** It keeps no more of an operation in flight than its receive ring takes. */
const PORT_ECHO_FRAMES = 90;

// ---- NBD servers. They are ready when loadgen, which is patient, can connect.

function nbd(name: string, argv: (files: Files) => Promise<Argv>, more: Partial<System> = {}): System {
  return {
    ...{ name, kind: 'nbd', byDefault: true, integrities: ['none'], remote: true, needsFill: false, cpus: ON_TWO_CPUS },
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

export const NBD_SYSTEMS: readonly System[] = [
  nbd('qemu-nbd', async (files) => qemuNbd(await files.inMemory(), '--cache=writeback')),
  nbd('nbdkit-file', async (files) => nbdkit('file', await files.inMemory())),
  nbd('nbdkit-memory', async ({ bytes }) => nbdkit('memory', String(bytes)), { needsFill: true }),
  nbd('qemu-nbd-disk', async (files) => qemuNbd(await files.onDisk(), '--cache=none', '--aio=io_uring'), {
    byDefault: false,
  }),
  nbd('nbdkit-file-disk', async (files) => nbdkit('file', await files.onDisk()), { byDefault: false }),
];

// ---- limits, and the local file

/** `more` may give it a name other than loadgen's for the engine. */
function limit(
  engine: string,
  far: readonly string[],
  near: (segment: Segment) => string[],
  more: Partial<System> = {},
): System {
  return {
    ...{
      name: engine,
      kind: 'limit',
      byDefault: true,
      integrities: ['none'],
      remote: true,
      needsFill: false,
      cpus: ON_TWO_CPUS,
    },
    open: async (visit) => {
      const { segment, server } = startServer(engine, [loadgenProgram(), '--serve', engine, ...far], visit);
      await server.waitForLine(/^ready$/, START_TIMEOUT_MS);
      return target(segment, server, ['--engine', engine, ...near(segment)]);
    },
    ...more,
  };
}

const localFile: System = {
  ...{ name: 'local-file', kind: 'local', byDefault: true, integrities: ['none'], remote: false, needsFill: false },
  cpus: `loadgen on CPU ${CPUS.host}`,
  open: async ({ files }) => ({
    args: ['--engine', 'io_uring', '--file', await files.onDisk()],
    pids: [],
    wrap: onClientCpu,
    stop: async () => {},
    log: () => '',
  }),
};

function portEcho(portMode: PortMode, more: Partial<System> = {}): System {
  const port = ['--if', SEGMENT_INTERFACE, '--port-mode', portMode];
  return limit('port-echo', port, (segment) => [...port, '--server-mac', segment.mac('iohv')], {
    largestBs: (mtu) => mtu * PORT_ECHO_FRAMES,
    ...more,
  });
}

export const LIMITS: readonly System[] = [
  localFile,
  portEcho('packet'),
  portEcho('xdp', { name: 'port-echo-xdp', byDefault: false }),
  limit('tcp-echo', ['--port', String(ECHO_PORT)], () => ['--address', SERVER_ADDRESS, '--port', String(ECHO_PORT)]),
];
