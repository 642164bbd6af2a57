// What the tests share: scratch folders, waiting for something to become true, configuration files, and a
// second connection to the engine's double.
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { generateKey } from '../../../src/config/keys.js';
import type { EngineEvent } from '../../../src/supervisor/protocol.js';
import type { Logger } from '../../../src/telemetry/log.js';

export const ENGINE_DOUBLE = fileURLToPath(new URL('engine-double.js', import.meta.url));
/** The root of the checkout: four folders above dist/test/unit/ts. */
export const ROOT = fileURLToPath(new URL('../../../../', import.meta.url));

export const silent: Logger = { info() {}, warn() {}, error() {} };

export interface Scratch {
  dir: string;
  /** Writes a file and returns its path. */
  file(name: string, text: string, mode?: number): string;
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
  engineSocket: string;
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
  return { config, socket: `${dir.dir}/run/iohv.sock`, engineSocket: `${dir.dir}/run/iohv-engine.sock` };
}

/** One command to the double over a connection of its own. */
export function tellEngine(socketPath: string, cmd: string, args: unknown = {}): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const socket = connect(socketPath, () => socket.write(`${JSON.stringify({ id: 1, cmd, args })}\n`));
    let text = '';
    socket.on('error', reject);
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

export const emit = (socketPath: string, event: EngineEvent) => tellEngine(socketPath, 'test.emit', event);

/** Names of the commands that the double got, without the questions. */
export async function commandsOf(socketPath: string): Promise<string[]> {
  const questions = new Set(['ping', 'stats', 'hosts', 'volume.list', 'export.list', 'devices', 'session', 'test.log']);
  const log = (await tellEngine(socketPath, 'test.log')) as { cmd: string }[];
  return log.map(({ cmd }) => cmd).filter((cmd) => !questions.has(cmd));
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
