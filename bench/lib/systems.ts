// The systems under test, in the order in which they are measured.
import { OUTRIGGER_SYSTEMS } from './outrigger-systems.js';
import { LIMITS, NBD_SYSTEMS } from './peers.js';
import type { System } from './system.js';
import { VM_SYSTEMS } from './vm-systems.js';

export const SYSTEMS: readonly System[] = [...OUTRIGGER_SYSTEMS, ...VM_SYSTEMS, ...NBD_SYSTEMS, ...LIMITS];
