// The demo's command line.
import { parseArgs } from 'node:util';

export interface DemoOptions {
  keep: boolean;
  json: string | undefined;
  mtu: number;
}

const USAGE = `usage: bin/demo [--keep] [--json FILE] [--mtu N]

  --keep        leave everything running at the end, with the commands to poke at it
  --json FILE   write the summary to FILE
  --mtu N       MTU of the segment, 1500 to 65535 (default 9000)
`;

export function parseOptions(): DemoOptions {
  try {
    const { values } = parseArgs({
      options: {
        keep: { type: 'boolean', default: false },
        json: { type: 'string' },
        mtu: { type: 'string', default: '9000' },
        help: { type: 'boolean', default: false },
      },
    });
    if (values.help) {
      process.stdout.write(USAGE);
      process.exit(0);
    }
    const mtu = Number(values.mtu);
    if (!Number.isInteger(mtu) || mtu < 1500 || mtu > 65535) {
      throw new Error(`--mtu ${values.mtu}: give a number from 1500 to 65535`);
    }
    return { keep: values.keep, json: values.json, mtu };
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${USAGE}`);
    process.exit(2);
  }
}
