// What a supervisor needs to run engines: the same for both roles.
import type { EngineKeeperOptions } from './engine-keeper.js';

export type EngineSettings = Pick<
  EngineKeeperOptions,
  'config' | 'launcher' | 'filesPrefix' | 'standby' | 'presentBuild' | 'onSuperseded'
>;
