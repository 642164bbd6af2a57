// What a system under test is: how its far end is started, and how loadgen reaches it.
import type { Cleanup } from '../../test/lab/cleanup.js';
import type { Argv } from '../../test/lab/command.js';
import type { Segment } from '../../test/lab/netns.js';
import { LabProcess } from '../../test/lab/process.js';
import type { Files } from './files.js';
import { CPUS, onCpu, onSide, openNetwork } from './network.js';

export type Integrity = 'encrypt' | 'mac' | 'crc' | 'none';
export type ServerKind = 'engine' | 'harness';

/** One visit to a system: how to start it, and what takes it all down again. */
export interface Visit {
  mtu: number;
  integrity: Integrity;
  server: ServerKind;
  /** Priority of client and server; left out: NICE. */
  nice?: number;
  /** Disks, each with a driver of its own; 1 where the system has no VMs. */
  vms: number;
  /** Of the I/O hypervisor; 1 where the system has none. */
  workers: number;
  files: Files;
  cleanup: Cleanup;
}

/** A far end that serves. */
export interface Target {
  /** How loadgen reaches it. */
  args: string[];
  /** The processes whose CPU time is the server's. */
  pids: number[];
  /** Those of the host agent, between driver and server. */
  agentPids?: number[];
  /** loadgen shares its CPU with a part of the system, so waiting for it is no disturbance. */
  sharesCpu?: boolean;
  /** How loadgen reaches each of several disks, to fill them; else it fills through `args`. */
  fills?: string[][];
  /** After filling: ends when nothing of it is still under way. */
  settled?(): Promise<void>;
  /** loadgen's command, on the client's side. */
  wrap(argv: Argv): Argv;
  stop(): Promise<unknown>;
  /** The last of what the server printed. */
  log(): string;
}

export interface System {
  name: string;
  /** vm: a vhost-user disk, whose driver loadgen is. */
  kind: 'outrigger' | 'vm' | 'nbd' | 'local' | 'limit';
  byDefault: boolean;
  /** An I/O hypervisor that may have several. */
  hasWorkers?: boolean;
  integrities: readonly Integrity[];
  /** There is a network in between, so rows differ by its MTU. */
  remote: boolean;
  /** The volume starts empty: memory never written would be read too cheaply. */
  needsFill: boolean;
  /** Operations of more bytes do not fit. */
  largestBs?(mtu: number): number;
  /** Who runs on which CPU. */
  cpus: string;
  open(visit: Visit): Promise<Target>;
}

export const INTEGRITIES = ['encrypt', 'mac', 'crc'] as const;
export const START_TIMEOUT_MS = 20_000;

export const ON_TWO_CPUS = `loadgen on CPU ${CPUS.host}, the server on ${CPUS.iohv}`;

/** Without a network. */
export const onClientCpu = (argv: Argv): Argv => onCpu('host', argv);
export const onServerCpu = (argv: Argv): Argv => onCpu('iohv', argv);

/** A server that is one process on its own network. */
export function startServer(
  name: string,
  argv: Argv,
  { mtu, files, cleanup }: Visit,
): { segment: Segment; server: LabProcess } {
  const segment = openNetwork(mtu, cleanup);
  const logFile = `${files.directory()}/${name}.log`;
  return { segment, server: new LabProcess({ name, argv: onSide(segment, 'iohv', argv), logFile, cleanup }) };
}

export function target(segment: Segment, server: LabProcess, args: string[]): Target {
  return {
    args,
    pids: [server.pid],
    wrap: (argv) => onSide(segment, 'host', argv),
    stop: () => server.stop(),
    log: () => server.tail(),
  };
}
