// What the hosts say of the devices that they have: their last reports, which outlive them and us.
import type { Logger } from '../telemetry/log.js';
import { parseReportDocument, type ReportDocument, type ReportEntry } from './documents.js';
import type { NicAttachment } from './model.js';
import { NO_FEATURES } from './nic-planner.js';
import type { GuestNic } from './protocol.js';
import type { Store } from './store.js';

export class HostReports {
  private readonly store: Store;
  private readonly log: Logger;
  private readonly reports = new Map<string, ReportDocument>();

  constructor(store: Store, log: Logger) {
    this.store = store;
    this.log = log;
    for (const [host, document] of store.reports()) {
      const report = parseReportDocument(document);
      if (report.ok) {
        this.reports.set(host, report.value);
      }
    }
  }

  of(host: string): ReportDocument | undefined {
    return this.reports.get(host);
  }

  /** Of the attachment with this id. */
  entryOf(host: string, id: number): ReportEntry | undefined {
    return this.of(host)?.devices.find((device) => device.id === id);
  }

  /** Whether it says anything new. One that cannot be read is refused. */
  take(host: string, document: string): boolean {
    const report = parseReportDocument(document);
    if (!report.ok) {
      this.log.warn('report.refused', { host, reason: report.reason });
      return false;
    }
    const before = this.reports.get(host);
    if (JSON.stringify(before) === JSON.stringify(report.value)) {
      return false;
    }
    this.logChanges(host, before?.devices ?? [], report.value.devices);
    this.reports.set(host, report.value);
    this.store.putReport(host, document);
    return true;
  }

  /** The guests behind attached NICs. */
  guests(nicAttachments: readonly NicAttachment[]): Map<number, GuestNic> {
    return new Map(
      nicAttachments.flatMap(({ id, host }): [number, GuestNic][] => {
        const entry = this.entryOf(host, id);
        return entry === undefined
          ? []
          : [[id, { features: entry.features ?? NO_FEATURES, filter: entry.filter ?? null }]];
      }),
    );
  }

  /** The devices of the host that are in another state than they were; ids that are not its own are not worth a line. */
  private logChanges(host: string, before: readonly ReportEntry[], now: readonly ReportEntry[]): void {
    const { log, store } = this;
    const { attachments, nicAttachments } = store.desired();
    const changed = (id: number) => {
      const [old, device] = [before, now].map((devices) => devices.find((entry) => entry.id === id));
      return device !== undefined && (device.state !== old?.state || device.reason !== old.reason) ? device : undefined;
    };
    for (const { id, vm, disk } of attachments.filter((attachment) => attachment.host === host)) {
      const { state, reason } = changed(id) ?? {};
      if (state !== undefined) {
        log.info('device.state', { host, id, vm, disk, state, reason: reason || undefined });
      }
    }
    for (const { id, vm, nic } of nicAttachments.filter((attachment) => attachment.host === host)) {
      const { state, reason } = changed(id) ?? {};
      if (state !== undefined) {
        log.info('nic.state', { host, id, vm, nic, state, reason: reason || undefined });
      }
    }
  }
}
