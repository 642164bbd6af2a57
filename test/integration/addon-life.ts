// A process that starts and stops engines of the addon, for addon.test.ts: `addon-life.js INTERFACE ROUNDS`, with
// --expose-gc. Prints as JSON how its commands ended.
import { randomBytes } from 'node:crypto';
import { setImmediate as turn } from 'node:timers/promises';
import { INTEGRITY, loadAddon, type NativeEngine } from '../../src/native/addon.js';

const COMMANDS = 50;
const [, , name = '', rounds = '1'] = process.argv;
const { Engine } = loadAddon();
const ends: Record<string, number> = { resolved: 0 };
const engines: WeakRef<NativeEngine>[] = [];

function count(end: string): void {
  ends[end] = (ends[end] ?? 0) + 1;
}

/** Stops an engine with commands under way and forgets it; what the worker has queued comes afterwards. */
async function life(): Promise<void> {
  const worker = {
    worker: 0,
    interfaces: [name],
    mtu: 0,
    ethertype: 0x88b5,
    superFrames: 'auto' as const,
    cpu: -1,
    nice: 0,
    spinUs: 0,
  };
  const engine = new Engine(
    {
      ...worker,
      role: 'host',
      name: 'h1',
      key: randomBytes(32),
      serverMacs: [Buffer.from([2, 0, 0, 0, 0, 1])],
      integrityMin: INTEGRITY.mac,
    },
    () => {},
  );
  engines.push(new WeakRef(engine));
  await engine.submit('stats', {});
  const commands = Array.from({ length: COMMANDS }, () => engine.submit('stats', {}));
  const all = Promise.all(
    commands.map((command) =>
      command.then(
        () => count('resolved'),
        (error: NodeJS.ErrnoException) => count(error.code ?? error.message),
      ),
    ),
  );
  engine.stop();
  engine.stop();
  await engine.submit('stats', {}).catch((error: NodeJS.ErrnoException) => count(`late ${error.code}`));
  await all;
}

for (let i = 0; i < Number(rounds); i++) {
  await life();
  for (let collected = 0; collected < 3; collected++) {
    global.gc?.();
    await turn();
  }
}
const collected = engines.filter((engine) => engine.deref() === undefined).length;
process.stdout.write(`${JSON.stringify({ ...ends, collected })}\n`);
