// `outrigger engine ls`, `show` and `upgrade`: of an I/O hypervisor or a host agent.
import type { Argv } from 'yargs';
import type { EngineUpgrade, EngineView } from '../../api/schemas.js';
import { type CommandContext, clientFor, toJson, withTarget } from '../context.js';
import { renderEngine, renderProcesses, renderUpgrade } from '../render-engine.js';

export function engineCommand(context: CommandContext) {
  return (yargs: Argv): Argv =>
    yargs
      .command(
        'ls',
        'List the engine and its standby',
        (y) => withTarget(y),
        async (args) => {
          const engine = await clientFor(args).get<EngineView>('/v1/engine');
          context.out(args.json ? toJson(engine.processes) : renderProcesses(engine));
        },
      )
      .command(
        'show',
        'Show the state of the engine',
        (y) => withTarget(y),
        async (args) => {
          const engine = await clientFor(args).get<EngineView>('/v1/engine');
          context.out(args.json ? toJson(engine) : renderEngine(engine));
        },
      )
      .command(
        'upgrade',
        'Replace the running engine by one of the present build; guests notice a pause of some milliseconds',
        (y) =>
          withTarget(y).example(
            '$0 engine upgrade --socket /run/outrigger/host.sock',
            'of the host agent, after a build',
          ),
        async (args) => {
          const result = await clientFor(args).callSlowly<EngineUpgrade>('POST', '/v1/engine/upgrade');
          context.out(args.json ? toJson(result) : renderUpgrade(result));
        },
      )
      .demandCommand(1, 'a command is needed');
}
