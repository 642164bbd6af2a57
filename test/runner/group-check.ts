// Formatting, types, linting, and the style tests under test/style.
import { readFileSync } from 'node:fs';
import { repoRoot } from '../lab/paths.js';
import { ONE_FAILED, ONE_PASSED } from './counts.js';
import { findFiles } from './files.js';
import type { Group, Item, Options } from './group.js';
import { nodeTest } from './group-node.js';
import { runProgram } from './program.js';

const NATIVE = ['native', 'test/unit/native', 'test/sim', 'test/fuzz', 'test/tools', 'bench/native', 'guest'];

export const checkGroup: Group = {
  name: 'check',
  about: 'formatting, types, linting, style',
  async *run(options) {
    const bin = `${repoRoot}/node_modules/.bin`;
    const native = findFiles(NATIVE, ['.c', '.h', '.cc']);
    yield check('clang-format', ['clang-format', '--dry-run', '--Werror', ...native], options);
    yield check('tsc', [`${bin}/tsc`, '--noEmit', '--project', '.'], options);
    yield check('biome', [`${bin}/biome`, 'ci', '--colors=off', '--error-on-warnings'], options);
    yield check(
      'shellcheck',
      ['shellcheck', '--severity=warning', '--external-sources', '--source-path=SCRIPTDIR', ...shellScripts()],
      options,
    );
    if (options.tidy) {
      const sources = findFiles(['native'], ['.c']);
      yield check('clang-tidy', ['clang-tidy', '--quiet', '-p', 'build', ...sources], options);
    }
    for (const source of findFiles(['test/style'], ['.test.ts'])) {
      yield await nodeTest(source, options);
    }
  },
};

async function check(name: string, argv: readonly [string, ...string[]], options: Options): Promise<Item> {
  const { status, output } = await runProgram(argv, name, options);
  return { name, counts: status === 0 ? ONE_PASSED : ONE_FAILED, output };
}

/** Programs and libraries of the shell, told by their first line or their name. */
function shellScripts(): string[] {
  return findFiles(['bin', 'guest', '.ci'], ['']).filter(
    (path) => path.endsWith('.sh') || /^#!\/bin\/(ba)?sh/.test(readFileSync(`${repoRoot}/${path}`, 'utf8')),
  );
}
