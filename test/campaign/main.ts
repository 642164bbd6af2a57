// The entry point of `npm run campaign -- --events N --seed S --json FILE`.
import { appendFileSync, writeFileSync } from 'node:fs';
import yargs from 'yargs';
import { hideBin } from 'yargs/helpers';
import { Cleanup } from '../lab/cleanup.js';
import { runCampaign } from './campaign.js';
import { formatMarkdown, formatSummary, formatTable, isClean } from './result.js';

const flags = await yargs(hideBin(process.argv))
  .scriptName('npm run campaign --')
  .usage('Kills, cuts and upgrades at random under verified I/O, and tells what it cost.\n\n$0 [--events N] [--seed S]')
  .options({
    events: { type: 'number', default: 60, describe: 'how many things happen' },
    seed: { type: 'number', default: 1, describe: 'of the order of events, their times and the I/O' },
    only: { type: 'string', default: '', describe: 'only kinds that begin with these, separated by commas' },
    'delay-share': { type: 'number', default: 0.01, describe: 'this share of the writes is held back' },
    'delay-ms': { type: 'number', default: 100, describe: 'for at most so long' },
    json: { type: 'string', describe: 'write the result to this file' },
    markdown: { type: 'string', describe: 'append the table to this file' },
  })
  .strict()
  .parseAsync();

if (!(Number.isSafeInteger(flags.events) && flags.events > 0)) {
  process.stderr.write(`campaign: --events ${flags.events}: give a number above 0\n`);
  process.exit(2);
}
if (flags.json !== undefined) {
  writeFileSync(flags.json, '{}\n'); // what would fail at the end shall fail now
}

const cleanup = new Cleanup();
cleanup.onSignals(() => process.stderr.write('campaign: cleaning up\n'));
try {
  const result = await runCampaign({
    events: flags.events,
    seed: flags.seed,
    only: flags.only.split(',').filter(Boolean),
    delayShare: flags.delayShare,
    delayMs: flags.delayMs,
    cleanup,
    print: (line) => process.stdout.write(`${line}\n`),
  });
  process.stdout.write(`\n${formatTable(result)}\n${formatSummary(result)}\n`);
  if (flags.json !== undefined) {
    writeFileSync(flags.json, `${JSON.stringify(result, null, 2)}\n`);
  }
  if (flags.markdown !== undefined) {
    appendFileSync(flags.markdown, formatMarkdown(result));
  }
  process.exitCode = isClean(result) ? 0 : 1;
} finally {
  cleanup.run();
}
