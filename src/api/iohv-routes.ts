// The REST interface of the I/O hypervisor: each route checks nothing itself, calls one operation or view
// and answers.
import { Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { refuse } from '../errors.js';
import type { IohvServices } from '../supervisor/iohv-services.js';
import type { IohvSupervisor } from '../supervisor/iohv-supervisor.js';
import type { Operations, VolumeChanges, VolumeSpec } from '../supervisor/operations.js';
import type { CloneSpec, Snapshots } from '../supervisor/snapshots.js';
import type { EventLog } from '../telemetry/events.js';
import { cacheRoutes } from './cache-routes.js';
import { toCacheChanges } from './cache-views.js';
import { domainRoutes } from './domain-routes.js';
import { engineRoutes } from './engine-routes.js';
import { eventRoutes } from './event-routes.js';
import type { IohvViews } from './iohv-views.js';
import { iohvMetrics, METRICS_TYPE } from './metrics-text.js';
import { nicRoutes } from './nic-routes.js';
import { NicParams } from './nic-schemas.js';
import {
  type AttachRequest,
  DeleteVolumeQuery,
  DetachQuery,
  type DiskChange,
  DiskParams,
  type MoveRequest,
  NameParams,
  Stats,
  VmParams,
  type VolumeChange,
  type VolumeRequest,
} from './schemas.js';
import { answers } from './server.js';
import { snapshotRoutes } from './snapshot-routes.js';
import { transferRoutes } from './transfer-routes.js';

const none = Type.Null({ description: 'done' });

/** What the interface is made of. */
export interface IohvParts extends IohvServices {
  views: IohvViews;
  supervisor: IohvSupervisor;
  events: EventLog;
}

export function iohvRoutes(parts: IohvParts) {
  const { operations, nicOperations, cacheOperations, domainOperations, snapshots, transfers } = parts;
  const { views, supervisor, events } = parts;
  return (app: FastifyInstance): void => {
    volumeRoutes(app, operations, snapshots, views);
    snapshotRoutes(app, snapshots, views);
    nicRoutes(app, nicOperations, views.nics);
    cacheRoutes(app, cacheOperations, views);
    domainRoutes(app, domainOperations, views.domains);
    transferRoutes(app, transfers);
    vmRoutes(app, operations, views);
    hostRoutes(app, views);
    statusRoutes(app, views, supervisor);
    engineRoutes(app, supervisor);
    eventRoutes(app, events);
  };
}

function volumeRoutes(app: FastifyInstance, operations: Operations, snapshots: Snapshots, views: IohvViews): void {
  const tags = ['volumes'];
  const volume = Type.Ref('Volume#');

  app.get(
    '/v1/volumes',
    {
      schema: {
        operationId: 'listVolumes',
        tags,
        summary: 'All volumes',
        response: answers({ 200: Type.Array(volume) }),
      },
    },
    () => views.volumes(),
  );
  app.get<{ Params: NameParams }>(
    '/v1/volumes/:name',
    {
      schema: {
        operationId: 'getVolume',
        tags,
        summary: 'One volume',
        params: NameParams,
        response: answers({ 200: volume }),
      },
    },
    (request) => views.volume(request.params.name),
  );
  app.put<{ Params: NameParams; Body: VolumeRequest }>(
    '/v1/volumes/:name',
    {
      schema: {
        operationId: 'createVolume',
        tags,
        summary: 'Create or clone a volume, or adopt a file; 200 when the same volume exists',
        params: NameParams,
        body: Type.Ref('VolumeRequest#'),
        response: answers({ 200: volume, 201: volume }),
      },
    },
    async (request, reply) => {
      const { name } = request.params;
      const { from } = request.body;
      const created = await (from === undefined
        ? operations.createVolume(name, toVolumeSpec(request.body))
        : snapshots.clone(name, toCloneSpec(from, request.body)));
      return reply.code(created ? 201 : 200).send(views.volume(name));
    },
  );
  app.patch<{ Params: NameParams; Body: VolumeChange }>(
    '/v1/volumes/:name',
    {
      schema: {
        operationId: 'changeVolume',
        tags,
        summary: 'Change a volume, also while guests use it',
        params: NameParams,
        body: Type.Ref('VolumeChange#'),
        response: answers({ 200: volume }),
      },
    },
    async (request) => {
      const { name } = request.params;
      await operations.changeVolume(name, toVolumeChanges(request.body));
      return views.volume(name);
    },
  );
  app.post<{ Params: NameParams; Body: MoveRequest }>(
    '/v1/volumes/:name/move',
    {
      schema: {
        operationId: 'moveVolume',
        tags,
        summary: 'Let another worker serve a volume, also while guests use it',
        params: NameParams,
        body: Type.Ref('MoveRequest#'),
        response: answers({ 200: volume }),
      },
    },
    async (request) => {
      const { name } = request.params;
      await operations.moveVolume(name, request.body.worker);
      return views.volume(name);
    },
  );
  app.delete<{ Params: NameParams; Querystring: DeleteVolumeQuery }>(
    '/v1/volumes/:name',
    {
      schema: {
        operationId: 'deleteVolume',
        tags,
        summary: 'Remove a volume; the file goes too unless it was adopted or is kept',
        params: NameParams,
        querystring: DeleteVolumeQuery,
        response: answers({ 204: none }),
      },
    },
    async (request, reply) => {
      await operations.deleteVolume(request.params.name, request.query.keep === 'true');
      return reply.code(204).send();
    },
  );
}

function toVolumeSpec(body: VolumeRequest): VolumeSpec {
  const { size, kind, block_size: blockSize, adopt, read_only: readOnly } = body;
  const changes = toVolumeChanges(body);
  if (adopt !== undefined) {
    if (size !== undefined || kind !== undefined || blockSize !== undefined) {
      throw refuse('invalid_request', 'adopt takes size, kind and block_size from what exists: leave them out');
    }
    return { adopt, readOnly: readOnly ?? false, ...changes };
  }
  if (size === undefined) {
    throw refuse(
      'invalid_request',
      'a volume needs a size (a new one), or adopt (an existing file), or from (a clone)',
    );
  }
  if (readOnly !== undefined) {
    throw refuse('invalid_request', 'read_only goes with adopt; attach a new volume read-only instead');
  }
  return { kind: kind ?? 'file', size, blockSize, ...changes };
}

function toCloneSpec(from: string, body: VolumeRequest): CloneSpec {
  const { size, kind, block_size: blockSize, adopt, read_only: readOnly } = body;
  if ([kind, blockSize, adopt, readOnly].some((value) => value !== undefined)) {
    throw refuse('invalid_request', 'a clone is what its base is: leave kind, block_size, adopt and read_only out');
  }
  const [base = '', snapshot = null] = from.split('@');
  return { base, snapshot, size, ...toVolumeChanges(body) };
}

function toVolumeChanges({ io_timeout_ms: ioTimeoutMs, rate, cache, worker }: VolumeChange): VolumeChanges {
  const amounts = rate && {
    bytesPerS: rate.bytes_per_s,
    bytesBurst: rate.burst_bytes,
    opsPerS: rate.iops,
    opsBurst: rate.burst_ops,
  };
  const told = Object.entries(amounts ?? {}).filter(([, value]) => value !== undefined);
  return { ioTimeoutMs, limit: rate && Object.fromEntries(told), cache: cache && toCacheChanges(cache), worker };
}

function vmRoutes(app: FastifyInstance, operations: Operations, views: IohvViews): void {
  const tags = ['VMs'];
  const vm = Type.Ref('Vm#');

  app.get(
    '/v1/vms',
    {
      schema: {
        operationId: 'listVms',
        tags,
        summary: 'All VMs, with their disks and NICs',
        response: answers({ 200: Type.Array(vm) }),
      },
    },
    () => views.vms(),
  );
  app.get<{ Params: VmParams }>(
    '/v1/vms/:vm',
    { schema: { operationId: 'getVm', tags, summary: 'One VM', params: VmParams, response: answers({ 200: vm }) } },
    (request) => views.vm(request.params.vm),
  );
  app.delete<{ Params: VmParams; Querystring: DetachQuery }>(
    '/v1/vms/:vm',
    {
      schema: {
        operationId: 'detachVm',
        tags,
        summary: 'Detach all disks and NICs of a VM',
        params: VmParams,
        querystring: DetachQuery,
        response: answers({ 204: none }),
      },
    },
    async (request, reply) => {
      await operations.detach(request.params.vm, {}, request.query.force === 'true');
      return reply.code(204).send();
    },
  );
  app.get(
    '/v1/attachments',
    {
      schema: {
        operationId: 'listAttachments',
        tags,
        summary: 'All disks of all VMs',
        response: answers({ 200: Type.Array(Type.Ref('Disk#')) }),
      },
    },
    () => views.attachments(),
  );
  app.post<{ Body: AttachRequest }>(
    '/v1/attachments',
    {
      schema: {
        operationId: 'attach',
        tags,
        summary: 'Attach volumes and NICs to a VM on a host; 200 when all are attached already',
        body: Type.Ref('AttachRequest#'),
        response: answers({ 200: vm, 201: vm }),
      },
    },
    async (request, reply) => {
      const { vm: name, host, disks = [], nics = [] } = request.body;
      if (disks.length + nics.length === 0) {
        throw refuse('invalid_request', 'there is nothing to attach: name at least one disk or NIC');
      }
      const specs = disks.map((disk) => ({
        volume: disk.volume,
        name: disk.name,
        readOnly: disk.read_only ?? false,
        queues: disk.queues ?? 1,
        weight: disk.weight,
      }));
      const uses = nics.map(({ nic, queues = 1, qmp = null }) => ({ nic, queues, qmp }));
      const created = await operations.attach(name, host, specs, uses);
      return reply.code(created ? 201 : 200).send(views.vm(name));
    },
  );
  app.patch<{ Params: DiskParams; Body: DiskChange }>(
    '/v1/attachments/:vm/:disk',
    {
      schema: {
        operationId: 'changeDisk',
        tags,
        summary: 'Change a disk of a VM, also while a guest uses it',
        params: DiskParams,
        body: Type.Ref('DiskChange#'),
        response: answers({ 200: vm }),
      },
    },
    async (request) => {
      const { vm: name, disk } = request.params;
      await operations.changeDisk(name, disk, request.body);
      return views.vm(name);
    },
  );
  app.delete<{ Params: DiskParams; Querystring: DetachQuery }>(
    '/v1/attachments/:vm/:disk',
    {
      schema: {
        operationId: 'detachDisk',
        tags,
        summary: 'Detach one disk of a VM',
        params: DiskParams,
        querystring: DetachQuery,
        response: answers({ 204: none }),
      },
    },
    async (request, reply) => {
      const { vm: name, disk } = request.params;
      await operations.detach(name, { disk }, request.query.force === 'true');
      return reply.code(204).send();
    },
  );
  app.delete<{ Params: NicParams; Querystring: DetachQuery }>(
    '/v1/attachments/:vm/nics/:nic',
    {
      schema: {
        operationId: 'detachNic',
        tags,
        summary: 'Detach one NIC of a VM',
        params: NicParams,
        querystring: DetachQuery,
        response: answers({ 204: none }),
      },
    },
    async (request, reply) => {
      const { vm: name, nic } = request.params;
      await operations.detach(name, { nic }, request.query.force === 'true');
      return reply.code(204).send();
    },
  );
}

function hostRoutes(app: FastifyInstance, views: IohvViews): void {
  const tags = ['hosts'];
  const host = Type.Ref('Host#');

  app.get(
    '/v1/hosts',
    { schema: { operationId: 'listHosts', tags, summary: 'All hosts', response: answers({ 200: Type.Array(host) }) } },
    () => views.hosts(),
  );
  app.get<{ Params: NameParams }>(
    '/v1/hosts/:name',
    {
      schema: {
        operationId: 'getHost',
        tags,
        summary: 'One host',
        params: NameParams,
        response: answers({ 200: host }),
      },
    },
    (request) => views.host(request.params.name),
  );
}

function statusRoutes(app: FastifyInstance, views: IohvViews, supervisor: IohvSupervisor): void {
  const tags = ['status'];

  app.get(
    '/v1/status',
    {
      schema: {
        operationId: 'getStatus',
        tags,
        summary: 'Everything at a glance',
        response: answers({ 200: Type.Ref('Status#') }),
      },
    },
    () => views.status(),
  );
  app.get(
    '/v1/workers',
    {
      schema: {
        operationId: 'listWorkers',
        tags,
        summary: 'The polling threads of the engine, looked at for a moment',
        response: answers({ 200: Type.Array(Type.Ref('Worker#')) }),
      },
    },
    () => views.workers(),
  );
  app.get(
    '/v1/stats',
    { schema: { operationId: 'getStats', tags, summary: 'Counters of the engine', response: answers({ 200: Stats }) } },
    () => supervisor.stats(),
  );
  app.get(
    '/metrics',
    { schema: { operationId: 'getMetrics', tags, summary: 'Prometheus text', produces: ['text/plain'] } },
    async (_request, reply) => reply.type(METRICS_TYPE).send(await iohvMetrics(views, supervisor)),
  );
}
