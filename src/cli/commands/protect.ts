// `outrigger protect domain create|ls|show|set|cut|commit|abort|takeover|reset|add|remove|rm|drive`.
import type { Argv } from 'yargs';
import type {
  CommitAnswer,
  CommitRequest,
  CutAnswer,
  CutRequest,
  DomainChange,
  DomainRequest,
  DomainView,
  FencedAnswer,
  MemberRequest,
  TakeoverRequest,
} from '../../api/domain-schemas.js';
import { refuse } from '../../errors.js';
import { DOMAIN_OVERFLOWS } from '../../supervisor/protocol.js';
import { type CommandContext, clientFor, segment, toJson, withTarget } from '../context.js';
import { parseSize, parseTimeout } from '../format.js';
import { renderDomain, renderDomains } from '../render-domain.js';
import { driveCommand } from './protect-drive.js';

const pathOf = (name: string) => `/v1/domains/${segment(name)}`;

/** `true` is said, everything else is left out. */
const flags = <K extends string>(told: Record<K, boolean | undefined>) =>
  Object.fromEntries(Object.entries(told).filter(([, value]) => value === true)) as Partial<Record<K, true>>;

const withName = (y: Argv) =>
  withTarget(y).positional('name', { type: 'string', demandOption: true, describe: 'name of the domain' });

const policyOptions = {
  overflow: {
    choices: DOMAIN_OVERFLOWS,
    describe:
      'when it holds all that it may, or waits too long for a commit: writes wait (push-back, the default), or it goes on without protection (unprotect)',
  },
  'commit-timeout': {
    type: 'string',
    describe: 'how long it may go without a commit: 500ms, 30s; none (the default)',
  },
} as const;

const generationOption = {
  type: 'number',
  describe: 'of the caller: refused when another copy has taken over since; default: the present one',
} as const;

export function protectCommand(context: CommandContext) {
  return (yargs: Argv): Argv =>
    yargs
      .command('domain', 'Protection domains: VMs that are checkpointed together', domainCommand(context))
      .demandCommand(1, 'which of: domain?');
}

function domainCommand(context: CommandContext) {
  return (yargs: Argv): Argv => {
    setupCommands(context, yargs);
    memberCommands(context, yargs);
    epochCommands(context, yargs);
    takeoverCommands(context, yargs);
    driveCommand(context, yargs);
    return yargs.demandCommand(
      1,
      'which of: create, ls, show, set, add, remove, cut, commit, takeover, abort, reset, rm, drive?',
    );
  };
}

function setupCommands(context: CommandContext, yargs: Argv): void {
  const show = (view: DomainView, json: boolean) => context.out(json ? toJson(view) : renderDomain(view));
  yargs
    .command(
      'create <name>',
      'Protect VMs, also while they run: from now on all that they write and send is held until it is committed',
      (y) =>
        withName(y)
          .options({
            vm: {
              type: 'string',
              array: true,
              nargs: 1,
              demandOption: true,
              describe: 'a VM that runs; may be repeated: all of them are cut at the same moment',
            },
            standby: { type: 'string', array: true, nargs: 1, describe: 'a copy that may take over; may be repeated' },
            bytes: { type: 'string', describe: 'that it may hold in memory: 64M, 1G; default 256M' },
            'journal-bytes': { type: 'string', describe: 'size of its journal; default twice as much' },
            ...policyOptions,
          })
          .example('$0 protect domain create ft1 --vm web1 --standby web1b', 'then: attach web1b as web1 is')
          .epilogue('A guest that is protected comes out only as fast as somebody cuts and commits.'),
      async ({ name, vm, standby, bytes, journalBytes, overflow, commitTimeout, ...args }) => {
        const body: DomainRequest = {
          ...{ name, vms: vm },
          ...(standby && { standbys: standby }),
          ...(bytes === undefined ? {} : { bytes: parseSize(bytes, '--bytes') }),
          ...(journalBytes === undefined ? {} : { journal_bytes: parseSize(journalBytes, '--journal-bytes') }),
          ...toChange(overflow, commitTimeout),
        };
        show(await clientFor(args).call<DomainView>('POST', '/v1/domains', body), args.json);
      },
    )
    .command(
      'ls',
      'List protection domains',
      (y) => withTarget(y),
      async (args) => {
        const domains = await clientFor(args).get<DomainView[]>('/v1/domains');
        context.out(args.json ? toJson(domains) : renderDomains(domains));
      },
    )
    .command(
      'show <name>',
      'Show a protection domain: its VMs, epochs, and what it holds',
      (y) => withName(y),
      async (args) => show(await clientFor(args).get<DomainView>(pathOf(args.name)), args.json),
    )
    .command(
      'set <name>',
      'Change what a protection domain does when it overflows',
      (y) => withName(y).options(policyOptions),
      async ({ name, overflow, commitTimeout, ...args }) => {
        const change: DomainChange = toChange(overflow, commitTimeout);
        if (Object.keys(change).length === 0) {
          throw refuse('usage', 'there is nothing to set: name --overflow or --commit-timeout', {
            command: 'protect domain set',
          });
        }
        show(await clientFor(args).call<DomainView>('PATCH', pathOf(name), change), args.json);
      },
    )
    .command(
      'rm <name>',
      'Commit what a protection domain holds and remove it; its VMs go on without',
      (y) =>
        withName(y).option('force', {
          type: 'boolean',
          default: false,
          describe: 'also where what it holds cannot be committed, and is lost',
        }),
      async ({ name, force, ...args }) => {
        await clientFor(args).call('DELETE', `${pathOf(name)}?force=${force}`);
        context.out(args.json ? toJson({ removed: name }) : `removed ${name}\n`);
      },
    );
}

function memberCommands(context: CommandContext, yargs: Argv): void {
  const withVm = (y: Argv) =>
    withName(y).positional('vm', { type: 'string', demandOption: true, describe: 'name of the VM' });
  yargs
    .command(
      'add <name> <vm>',
      'Put a VM into a protection domain',
      (y) =>
        withVm(y)
          .option('standby', {
            type: 'boolean',
            default: false,
            describe: 'a copy that may take over: what is attached to it waits until then',
          })
          .example('$0 protect domain add ft1 web1b --standby', 'then: attach the disks and NICs of web1 to web1b too'),
      async ({ name, vm, standby, ...args }) => {
        const body: MemberRequest = { vm, role: standby ? 'standby' : 'active' };
        const domain = await clientFor(args).call<DomainView>('POST', `${pathOf(name)}/members`, body);
        context.out(args.json ? toJson(domain) : renderDomain(domain));
      },
    )
    .command(
      'remove <name> <vm>',
      'Take a VM out of a protection domain; a copy must be detached first',
      (y) => withVm(y),
      async ({ name, vm, ...args }) => {
        await clientFor(args).call('DELETE', `${pathOf(name)}/members/${segment(vm)}`);
        context.out(args.json ? toJson({ domain: name, removed: vm }) : `${vm} is not in ${name} any more\n`);
      },
    );
}

const dropped = (since: string) =>
  `protection was dropped since ${since}: a VM that resumes at an earlier checkpoint has lost what others saw`;

function epochCommands(context: CommandContext, yargs: Argv): void {
  yargs
    .command(
      'cut <name>',
      'Close the open epoch and begin the next; for a checkpoint, while the VMs are paused',
      (y) => withName(y).option('generation', generationOption),
      async ({ name, generation, ...args }) => {
        const body: CutRequest = generation === undefined ? {} : { generation };
        const answer = await clientFor(args).call<CutAnswer>('POST', `${pathOf(name)}/cut`, body);
        context.out(args.json ? toJson(answer) : `${answer.epoch}\n`);
        if (answer.unprotected) {
          context.err(`warning: ${dropped('the cut before')}; from this one on it protects again\n`);
        }
      },
    )
    .command(
      'commit <name> <epoch>',
      'Let an epoch, and all before it, out: its checkpoint is safe',
      (y) =>
        withName(y)
          .positional('epoch', { type: 'number', demandOption: true, describe: 'as cut said' })
          .option('generation', generationOption)
          .epilogue('Programs use the socket of the domain (`protect domain show`), which is quicker.'),
      async ({ name, epoch, generation, ...args }) => {
        const body: CommitRequest = { epoch, ...(generation === undefined ? {} : { generation }) };
        const answer = await clientFor(args).callSlowly<CommitAnswer>('POST', `${pathOf(name)}/commit`, body);
        context.out(args.json ? toJson(answer) : `committed up to epoch ${answer.committed}\n`);
        if (answer.unprotected) {
          context.err(`warning: ${dropped('the last cut')}; cut and commit again\n`);
        }
      },
    )
    .command(
      'abort <name>',
      'Drop what is not committed, when what wrote it is fenced: a takeover does it by itself',
      (y) => withName(y),
      async ({ name, ...args }) => {
        await clientFor(args).callSlowly('POST', `${pathOf(name)}/abort`);
        context.out(args.json ? toJson({ aborted: name }) : `dropped what was not committed of ${name}\n`);
      },
    );
}

function takeoverCommands(context: CommandContext, yargs: Argv): void {
  const tell = (answer: FencedAnswer, json: boolean, text: string) => context.out(json ? toJson(answer) : `${text}\n`);
  const mayRun = ({ generation, committed }: FencedAnswer) =>
    `generation ${generation} may run: resume at epoch ${committed}; older ones are refused everything`;
  yargs
    .command(
      'takeover <name>',
      'Fence what runs, drop what it did since the last commit, and let the standbys run',
      (y) =>
        withName(y)
          .options({
            vm: { type: 'string', array: true, nargs: 1, describe: 'a standby that runs from now on; default: all' },
            'keep-uncommitted': {
              type: 'boolean',
              describe: 'go on with what is not committed yet, for a VM that was handed over as it is',
            },
            'fence-only': { type: 'boolean', describe: 'nobody runs from now on', conflicts: 'vm' },
            force: { type: 'boolean', describe: 'also where the domain ran without protection' },
          })
          .example('$0 protect domain takeover ft1', 'once it has ended, the copy may resume at the epoch it names')
          .epilogue(
            'When it fails, no copy may resume yet. Repeated, it waits for what was decided, and decides nothing anew, until the copies commit.',
          ),
      async ({ name, vm, keepUncommitted, fenceOnly, force, ...args }) => {
        const body: TakeoverRequest = {
          ...(vm && { vms: vm }),
          ...flags({ keep_uncommitted: keepUncommitted, fence_only: fenceOnly, force }),
        };
        const answer = await clientFor(args).callSlowly<FencedAnswer>('POST', `${pathOf(name)}/takeover`, body);
        const fenced = `everything is fenced, and nobody may run; committed up to epoch ${answer.committed}`;
        tell(answer, args.json, fenceOnly ? fenced : mayRun(answer));
      },
    )
    .command(
      'reset <name>',
      'Let VMs run whose domain is in the state rewind, after they were taken back to the last committed epoch',
      (y) => withName(y).epilogue('A guest that goes on where it was has lost writes that it was told are done.'),
      async ({ name, ...args }) => {
        const answer = await clientFor(args).callSlowly<FencedAnswer>('POST', `${pathOf(name)}/reset`);
        tell(answer, args.json, mayRun(answer));
      },
    );
}

function toChange(overflow: DomainChange['overflow'], commitTimeout: string | undefined): DomainChange {
  return {
    ...(overflow === undefined ? {} : { overflow }),
    ...(commitTimeout === undefined ? {} : { commit_timeout_ms: parseTimeout(commitTimeout, '--commit-timeout') }),
  };
}
