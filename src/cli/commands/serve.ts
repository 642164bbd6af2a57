// The two commands that do not end by themselves: the supervisors. What only they need (server, database) is
// loaded when they run, so that the other commands start fast.
import { fileURLToPath } from 'node:url';
import type { Argv } from 'yargs';
import { refuse } from '../../errors.js';
import { EventLog } from '../../telemetry/events.js';
import { createLogger } from '../../telemetry/log.js';
import { readVersion } from '../../telemetry/version.js';
import type { CommandContext } from '../context.js';
import type { RunOptions } from '../run-common.js';
import { hostQueries } from './host.js';

const DEFAULT_ENGINE = fileURLToPath(new URL('../../engine/main.js', import.meta.url));

const configOption = (example: string) =>
  ({ type: 'string', describe: `configuration file; ${example} is a template` }) as const;
const engineOption = { type: 'string', default: DEFAULT_ENGINE, hidden: true } as const;

function runOptions(args: { config?: string | undefined; engine: string }, command: string): RunOptions {
  if (args.config === undefined) {
    throw refuse('usage', `${command} needs --config FILE`, { command });
  }
  const events = new EventLog();
  return {
    configFile: args.config,
    engineProgram: args.engine,
    log: createLogger(process.stderr, events),
    events,
    version: readVersion(),
  };
}

export function serveCommands(context: CommandContext, yargs: Argv): Argv {
  return yargs
    .command(
      'iohv',
      'Run the I/O hypervisor',
      (y) =>
        y
          .options({ config: configOption('examples/iohv.yaml'), engine: engineOption })
          .example('$0 iohv --config /etc/outrigger/iohv.yaml', '')
          .epilogue(
            'SIGTERM ends it and its engine. SIGHUP reads `hosts` again. SIGQUIT and kill -9 leave the engine serving.',
          ),
      async (args) => {
        const { runIohv } = await import('../run-iohv.js');
        await runIohv(runOptions(args, 'iohv'));
      },
    )
    .command(
      'host',
      'Run the host agent; or: host ls, host show NAME',
      (y) =>
        hostQueries(context, y)
          .options({ config: configOption('examples/host.yaml'), engine: engineOption })
          .example('$0 host --config /etc/outrigger/host.yaml', 'run the agent')
          .example('$0 host ls', 'the hosts of an I/O hypervisor')
          .epilogue('SIGTERM ends it and its engine. SIGQUIT and kill -9 leave the engine serving.'),
      async (args) => {
        const { runHost } = await import('../run-host.js');
        await runHost(runOptions(args, 'host'));
      },
    );
}
