// The integration tests: two files at a time, as most wait much; those that need the machine for themselves at the end.
import { basename } from 'node:path';
import { findAccel } from '../lab/accel.js';
import { findFiles } from './files.js';
import type { Group } from './group.js';
import { nodeTest } from './group-node.js';
import { inLanes, lanesOf } from './lanes.js';

/** They begin in this order, before all others: a long one that begins last would run on with nothing beside it. */
const LONGEST = ['campaign', 'domains', 'links', 'control', 'restart', 'nic', 'snapshots', 'cache', 'sqlite', 'xdp'];

/** Nothing runs beside them, and why. */
const ALONE = {
  cycles: 'it compares what processes hold before and after, and of a page that two tests share only a part counts',
  rogue: 'it compares throughput with an attack and without, and floods a segment from one CPU meanwhile',
};

export const integrationGroup: Group = {
  name: 'integration',
  about: 'real processes, network namespaces and QEMU guests',
  async *run(options) {
    // Asked once here, not again by every file.
    const env = {
      OUTRIGGER_ACCEL: await findAccel(),
      OUTRIGGER_LAB_LOGS: options.logDir,
      OUTRIGGER_LONG: options.long ? '1' : '0',
    };
    const { together, alone } = plan(findFiles(['test/integration'], ['.test.ts']));
    // The numbers of an acceptance run are to be compared with others.
    const lanes = options.long ? 1 : lanesOf(options);
    yield* inLanes(together, lanes, (source) => nodeTest(source, options, env));
    yield* inLanes(alone, 1, (source) => nodeTest(source, options, env));
  },
};

function plan(sources: readonly string[]): { together: string[]; alone: string[] } {
  const sourceOf = (name: string): string => {
    const found = sources.find((source) => basename(source, '.test.ts') === name);
    if (found === undefined) {
      throw new Error(`group-integration.ts names the test ${name}, which is not there`);
    }
    return found;
  };
  const alone = Object.keys(ALONE).map(sourceOf);
  const first = LONGEST.map(sourceOf);
  return { together: [...first, ...sources.filter((source) => ![...first, ...alone].includes(source))], alone };
}
