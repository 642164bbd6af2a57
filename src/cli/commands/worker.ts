// `outrigger worker ls`.
import type { Argv } from 'yargs';
import type { WorkerView } from '../../api/schemas.js';
import { type CommandContext, clientFor, toJson, withTarget } from '../context.js';
import { renderWorkers } from '../render-engine.js';

export function workerCommand(context: CommandContext) {
  return (yargs: Argv): Argv =>
    yargs
      .command(
        'ls',
        'List the polling threads of the I/O hypervisor, and what they do just now',
        (y) => withTarget(y).example('$0 volume move disk1 1', 'then lets worker 1 serve disk1'),
        async (args) => {
          const workers = await clientFor(args).get<WorkerView[]>('/v1/workers');
          context.out(args.json ? toJson(workers) : renderWorkers(workers));
        },
      )
      .demandCommand(1, 'a command is needed');
}
