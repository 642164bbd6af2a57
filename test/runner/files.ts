// Finds files of this checkout.
import { existsSync, readdirSync } from 'node:fs';
import { repoRoot } from '../lab/paths.js';

/** Paths relative to the root, sorted, of the files under `directories` that end in one of `endings`. */
export function findFiles(directories: readonly string[], endings: readonly string[]): string[] {
  return directories
    .filter((directory) => existsSync(`${repoRoot}/${directory}`))
    .flatMap((directory) =>
      readdirSync(`${repoRoot}/${directory}`, { withFileTypes: true, recursive: true })
        .filter((entry) => entry.isFile() && endings.some((ending) => entry.name.endsWith(ending)))
        .map((entry) => `${entry.parentPath}/${entry.name}`.slice(repoRoot.length + 1)),
    )
    .sort();
}
