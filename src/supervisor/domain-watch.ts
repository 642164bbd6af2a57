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
      case 'domain.timeout':
        log.warn(event.event, { domain: event.data.name });
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
    const tell = (kind: 'epoch.cut' | 'epoch.committed', epoch: number, last: number | undefined) => {
      if (last !== epoch) {
        this.log.info(kind, { domain: name, epoch, count: last === undefined ? undefined : Math.max(epoch - last, 1) });
      }
    };
    tell('epoch.cut', open, before?.open);
    tell('epoch.committed', committed, before?.committed);
  }
}
