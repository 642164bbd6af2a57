// Commands that need no supervisor: keys, tokens, configuration files.
import { appendFileSync, chmodSync } from 'node:fs';
import type { Argv } from 'yargs';
import { generateKey, writeSecret } from '../../config/keys.js';
import { ConfigError } from '../../config/problem.js';
import { generateToken, hashToken, readTokens } from '../../config/tokens.js';
import { errnoOf, messageOf, OutriggerError, refuse } from '../../errors.js';
import { type CommandContext, toJson } from '../context.js';

const json = { type: 'boolean', default: false, describe: 'print JSON' } as const;

export function keyCommand(context: CommandContext) {
  return (yargs: Argv) =>
    yargs
      .command(
        'generate [file]',
        'Make a pre-shared key for a host; into FILE with mode 0600, else to the output',
        (y) =>
          y
            .positional('file', { type: 'string', describe: 'a new file' })
            .option('json', json)
            .example('$0 key generate /etc/outrigger/vmhost1.key', 'then copy it to the host'),
        (args) => {
          const key = generateKey();
          if (args.file === undefined) {
            context.out(args.json ? toJson({ key }) : `${key}\n`);
            return;
          }
          writeNewSecret(args.file, `${key}\n`);
          const next = `wrote ${args.file} (mode 0600)\ncopy it to the other side over a safe way, such as scp\n`;
          context.out(args.json ? toJson({ file: args.file }) : next);
        },
      )
      .demandCommand(1, 'which of: generate?');
}

export function tokenCommand(context: CommandContext) {
  return (yargs: Argv) =>
    yargs
      .command(
        'add <file> <name>',
        'Make a bearer token for the HTTPS interface: its digest into FILE, the token to the output, once',
        (y) =>
          y
            .positional('file', { type: 'string', demandOption: true, describe: 'api.listen.tokens_file' })
            .positional('name', { type: 'string', demandOption: true, describe: 'who it is for' })
            .option('json', json)
            .example('$0 token add /etc/outrigger/tokens alice > alice.token', ''),
        (args) => {
          if (!/^[^\s#]+$/.test(args.name)) {
            throw refuse('usage', `${JSON.stringify(args.name)} is not a name without blanks and #`, {
              command: 'token add',
            });
          }
          const token = generateToken();
          appendToken(args.file, `${args.name} ${hashToken(token).toString('hex')}\n`);
          context.out(args.json ? toJson({ name: args.name, token }) : `${token}\n`);
        },
      )
      .demandCommand(1, 'which of: add?');
}

function appendToken(file: string, line: string): void {
  const present = readTokens(file);
  if (!present.ok && !present.problem.message.endsWith('does not exist')) {
    throw new OutriggerError('usage', present.problem.message, present.problem.hint);
  }
  if (present.ok) {
    appendFileSync(file, line);
  } else {
    writeNewSecret(file, line);
  }
}

function writeNewSecret(file: string, text: string): void {
  try {
    writeSecret(file, text);
    chmodSync(file, 0o600); // whatever the umask is
  } catch (error) {
    const isThere = errnoOf(error) === 'EEXIST';
    const what = isThere ? 'exists' : `cannot be written: ${errnoOf(error) || messageOf(error)}`;
    throw new OutriggerError('usage', `${file} ${what}`, isThere ? 'choose a new file' : 'check the path');
  }
}

export function configCommand(context: CommandContext) {
  return (yargs: Argv) =>
    yargs
      .command(
        'check <file>',
        'Check a configuration file, with the files and interfaces that it names',
        (y) =>
          y
            .positional('file', { type: 'string', demandOption: true })
            .options({ json, role: { choices: ['iohv', 'host'] as const, describe: 'default: judged by its keys' } })
            .example('$0 config check /etc/outrigger/iohv.yaml', ''),
        async (args) => {
          const { guessRole, loadHostConfig, loadIohvConfig } = await import('../../config/load.js');
          try {
            const role = args.role ?? guessRole(args.file);
            (role === 'iohv' ? loadIohvConfig : loadHostConfig)(args.file);
            context.out(args.json ? toJson({ ok: true, role, problems: [] }) : `${args.file} is right (${role})\n`);
          } catch (error) {
            if (args.json && error instanceof ConfigError) {
              context.out(toJson({ ok: false, problems: error.problems }));
            }
            throw error;
          }
        },
      )
      .demandCommand(1, 'which of: check?');
}
