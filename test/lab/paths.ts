// Where things are in this checkout, seen from the compiled files under dist/test/lab.
import { fileURLToPath } from 'node:url';

export const repoRoot = fileURLToPath(new URL('../../../', import.meta.url)).replace(/\/$/, '');

export const outriggerProgram = `${repoRoot}/bin/outrigger`;
