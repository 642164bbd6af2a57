// The engine process: hosts the C core and does what the supervisor says. Started as
// `node .../engine/main.js --socket PATH`, it has loaded everything when it listens, and waits to be activated:
// so the next engine is there before this one dies. Ends by the command `stop` or by SIGTERM; a standby also
// when no supervisor has been there for a minute.
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { messageOf } from '../errors.js';
import { loadAddon } from '../native/addon.js';
import { readVersion } from '../telemetry/version.js';
import { buildOf } from './identity.js';
import { EngineLife } from './life.js';
import { Listener } from './listener.js';

const ORPHAN_CHECK_MS = 30_000;

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { socket: { type: 'string' } } });
  if (!values.socket) {
    throw new Error('--socket PATH is missing');
  }
  const listener = new Listener((cmd) => life.find(cmd));
  const life = new EngineLife({
    addon: loadAddon(),
    version: readVersion(),
    build: buildOf(fileURLToPath(import.meta.url)),
    broadcast: (event) => listener.broadcast(event),
    onStopped: () => setImmediate(() => process.exit(0)), // after the answer to `stop` has left
  });
  await listener.listen(values.socket);
  endWhenOrphaned(life, listener);
  process.on('SIGTERM', () => life.stop());
  process.on('SIGINT', () => life.stop());
}

function endWhenOrphaned(life: EngineLife, listener: Listener): void {
  let wasAlone = false;
  setInterval(() => {
    const isAlone = life.isStandby && listener.isAlone;
    if (isAlone && wasAlone) {
      life.stop();
    }
    wasAlone = isAlone;
  }, ORPHAN_CHECK_MS);
}

main().catch((error: unknown) => {
  process.stderr.write(`outrigger engine: ${messageOf(error)}\n`);
  process.exit(1);
});
