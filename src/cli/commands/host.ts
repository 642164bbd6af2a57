// `outrigger host ls` and `host show`.
import type { Argv } from 'yargs';
import type { HostStatus, HostView, IohvStatus } from '../../api/schemas.js';
import { type CommandContext, clientFor, segment, toJson, withTarget } from '../context.js';
import { renderHost, renderHosts, renderStatus } from '../render.js';

/** `host ls` and `host show`; `host` alone starts the agent, see serve.ts. */
export function hostQueries(context: CommandContext, yargs: Argv): Argv {
  return yargs
    .command(
      'ls',
      'List the hosts that an I/O hypervisor knows',
      (y) => withTarget(y),
      async (args) => {
        const hosts = await clientFor(args).get<HostView[]>('/v1/hosts');
        context.out(args.json ? toJson(hosts) : renderHosts(hosts));
      },
    )
    .command(
      'show <name>',
      'Show one host',
      (y) => withTarget(y).positional('name', { type: 'string', demandOption: true }),
      async (args) => {
        const host = await clientFor(args).get<HostView>(`/v1/hosts/${segment(args.name)}`);
        context.out(args.json ? toJson(host) : renderHost(host));
      },
    );
}

export function statusCommand(context: CommandContext, yargs: Argv): Argv {
  return yargs.command(
    'status',
    'Everything at a glance: engine, session, hosts, volumes, VMs, and what is wrong',
    (y) => withTarget(y).example('$0 status --socket /run/outrigger/host.sock', 'of the host agent'),
    async (args) => {
      const status = await clientFor(args).get<IohvStatus | HostStatus>('/v1/status');
      context.out(args.json ? toJson(status) : renderStatus(status));
    },
  );
}
