// The C core takes a bounded number of commands at a time and refuses those beyond; a host with hundreds of disks
// has more to add. Here they wait for their turn.
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf } from '../errors.js';
import type { NativeCommands, NativeEngine } from '../native/addon.js';

const RETRY_MS = 2;

export class PatientEngine implements Pick<NativeEngine, 'submit'> {
  private readonly engine: NativeEngine;

  constructor(engine: NativeEngine) {
    this.engine = engine;
  }

  async submit<C extends keyof NativeCommands>(
    command: C,
    args: NativeCommands[C]['args'],
  ): Promise<NativeCommands[C]['result']> {
    for (;;) {
      try {
        return await this.engine.submit(command, args);
      } catch (error) {
        if (errnoOf(error) !== 'EAGAIN') {
          throw error;
        }
        await sleep(RETRY_MS); // it was not begun
      }
    }
  }
}
