// A protection domain as the I/O hypervisor of a lab tells of it.
import type { DomainView } from '../../src/api/domain-schemas.js';
import { getJson } from './api.js';
import { LabError } from './errors.js';
import type { Outrigger } from './outrigger.js';

/** Of one that the engine has. */
export type OpenDomain = DomainView & { counters: NonNullable<DomainView['counters']> };

/** undefined while the engine does not have it. */
export async function tryDomain(lab: Outrigger, name: string): Promise<OpenDomain | undefined> {
  const view = await getJson<DomainView>(lab.socket('iohv'), `/v1/domains/${name}`);
  return view?.counters == null ? undefined : { ...view, counters: view.counters };
}

export async function domainOf(lab: Outrigger, name: string): Promise<OpenDomain> {
  const domain = await tryDomain(lab, name);
  if (domain === undefined) {
    throw new LabError(`the engine does not have the domain ${name}`);
  }
  return domain;
}
