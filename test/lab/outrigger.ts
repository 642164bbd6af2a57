// An I/O hypervisor and a host agent as an operator runs them: real processes with their own configuration
// and key files, one per namespace of a segment, driven through the command line.
//
//   DIR/iohv.yaml  DIR/iohv/{state,run,volumes}  ── seg0 ══ seg0 ──  DIR/host.yaml  DIR/host/run
//
// and, where a test wants it, a second host agent: host2.
import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import type { HostStatus, IohvStatus } from '../../src/api/schemas.js';
import type { Integrity, PortMode } from '../../src/supervisor/protocol.js';
import { findAccel } from './accel.js';
import { change, getJson } from './api.js';
import type { Cleanup } from './cleanup.js';
import { type Argv, type Outcome, run } from './command.js';
import { LabError } from './errors.js';
import { TestGuest } from './guest.js';
import { makeLabDir } from './lab-dir.js';
import { type Machine, SECOND_INTERFACE, SEGMENT_INTERFACE, Segment, type Side } from './netns.js';
import { outriggerProgram } from './paths.js';
import { LabProcess } from './process.js';
import { waitFor } from './wait.js';

export const HOST_NAME = 'vmhost1';
/** As the I/O hypervisor knows them. */
export const HOST_NAMES = { host: HOST_NAME, host2: 'vmhost2' } as const;
type Host = keyof typeof HOST_NAMES;
const UP_TIMEOUT_MS = 60_000;
const GUEST_MEMORY = '512M';

const roleOf = (machine: Machine): Side => (machine === 'iohv' ? 'iohv' : 'host');

export interface GuestOptions {
  /** Default: that of the VM. Each boot of a lab has its own: its sockets and logs bear it. */
  name?: string;
  /** For `outrigger vm args`. */
  flags?: readonly string[];
  /** What QEMU is told, given what `outrigger vm args` says. */
  args?(ofVm: string[]): string[];
}

export interface OutriggerOptions {
  mtu: number;
  cleanup: Cleanup;
  /** A bad cable (impairment.ts) can be put in the middle of the segment. */
  relayed?: boolean;
  /** Two cables, and both sides use them; the MTU is whatever the links' is. */
  secondCable?: boolean;
  secondHost?: boolean;
  /** Of both sides; else their default. */
  integrity?: Integrity;
  /** Of the I/O hypervisor; else $OUTRIGGER_WORKERS, or one where its port can have no more. */
  workers?: number;
  /** That the I/O hypervisor's workers are pinned to. */
  cpu?: number;
  /** Of the I/O hypervisor's block cache, as in its configuration: `32M`; else the default. */
  cacheSize?: string;
  /** Default: packet. */
  portMode?: Partial<Record<Machine, PortMode>>;
}

/** So any test can run with several workers. */
const WORKERS = Number(process.env.OUTRIGGER_WORKERS ?? 1);

export class Outrigger {
  readonly dir: string;
  readonly segment: Segment;
  /** Of the I/O hypervisor. */
  readonly workers: number;
  readonly #cpu: number | undefined;
  readonly #cleanup: Cleanup;
  readonly #hasSecond: boolean;
  readonly #portMode: Partial<Record<Machine, PortMode>>;
  readonly #hosts: readonly Host[];
  readonly #supervisors = new Map<Machine, LabProcess>();

  private constructor(dir: string, segment: Segment, options: OutriggerOptions) {
    const { cleanup, secondCable, secondHost, portMode } = options;
    const { workers = portMode?.iohv === 'xdp' ? 1 : WORKERS } = options;
    this.dir = dir;
    this.segment = segment;
    this.workers = workers;
    this.#cpu = options.cpu;
    this.#cleanup = cleanup;
    this.#hasSecond = secondCable ?? false;
    this.#portMode = portMode ?? {};
    this.#hosts = secondHost ? ['host', 'host2'] : ['host'];
  }

  /** Network, key and configuration; nothing runs yet. */
  static async open(options: OutriggerOptions): Promise<Outrigger> {
    const { mtu, cleanup, relayed, secondHost, integrity, cacheSize } = options;
    const dir = makeLabDir(cleanup);
    const segment = Segment.open(mtu, cleanup, { ...(relayed && { relayed }), ...(secondHost && { secondHost }) });
    const lab = new Outrigger(dir, segment, options);
    if (lab.#hasSecond) {
      segment.addSecond();
    }
    for (const path of ['iohv/state', 'iohv/run', 'iohv/volumes', ...lab.#hosts.map((host) => `${host}/run`)]) {
      mkdirSync(`${dir}/${path}`, { recursive: true });
    }
    writeFileSync(lab.configFile('iohv'), lab.#iohvConfig());
    for (const host of lab.#hosts) {
      await lab.cli('iohv', 'key', 'generate', lab.#keyFile(host));
      writeFileSync(lab.configFile(host), lab.#hostConfig(host));
    }
    if (cacheSize !== undefined) {
      appendFileSync(lab.configFile('iohv'), `cache:\n  size: ${cacheSize}\n`);
    }
    if (integrity !== undefined) {
      appendFileSync(lab.configFile('iohv'), `integrity: ${integrity}\n`);
      for (const host of lab.#hosts) {
        appendFileSync(lab.configFile(host), `  integrity_min: ${integrity}\n`); // in its last section, iohv
      }
    }
    return lab;
  }

  #keyFile(host: Host): string {
    return `${this.dir}/${HOST_NAMES[host]}.key`;
  }

  configFile(side: Machine): string {
    return `${this.dir}/${side}.yaml`;
  }

  socket(side: Machine): string {
    return `${this.dir}/${side}/run/${roleOf(side)}.sock`;
  }

  get volumeDir(): string {
    return `${this.dir}/iohv/volumes`;
  }

  /** Starts one side's supervisor, which starts its engine, and waits until it answers. */
  async start(side: Machine): Promise<LabProcess> {
    const argv: Argv = [outriggerProgram, roleOf(side), '--config', this.configFile(side)];
    const supervisor = new LabProcess({
      name: `outrigger ${side}`,
      argv: this.segment.wrap(side, argv),
      logFile: `${this.dir}/${side}.log`,
      cleanup: this.#cleanup,
    });
    this.#supervisors.set(side, supervisor);
    await waitFor({ what: `outrigger ${side} and its engine to run`, timeoutMs: UP_TIMEOUT_MS }, async () => {
      if (!supervisor.isRunning) {
        throw new LabError(`outrigger ${side} ended:\n${supervisor.tail()}`);
      }
      return (await this.tryStatus(side))?.engine.state === 'running';
    }).catch((error: Error) => {
      throw new LabError(`${error.message}\n${supervisor.tail()}\n${this.engineLog(side)}`);
    });
    return supervisor;
  }

  /** All machines, and their sessions. */
  async startBoth(): Promise<void> {
    await this.start('iohv');
    for (const host of this.#hosts) {
      await this.start(host);
      await this.waitForSession(host);
    }
  }

  async waitForSession(host: Host = 'host'): Promise<void> {
    await waitFor({ what: `the session between ${host} and I/O hypervisor`, timeoutMs: UP_TIMEOUT_MS }, async () => {
      const [iohv, agent] = [await this.iohvStatus(), await this.hostStatus(host)];
      return agent.session.up && iohv.hosts.some(({ name, up }) => name === HOST_NAMES[host] && up);
    });
  }

  supervisor(side: Machine): LabProcess {
    const found = this.#supervisors.get(side);
    if (found === undefined) {
      throw new LabError(`outrigger ${side} has not been started`);
    }
    return found;
  }

  /** Stops the supervisors, the host's first, as an operator would; what still runs is cleaned up later. */
  async stop(): Promise<void> {
    for (const side of [...this.#hosts, 'iohv'] as const) {
      await this.#supervisors.get(side)?.stop();
    }
  }

  /** `outrigger ARGS` against that side's supervisor; throws with what it said when it fails. */
  async cli(side: Machine, ...args: string[]): Promise<string> {
    const { status, stdout, stderr } = await this.tryCli(side, ...args);
    if (status !== 0) {
      throw new LabError(`outrigger ${args.join(' ')}: exit status ${status}\n${stderr.trim() || stdout.trim()}`);
    }
    return stdout;
  }

  /** As `cli`, whatever its exit status. */
  tryCli(side: Machine, ...args: string[]): Promise<Outcome> {
    // Commands that need no supervisor take no --socket.
    const socket = args[0] === 'key' ? [] : ['--socket', this.socket(side)];
    return run(this.segment.wrap(side, [outriggerProgram, ...args, ...socket]));
  }

  iohvStatus(): Promise<IohvStatus> {
    return this.#status<IohvStatus>('iohv');
  }

  hostStatus(host: Host = 'host'): Promise<HostStatus> {
    return this.#status<HostStatus>(host);
  }

  /** undefined while the supervisor does not answer. */
  tryStatus(side: Machine): Promise<IohvStatus | HostStatus | undefined> {
    return getJson(this.socket(side), '/v1/status');
  }

  /** Lets another worker serve a volume. */
  moveVolume(name: string, worker: number): Promise<void> {
    return change(this.socket('iohv'), 'POST', `/v1/volumes/${name}/move`, { worker });
  }

  /** The process that carries the I/O. */
  async enginePid(side: Machine): Promise<number> {
    const status = await this.tryStatus(side);
    if (status?.engine.pid == null) {
      throw new LabError(`outrigger ${side} has no engine just now`);
    }
    return status.engine.pid;
  }

  /** The end of an engine's log, for error messages. */
  engineLog(side: Machine): string {
    try {
      return readFileSync(`${this.dir}/${side}/run/${roleOf(side)}-engine.log`, 'utf8')
        .split('\n')
        .slice(-30)
        .join('\n');
    } catch {
      return '';
    }
  }

  /** The engine's process id, once it runs and the next one stands by, with the session up. */
  async settledEngine(side: Side): Promise<number> {
    const engine = await waitFor({ what: `engine and standby of ${side}`, timeoutMs: UP_TIMEOUT_MS }, async () => {
      const now = (await this.tryStatus(side))?.engine;
      return now?.state === 'running' && now.standby === 'ready' ? now : undefined;
    });
    await this.waitForSession();
    return engine.pid ?? 0;
  }

  /** kill -9 of a settled engine; resolves with the blackout as the supervisor saw it, ms. */
  async killEngine(side: Side): Promise<number> {
    const victim = await this.settledEngine(side);
    const deaths = (await this.tryStatus(side))?.engine.deaths ?? 0;
    process.kill(victim, 'SIGKILL');
    await waitFor({ what: 'another engine', timeoutMs: UP_TIMEOUT_MS }, async () => {
      const engine = (await this.tryStatus(side))?.engine;
      return engine?.deaths === deaths + 1 && engine.state === 'running';
    });
    await this.waitForSession();
    return (await this.tryStatus(side))?.engine.last_blackout_ms ?? Number.NaN;
  }

  /** `outrigger vm args VM FLAGS`: the text, and the words a shell makes of it. Waits until the devices are there. */
  async vmArgs(vm: string, ...flags: string[]): Promise<{ text: string; args: string[] }> {
    const text = (await this.cli(await this.#hostOf(vm), 'vm', 'args', vm, ...flags)).trim();
    // As a shell does it with: qemu-system-x86_64 $(outrigger vm args VM)
    return { text, args: text.split(/\s+/) };
  }

  /** A test guest with all devices of the VM, on the host that has them. */
  async bootGuest(vm: string, { name = vm, flags = [], args = (ofVm) => ofVm }: GuestOptions = {}): Promise<TestGuest> {
    const host = await this.#hostOf(vm);
    const ofVm = await this.vmArgs(vm, '--memory', GUEST_MEMORY, ...flags);
    return TestGuest.boot({
      ...{ dir: this.dir, name, accel: await findAccel(), args: args(ofVm.args), cleanup: this.#cleanup },
      wrap: (argv) => this.segment.wrap(host, argv),
    });
  }

  /** The host agent that has all devices of the VM ready for its QEMU. */
  #hostOf(vm: string): Promise<Host> {
    return waitFor({ what: `the devices of ${vm} on its host`, timeoutMs: UP_TIMEOUT_MS }, async () => {
      for (const host of this.#hosts) {
        const view = (await this.hostStatus(host)).vms.find(({ name }) => name === vm);
        const devices = [...(view?.disks ?? []), ...(view?.nics ?? [])];
        if (devices.length > 0 && devices.every(({ state }) => state === 'listening')) {
          return host;
        }
      }
      return undefined;
    });
  }

  async #status<T>(side: Machine): Promise<T> {
    const status = await getJson<T>(this.socket(side), '/v1/status');
    if (status === undefined) {
      throw new LabError(`outrigger ${side} does not answer:\n${this.#supervisors.get(side)?.tail() ?? ''}`);
    }
    return status;
  }

  #portConfig(side: Machine): string {
    const one = `port:\n  interface: ${SEGMENT_INTERFACE}\n  mode: ${this.#portMode[side] ?? 'packet'}\n`;
    return this.#hasSecond ? `${one}  second_interface: ${SECOND_INTERFACE}\n` : `${one}  mtu: ${this.segment.mtu}\n`;
  }

  /** Nothing where the defaults do, so that a caller may append it. */
  #workerConfig(): string {
    const count = this.workers > 1 ? `  count: ${this.workers}\n` : '';
    const cpu = this.#cpu === undefined ? '' : `  cpu: [${Array(this.workers).fill(this.#cpu)}]\n`;
    return count || cpu ? `worker:\n${count}${cpu}` : '';
  }

  #iohvConfig(): string {
    const dir = `${this.dir}/iohv`;
    return [
      `state_dir: ${dir}/state`,
      `run_dir: ${dir}/run`,
      `volume_dir: ${dir}/volumes`,
      `${this.#portConfig('iohv')}${this.#workerConfig()}hosts:`,
      ...this.#hosts.flatMap((host) => [`  - name: ${HOST_NAMES[host]}`, `    key_file: ${this.#keyFile(host)}`]),
      '',
    ].join('\n');
  }

  #hostConfig(host: Host): string {
    return [
      `name: ${HOST_NAMES[host]}`,
      `run_dir: ${this.dir}/${host}/run`,
      `${this.#portConfig(host)}iohv:`,
      `  mac: ${this.segment.mac('iohv')}`,
      ...(this.#hasSecond ? [`  second_mac: ${this.segment.secondMac('iohv')}`] : []),
      `  key_file: ${this.#keyFile(host)}`,
      '',
    ].join('\n');
  }
}
