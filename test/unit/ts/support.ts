// What the tests share: scratch folders, waiting for something to become true, configuration files, and a
// second connection to the engine's double.
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { generateKey } from '../../../src/config/keys.js';
import { buildOf } from '../../../src/engine/identity.js';
import { SpawnLauncher } from '../../../src/supervisor/engine-launcher.js';
import type { EngineSettings } from '../../../src/supervisor/engine-settings.js';
import type { EngineConfig, EngineEvent, PingResult, Role } from '../../../src/supervisor/protocol.js';
import type { Logger } from '../../../src/telemetry/log.js';

export const ENGINE_DOUBLE = fileURLToPath(new URL('engine-double.js', import.meta.url));
/** The root of the checkout: four folders above dist/test/unit/ts. */
export const ROOT = fileURLToPath(new URL('../../../../', import.meta.url));

export const silent: Logger = { info() {}, warn() {}, error() {} };

export interface Scratch {
  dir: string;
  /** Writes a file and returns its path. */
  file(name: string, text: string, mode?: number): string;
  removeFile(name: string): void;
  remove(): void;
}

export function scratch(): Scratch {
  const dir = mkdtempSync(`${tmpdir()}/outrigger-test-`);
  return {
    dir,
    file(name, text, mode = 0o600) {
      writeFileSync(`${dir}/${name}`, text, { mode });
      return `${dir}/${name}`;
    },
    removeFile: (name) => rmSync(`${dir}/${name}`),
    remove: () => rmSync(dir, { recursive: true, force: true }),
  };
}

/** Waits until `probe` gives something; the limit only keeps a broken test from hanging. */
export async function until<T>(
  what: string,
  probe: () => T | undefined | false | Promise<T | undefined | false>,
): Promise<T> {
  for (let tries = 0; tries < 1500; tries++) {
    const value = await probe();
    if (value !== undefined && value !== false) {
      return value;
    }
    await sleep(20);
  }
  throw new Error(`never came true: ${what}`);
}

export interface IohvFiles {
  config: string;
  socket: string;
  runDir: string;
}

/** A configuration of the I/O hypervisor with hosts h1 and h2, all below the scratch folder. */
export function iohvFiles(dir: Scratch, extra = ''): IohvFiles {
  const keys = ['h1', 'h2'].map((name) => dir.file(`${name}.key`, generateKey()));
  const config = dir.file(
    'iohv.yaml',
    `state_dir: ${dir.dir}/state
run_dir: ${dir.dir}/run
volume_dir: ${dir.dir}/volumes
port: { interface: lo }
hosts:
  - { name: h1, key_file: ${keys[0]} }
  - { name: h2, key_file: ${keys[1]} }
${extra}`,
  );
  return { config, socket: `${dir.dir}/run/iohv.sock`, runDir: `${dir.dir}/run` };
}

/** What runs engines of the double in `dir`. */
export function doubleSettings(
  dir: string,
  config: EngineConfig,
  changes: Partial<EngineSettings> = {},
): EngineSettings {
  const filesPrefix = `${dir}/${config.role}-engine`;
  return {
    ...{ config, filesPrefix, standby: false },
    launcher: new SpawnLauncher(ENGINE_DOUBLE, `${filesPrefix}.log`),
    presentBuild: () => (existsSync(`${dir}/build`) ? readFileSync(`${dir}/build`, 'utf8') : buildOf(ENGINE_DOUBLE)),
    onSuperseded: () => {},
    ...changes,
  };
}

export interface EngineFound extends PingResult {
  socket: string;
}

/** Every engine process that answers below `runDir`. */
export async function engines(runDir: string): Promise<EngineFound[]> {
  const sockets = readdirSync(runDir).filter((name) => /-engine\.\d+\.sock$/.test(name));
  const found = await Promise.all(
    sockets.map(async (name) => {
      const socket = `${runDir}/${name}`;
      return { socket, ping: await askEngine(socket, 'ping').catch(() => undefined) };
    }),
  );
  return found.flatMap(({ socket, ping }) => (ping === undefined ? [] : [{ ...(ping as PingResult), socket }]));
}

/** The socket of the active engine. */
export async function activeSocket(runDir: string, role: Role = 'iohv'): Promise<string> {
  const found = await engines(runDir);
  const active = found.find(({ state, socket }) => state === 'active' && socket.includes(`/${role}-engine.`));
  if (active === undefined) {
    throw new Error(`no active engine in ${runDir}`);
  }
  return active.socket;
}

/** One command to the active engine, over a connection of its own. */
export async function tellEngine(runDir: string, cmd: string, args: unknown = {}, role?: Role): Promise<unknown> {
  return askEngine(await activeSocket(runDir, role), cmd, args);
}

/** One command to the engine on a socket. */
export function askEngine(socketPath: string, cmd: string, args: unknown = {}): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const socket = connect(socketPath, () => socket.write(`${JSON.stringify({ id: 1, cmd, args })}\n`));
    let text = '';
    socket.on('error', reject);
    socket.on('close', () => reject(new Error('the engine went without an answer')));
    socket.on('data', (chunk) => {
      text += chunk;
      const answer = text.split('\n').find((line) => line.startsWith('{"id":1,'));
      if (answer !== undefined && text.includes(`${answer}\n`)) {
        socket.destroy();
        resolve((JSON.parse(answer) as { result: unknown }).result);
      }
    });
  });
}

export const emit = (runDir: string, event: EngineEvent, role?: Role) => tellEngine(runDir, 'test.emit', event, role);

const QUESTIONS = [
  'ping',
  'claim',
  'prepare',
  'activate',
  'stats',
  'hosts',
  'volume.list',
  'volume.layers',
  'export.list',
  'nic.list',
  'devices',
  'session',
  'loads',
  'workers',
  'cache.list',
  'domain.list',
];

/** Names of the commands that the active engine got, without the questions. */
export async function commandsOf(runDir: string): Promise<string[]> {
  const log = (await tellEngine(runDir, 'test.log')) as { cmd: string }[];
  return log.map(({ cmd }) => cmd).filter((cmd) => cmd !== 'test.log' && !QUESTIONS.includes(cmd));
}

export interface Outcome {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs the command line to its end. */
export function outrigger(args: readonly string[], env: Record<string, string> = {}): Promise<Outcome> {
  return new Promise((resolve) => {
    execFile(`${ROOT}bin/outrigger`, args, { env: { ...process.env, ...env } }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}
