// The guest images: guest/build makes them, or finds them in the cache.
import { run } from './command.js';
import { LabError } from './errors.js';
import { repoRoot } from './paths.js';

const BUILD_TIMEOUT_MS = 30 * 60_000;

/** The directory that holds the image. */
export async function guestImage(name: 'test' | 'demo'): Promise<string> {
  const { status, stdout, stderr } = await run([`${repoRoot}/guest/build`, name], BUILD_TIMEOUT_MS);
  if (status !== 0) {
    throw new LabError(`the ${name} guest image cannot be made:\n${stderr.trim()}`);
  }
  return stdout.trim();
}
