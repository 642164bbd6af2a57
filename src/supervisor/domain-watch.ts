// What the engine tells of protection domains, as events for an operator.
import type { Logger } from '../telemetry/log.js';
import type { EngineEvent } from './protocol.js';

interface Epochs {
  open: number;
  committed: number;
}

export class DomainWatch {
  private readonly log: Logger;
  /** By id: what was told last. */
  private readonly told = new Map<number, Epochs>();

  constructor(log: Logger) {
    this.log = log;
  }

  tell(event: EngineEvent): void {
    const { log } = this;
    switch (event.event) {
      case 'domain.overflow':
        log.warn('domain.overflow', { domain: event.data.name });
        return;
      case 'domain.timeout':
        log.warn('domain.timeout', { domain: event.data.name });
        return;
      case 'domain.unprotected':
        log.error('domain.unprotected', { domain: event.data.name });
        return;
      case 'domain.trouble':
        log.error('domain.trouble', { domain: event.data.name, what: event.data.what });
        return;
      case 'domain.rewind':
        log.error('domain.rewind-needed', { domain: event.data.name });
        return;
      case 'domain.epochs':
        this.tellEpochs(event.data);
        return;
      default:
        return;
    }
  }

  /** How many there were since the last time; unknown the first time. */
  private tellEpochs({ id, name, open, committed }: { id: number; name: string } & Epochs): void {
    const before = this.told.get(id);
    this.told.set(id, { open, committed });
    const since = (last: number | undefined, epoch: number) =>
      last === undefined ? undefined : Math.max(epoch - last, 1);
    if (before?.open !== open) {
      this.log.info('epoch.cut', { domain: name, epoch: open, count: since(before?.open, open) });
    }
    if (before?.committed !== committed) {
      this.log.info('epoch.committed', { domain: name, epoch: committed, count: since(before?.committed, committed) });
    }
  }
}
