// The `outrigger` command. Exit codes: see EXIT in errors.ts.
import yargs from 'yargs';
import { hideBin } from 'yargs/helpers';
import { ConfigError } from '../config/problem.js';
import { ERRORS, EXIT, errnoOf, messageOf, OutriggerError, refuse } from '../errors.js';
import { readVersion } from '../telemetry/version.js';
import { cacheCommand } from './commands/cache.js';
import { engineCommand } from './commands/engine.js';
import { statusCommand } from './commands/host.js';
import { nicCommand } from './commands/nic.js';
import { protectCommand } from './commands/protect.js';
import { serveCommands } from './commands/serve.js';
import { configCommand, keyCommand, tokenCommand } from './commands/tools.js';
import { attachCommand, detachCommand, vmCommand } from './commands/vm.js';
import { volumeCommand } from './commands/volume.js';
import { eventsCommand, topCommand } from './commands/watch.js';
import { workerCommand } from './commands/worker.js';
import type { CommandContext } from './context.js';
import { formatError } from './format.js';

const EPILOGUE = `Start here, on the I/O hypervisor:
  outrigger volume create disk1 --size 10G
  outrigger nic create nic1 --bridge br0
  outrigger attach web1 --host vmhost1 --disk disk1 --nic nic1
  outrigger status
and on the host:
  qemu-system-x86_64 -accel kvm $(outrigger vm args web1 --memory 2G)

Exit codes: 0 done, 1 refused, 2 wrong command line, 3 no supervisor, 78 wrong configuration.
docs/control.md has the whole reference.`;

const context: CommandContext = {
  out: (text) => process.stdout.write(text),
  err: (text) => process.stderr.write(text),
};

function buildParser(args: readonly string[]) {
  const parser = yargs([...args])
    .scriptName('outrigger')
    .usage('$0 COMMAND\n\nDisks and NICs of VMs, served over plain Ethernet by an I/O hypervisor.')
    .version(readVersion())
    .locale('en')
    .strict()
    .recommendCommands()
    .parserConfiguration({ 'duplicate-arguments-array': true })
    .wrap(Math.min(110, process.stdout.columns ?? 100))
    .epilogue(EPILOGUE)
    .command(
      'volume',
      'Volumes: create, set, move, ls, show, rm, export, import, digest, snapshot',
      volumeCommand(context),
    )
    .command('cache', 'The block cache of the I/O hypervisor: show, set, drop', cacheCommand(context))
    .command('protect', 'Checkpointed VMs: protection domains', protectCommand(context))
    .command('nic', 'NICs: create, set, ls, show, rm', nicCommand(context))
    .command('vm', 'VMs: ls, show, args, set', vmCommand(context));
  attachCommand(context, parser);
  detachCommand(context, parser);
  statusCommand(context, parser);
  topCommand(context, parser);
  eventsCommand(context, parser);
  serveCommands(context, parser);
  return parser
    .command('engine', 'The process that carries the I/O: ls, show, upgrade', engineCommand(context))
    .command('worker', 'The polling threads of the I/O hypervisor: ls', workerCommand(context))
    .command('key', 'Pre-shared keys: generate', keyCommand(context))
    .command('token', 'Bearer tokens: add', tokenCommand(context))
    .command('config', 'Configuration files: check', configCommand(context))
    .completion('completion', 'Print a completion script for the shell: outrigger completion >> ~/.bashrc')
    .demandCommand(1, 'a command is needed')
    .check((given, options) => assertOnce(given, options as unknown as OptionNames, args))
    .fail((message, error) => {
      throw error ?? usageError(message, args);
    });
}

/** Of the options of a command, as yargs tells a check. */
interface OptionNames {
  key: Record<string, boolean>;
  /** Those that may be repeated. */
  array: string[];
}

/** Of any option that is doubled the parser makes an array. Throws usage. */
function assertOnce(given: Record<string, unknown>, { key, array }: OptionNames, args: readonly string[]): true {
  const doubled = Object.keys(key).find((name) => Array.isArray(given[name]) && !array.includes(name));
  if (doubled !== undefined) {
    throw usageError(`--${doubled} may be given only once`, args);
  }
  return true;
}

const GROUPS = ['volume', 'cache', 'protect', 'nic', 'vm', 'host', 'engine', 'worker', 'key', 'token', 'config'];

/** Yargs' complaint in our words, with the `--help` that explains it. */
function usageError(message: string, args: readonly string[]): OutriggerError {
  const end = args.findIndex((word) => word.startsWith('-'));
  const [first = '', second = ''] = end === -1 ? args : args.slice(0, end);
  const isGroup = GROUPS.includes(first);
  const text = message.replaceAll('\n', ' ');
  if (text.startsWith('Did you mean')) {
    const unknown = isGroup ? `${first} ${second}` : first;
    return refuse('usage', `unknown command \`${unknown}\`. ${text}`, { command: isGroup ? first : '' });
  }
  const missing = /^Not enough non-option arguments: got (\d+), need at least (\d+)/.exec(text);
  const what = missing ? `an argument is missing (${missing[1]} given, ${missing[2]} needed)` : text;
  return refuse('usage', what, { command: isGroup ? `${first} ${second}`.trim() : first });
}

function report(error: unknown): number {
  if (error instanceof OutriggerError) {
    context.err(formatError(error));
    return error.entry.exit;
  }
  if (error instanceof ConfigError) {
    context.err(`${error.message}\n`);
    return ERRORS.config_invalid.exit;
  }
  const known = refuse('internal', messageOf(error));
  context.err(`${error instanceof Error ? error.stack : ''}\n${formatError(known)}`);
  return known.entry.exit;
}

// EPIPE: whoever reads us has seen enough (`outrigger events --follow | head`).
process.stdout.on('error', (error) => process.exit(errnoOf(error) === 'EPIPE' ? EXIT.ok : report(error)));

try {
  await buildParser(hideBin(process.argv)).parseAsync();
} catch (error) {
  process.exit(report(error)); // a supervisor that failed to start may have opened a server already
}
