// What every command gets: where to write, whom to ask, and the options that all commands share.
import type { Argv } from 'yargs';
import { ApiClient } from './client.js';

export interface CommandContext {
  out(text: string): void;
  err(text: string): void;
}

export const REMOTE_GROUP = 'Where the supervisor is:';

/** The options of every command that asks a supervisor. Defaults come from OUTRIGGER_* of the environment. */
export function withTarget<T>(yargs: Argv<T>) {
  const { env } = process;
  return yargs.options({
    json: { type: 'boolean', default: false, describe: 'print JSON, as the REST interface answers it' },
    socket: {
      type: 'string',
      default: env.OUTRIGGER_SOCKET,
      defaultDescription: '/run/outrigger/iohv.sock, else host.sock; or $OUTRIGGER_SOCKET',
      describe: 'unix socket of the supervisor',
      group: REMOTE_GROUP,
    },
    url: {
      type: 'string',
      default: env.OUTRIGGER_URL,
      defaultDescription: '$OUTRIGGER_URL',
      describe: 'https://HOST:PORT of a remote I/O hypervisor',
      group: REMOTE_GROUP,
    },
    'token-file': {
      type: 'string',
      default: env.OUTRIGGER_TOKEN_FILE,
      defaultDescription: '$OUTRIGGER_TOKEN_FILE',
      describe: 'file with the bearer token for --url, mode 0600',
      group: REMOTE_GROUP,
    },
    ca: {
      type: 'string',
      default: env.OUTRIGGER_CA,
      defaultDescription: '$OUTRIGGER_CA',
      describe: 'certificate of the authority that signed the one of --url, PEM',
      group: REMOTE_GROUP,
    },
  });
}

export interface TargetArgs {
  socket?: string | undefined;
  url?: string | undefined;
  tokenFile?: string | undefined;
  ca?: string | undefined;
}

/** A --socket on the command line is meant even where the environment has a URL. */
export function clientFor(args: TargetArgs): ApiClient {
  const socketIsMeant = args.socket !== undefined && args.socket !== process.env.OUTRIGGER_SOCKET;
  return new ApiClient({
    socket: args.socket,
    url: socketIsMeant ? undefined : args.url,
    tokenFile: args.tokenFile,
    caFile: args.ca,
  });
}

export function toJson(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

/** A name within the path of a request. */
export const segment = (name: string) => encodeURIComponent(name);
