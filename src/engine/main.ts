// The engine process: hosts the C core and does what the supervisor says. Started by a supervisor as
// `node .../engine/main.js --config FILE`; ends by the command `stop` or by SIGTERM.
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { messageOf } from '../errors.js';
import { loadAddon } from '../native/addon.js';
import type { EngineConfig } from '../supervisor/protocol.js';
import { readVersion } from '../telemetry/version.js';
import { commonHandlers, type Handlers, HostCommands, IohvCommands, nativeConfig } from './commands.js';
import { Listener } from './listener.js';

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { config: { type: 'string' } } });
  if (!values.config) {
    throw new Error('--config FILE is missing');
  }
  const config = JSON.parse(readFileSync(values.config, 'utf8')) as EngineConfig;
  let listener: Listener | undefined;
  let commands: IohvCommands | HostCommands | undefined;
  const { Engine } = loadAddon();
  const engine = new Engine(nativeConfig(config), (event) => {
    commands?.observe(event);
    listener?.broadcast(event);
  });
  commands = config.role === 'iohv' ? new IohvCommands(engine) : new HostCommands(engine);
  const stop = () => {
    listener?.close();
    engine.stop();
    // After the answer to `stop` has left.
    setImmediate(() => process.exit(0));
  };
  const identity = { role: config.role, pid: process.pid, version: readVersion(), startedAt: Date.now() };
  const handlers: Handlers = {
    ...commonHandlers(engine, identity),
    ...commands.handlers,
    stop: () => {
      setImmediate(stop);
      return {};
    },
  };
  listener = new Listener(handlers);
  await listener.listen(config.socket);
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
}

main().catch((error: unknown) => {
  process.stderr.write(`outrigger engine: ${messageOf(error)}\n`);
  process.exit(1);
});
