// Requests and answers about protection domains: see schemas.ts.
import { type Static, Type } from '@sinclair/typebox';
import { IO_TIMEOUT_MS_MAX } from '../config/rules.js';
import { DOMAIN_OVERFLOWS } from '../supervisor/protocol.js';
import { bytes, closed, Name, name, nullable, oneOf } from './schema-parts.js';

const NUMBER_MAX = Number.MAX_SAFE_INTEGER;
const count = (description: string) => Type.Integer({ minimum: 0, description });
const epoch = (description: string) => Type.Integer({ minimum: 0, maximum: NUMBER_MAX, description });
const microseconds = (description: string) => Type.Number({ description: `${description}, microseconds` });

const overflow = oneOf(
  DOMAIN_OVERFLOWS,
  'when it holds all that it may, or waits too long for a commit: push-back (writes wait, packets are dropped at last) or unprotect (it goes on without protection, until the next cut)',
);
const commitTimeout = Type.Integer({
  minimum: 0,
  maximum: IO_TIMEOUT_MS_MAX,
  description: 'after which, without a commit, the domain counts as overflowed, milliseconds; 0: never',
});
const generation = Type.Integer({
  minimum: 1,
  maximum: NUMBER_MAX,
  description: 'of the caller: refused when it is not the present one; left out: the present one, whatever it is',
});
const vms = (description: string) => Type.Array(Name, { maxItems: 64, uniqueItems: true, description });

export const DomainRequest = Type.Object(
  {
    name: Name,
    vms: Type.Array(Name, {
      minItems: 1,
      maxItems: 64,
      uniqueItems: true,
      description: 'VMs that run, and are checkpointed together',
    }),
    standbys: Type.Optional(vms('copies of them that may take over; they need not have disks or NICs yet')),
    bytes: Type.Optional(
      Type.Integer({ minimum: 1, maximum: NUMBER_MAX, description: 'that it may hold; default 256 MiB' }),
    ),
    journal_bytes: Type.Optional(
      Type.Integer({ minimum: 1, maximum: NUMBER_MAX, description: 'size of its journal; default twice as much' }),
    ),
    overflow: Type.Optional(overflow),
    commit_timeout_ms: Type.Optional(commitTimeout),
  },
  { ...closed, $id: 'DomainRequest' },
);
export type DomainRequest = Static<typeof DomainRequest>;

export const DomainChange = Type.Object(
  { overflow: Type.Optional(overflow), commit_timeout_ms: Type.Optional(commitTimeout) },
  { ...closed, minProperties: 1, $id: 'DomainChange', description: 'what is left out stays as it is' },
);
export type DomainChange = Static<typeof DomainChange>;

export const MemberRequest = Type.Object(
  { vm: Name, role: Type.Optional(oneOf(['active', 'standby'], 'active: it runs (default); standby: a copy of one')) },
  { ...closed, $id: 'MemberRequest' },
);
export type MemberRequest = Static<typeof MemberRequest>;

export const CutRequest = Type.Object(
  { generation: Type.Optional(generation) },
  { ...closed, $id: 'CutRequest', description: 'may be empty: {}' },
);
export type CutRequest = Static<typeof CutRequest>;

const unprotected = (since: string) =>
  Type.Boolean({
    description: `protection was dropped since ${since}: more is out than the checkpoints before know of, as after an overflow with the policy unprotect`,
  });

export const CutAnswer = Type.Object(
  {
    generation: epoch('the present one'),
    epoch: epoch('that was closed'),
    unprotected: unprotected('the cut before; from this one on the domain protects again'),
  },
  { $id: 'CutAnswer' },
);
export type CutAnswer = Static<typeof CutAnswer>;

export const CommitRequest = Type.Object(
  { epoch: epoch('one that was cut; all before it are committed too'), generation: Type.Optional(generation) },
  { ...closed, $id: 'CommitRequest' },
);
export type CommitRequest = Static<typeof CommitRequest>;

export const CommitAnswer = Type.Object(
  {
    generation: epoch('the present one'),
    committed: epoch('the last epoch that is committed'),
    unprotected: unprotected('the last cut'),
  },
  { $id: 'CommitAnswer' },
);
export type CommitAnswer = Static<typeof CommitAnswer>;

export const TakeoverRequest = Type.Object(
  {
    vms: Type.Optional(vms('the standbys that run from now on; default all')),
    keep_uncommitted: Type.Optional(
      Type.Boolean({ description: 'they go on with what is not committed yet, instead of dropping it' }),
    ),
    fence_only: Type.Optional(Type.Boolean({ description: 'nobody runs from now on' })),
    force: Type.Optional(Type.Boolean({ description: 'also where the domain ran without protection' })),
  },
  { ...closed, $id: 'TakeoverRequest', description: 'may be empty: {}' },
);
export type TakeoverRequest = Static<typeof TakeoverRequest>;

export const FencedAnswer = Type.Object(
  {
    generation: epoch('the present one'),
    committed: epoch('the last epoch that is committed: after a takeover or reset a VM may resume there'),
  },
  { $id: 'FencedAnswer' },
);
export type FencedAnswer = Static<typeof FencedAnswer>;

const Member = Type.Object({
  vm: Type.String(),
  role: oneOf(
    ['active', 'standby', 'fenced'],
    'active: it runs; standby: it may take over, its requests wait; fenced: it was active, and is refused everything',
  ),
  generation: nullable(Type.Integer(), 'with which it is or was active; null: never'),
});

const ProtectedVolume = Type.Object({
  volume: Type.String(),
  state: oneOf(
    ['waiting', 'protected', 'leaving'],
    'waiting: not in the domain yet, or the engine is away; leaving: nobody in the domain has it, what is held is being written',
  ),
});

const Times = Type.Object({
  count: count('how often'),
  mean_us: microseconds('on average'),
  max_us: microseconds('at most'),
});

const DomainCounters = Type.Object(
  {
    open: epoch('epoch that is open'),
    committed: epoch('last epoch that is committed'),
    applied: epoch('last epoch that is in the volumes'),
    held_bytes: bytes('held'),
    waiting: count('operations that wait for room'),
    packets: count('packets that were held'),
    packets_fenced: count('packets dropped because of their generation'),
    packets_lost: count('packets committed for a NIC that was gone'),
    writes_fenced: count('operations refused because of their generation'),
    cuts: count('cuts'),
    commits: count('commits'),
    overflows: count('times that it held all that it may'),
    connections: count('to its socket'),
    bad_records: count('malformed requests on it'),
    times: Type.Object({
      cut: Times,
      sync: Times,
      release: Times,
      apply: Times,
    }),
  },
  { description: 'of the engine, since it has the domain' },
);

export const DomainView = Type.Object(
  {
    id: Type.Integer(),
    name: Type.String(),
    state: oneOf(
      ['creating', 'deleting', 'waiting', 'opening', 'running', 'fencing', 'rewind', 'unusable', 'failed'],
      'waiting: for the engine; fencing: a takeover or reset is decided and not done; rewind: its VM must be taken back to the last committed epoch; unusable, failed: see the reason',
    ),
    reason: Type.String({ description: 'what is in the way; else empty' }),
    generation: Type.Integer({ description: 'a permission to run; every takeover and reset raises it' }),
    resume_epoch: nullable(Type.Integer(), 'at which a VM may resume, of the last takeover or reset'),
    bytes: bytes('that it may hold'),
    journal: Type.String({ description: 'its file' }),
    journal_bytes: bytes('its size'),
    socket: Type.String({ description: 'unix socket for quick cuts and commits: docs/intercept.md' }),
    worker: Type.Integer({ description: 'the worker that has it, with all its volumes and NICs' }),
    overflow,
    commit_timeout_ms: commitTimeout,
    unprotected: Type.Boolean({
      description: 'more is out than the last checkpoint knows of, until an epoch that is cut from now on is committed',
    }),
    created_at: Type.String({ format: 'date-time' }),
    members: Type.Array(Member),
    volumes: Type.Array(ProtectedVolume),
    nics: Type.Array(Type.String(), { description: 'NICs of VMs that run' }),
    counters: nullable(DomainCounters, 'null: the engine does not have it'),
  },
  { $id: 'Domain', description: 'a protection domain: VMs that are checkpointed together' },
);
export type DomainView = Static<typeof DomainView>;

export const DeleteDomainQuery = Type.Object(
  {
    force: Type.Unsafe<'true' | 'false'>({
      type: 'string',
      enum: ['true', 'false'],
      default: 'false',
      description: 'also where what it holds cannot be committed, and is lost',
    }),
  },
  closed,
);
export type DeleteDomainQuery = Static<typeof DeleteDomainQuery>;

export const MemberParams = Type.Object({ name: Name, vm: name('name of the VM') });
export type MemberParams = Static<typeof MemberParams>;

export const DOMAIN_SCHEMAS = [
  DomainRequest,
  DomainChange,
  MemberRequest,
  CutRequest,
  CutAnswer,
  CommitAnswer,
  CommitRequest,
  TakeoverRequest,
  FencedAnswer,
  DomainView,
];
