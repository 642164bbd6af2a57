// The files of `volume export` and `volume import` on the side of the command line. What is exported is read, as an
// import would, while it is saved: a stream that broke off looks no different from outside.
import { type FileHandle, open, rm } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { errnoOf, messageOf, OutriggerError, refuse } from '../errors.js';
import type { StreamResult } from '../stream/format.js';
import { readStream } from '../stream/reader.js';

/** Whether `-` was given: standard input or output instead of a file. yargs makes '' of it. */
export function isStandard(path: string): boolean {
  return path === '' && process.argv.includes('-');
}

/** Saves a stream, durably, in a new file. Nothing is left of it when it is not whole. */
export async function saveExport(source: Readable, path: string): Promise<StreamResult> {
  if (isStandard(path)) {
    return check(source, writeOutput);
  }
  const file = await open(path, 'wx', 0o600).catch((error: unknown) => {
    source.destroy();
    throw errnoOf(error) === 'EEXIST'
      ? new OutriggerError('usage', `${path} exists`, 'choose a new file')
      : new OutriggerError('usage', `${path} cannot be written: ${errnoOf(error)}`, 'check the path');
  });
  const remove = () => rm(path, { force: true });
  const stop = (signal: NodeJS.Signals) => void remove().then(() => process.kill(process.pid, signal));
  process.once('SIGINT', stop).once('SIGTERM', stop);
  try {
    const result = await check(source, (bytes) => append(file, bytes, path));
    await file.sync();
    return result;
  } catch (error) {
    await remove();
    throw error;
  } finally {
    process.off('SIGINT', stop).off('SIGTERM', stop);
    await file.close();
  }
}

export async function openExport(path: string): Promise<Readable> {
  if (isStandard(path)) {
    return process.stdin;
  }
  try {
    const file = await open(path, 'r');
    return file.createReadStream();
  } catch (error) {
    throw new OutriggerError('usage', `${path} cannot be read: ${errnoOf(error)}`, 'check the path');
  }
}

/** Passes a stream on while it is read; the result is there only when all of it was right. */
async function check(source: Readable, pass: (bytes: Buffer) => Promise<void>): Promise<StreamResult> {
  async function* passing() {
    for await (const bytes of source as AsyncIterable<Buffer>) {
      await pass(bytes);
      yield bytes;
    }
  }
  try {
    return await readStream(passing(), { async begin() {}, async write() {} });
  } catch (error) {
    throw error === source.errored ? refuse('transfer_broken', `the connection broke: ${messageOf(error)}`) : error;
  }
}

function writeOutput(bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (error: Error) => reject(refuse('transfer_broken', `the output was closed: ${error.message}`));
    process.stdout.once('error', fail);
    process.stdout.write(bytes, (error) => {
      if (!error) {
        process.stdout.off('error', fail);
        resolve();
      }
    });
  });
}

async function append(file: FileHandle, bytes: Buffer, path: string): Promise<void> {
  try {
    await file.appendFile(bytes);
  } catch (error) {
    throw refuse('storage_failed', `${path} cannot be written: ${messageOf(error)}`, { path });
  }
}
