// The micro-benchmarks of JavaScript and of its border to the C core; a process of its own in a namespace of its
// own, with the interface that it is given. usage: micro-js.js INTERFACE [TEXT]
import Benchmark from 'benchmark';
import lz4 from 'lz4';
import { loadAddon, type NativeEngine } from '../../src/native/addon.js';
import { CHUNK_SIZE, contentHash } from '../../src/stream/format.js';
import { parseReportDocument, type ReportDocument } from '../../src/supervisor/documents.js';
import { type MicroResult, resultOf } from './micro-case.js';

const MAX_TIME_S = 1;
const ROUNDS = 9;
const ROUND_TRIPS = 200;
const REPORTED = [1, 64] as const;

interface Case {
  group: string;
  name: string;
  bytes: number;
  /** Returns nanoseconds per operation of each round. */
  measure(): Promise<number[]> | number[];
}

/** Benchmark.js chooses how often to call it. Synchronous: what it would wait for, it waits for by timers. */
function sync(group: string, name: string, bytes: number, fn: () => unknown): Case {
  const measure = () => {
    const bench = new Benchmark(name, fn, { maxTime: MAX_TIME_S }).run();
    if (bench.error !== undefined) {
      throw bench.error;
    }
    return bench.stats.sample.map((seconds) => seconds * 1e9);
  };
  return { group, name, bytes, measure };
}

/** To the worker's thread and back, one after the other. */
function roundTrip(group: string, name: string, go: () => Promise<unknown>): Case {
  const measure = async () => {
    const rounds: number[] = [];
    for (let round = 0; round <= ROUNDS; round++) {
      const start = process.hrtime.bigint();
      for (let i = 0; i < ROUND_TRIPS; i++) {
        await go();
      }
      rounds.push(Number(process.hrtime.bigint() - start) / ROUND_TRIPS);
    }
    return rounds.slice(1); // the first one warms up
  };
  return { group, name, bytes: 0, measure };
}

function report(devices: number): string {
  const entries = Array.from({ length: devices }, (_, index) => ({
    ...{ id: index + 1, state: 'running' as const, reason: '' },
    socket: `/run/outrigger/vhost/vm${index}-disk.sock`,
  }));
  const document: ReportDocument = { version: 1, host: 'vmhost1', agentVersion: '0.1.0', devices: entries };
  return JSON.stringify(document);
}

/** Text and noise by turns: neither all alike nor all random. */
function content(): Buffer {
  const buffer = Buffer.alloc(CHUNK_SIZE, 'A block of a file system, more or less. ');
  let state = 1;
  for (let at = 0; at < buffer.length; at += 4) {
    if ((at >> 9) % 2 === 0) {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
      buffer.writeUInt32LE(state, at);
    }
  }
  return buffer;
}

function streamCases(): Case[] {
  const plain = content();
  const scratch = Buffer.alloc(CHUNK_SIZE);
  const packed = scratch.subarray(0, lz4.encodeBlock(plain, scratch));
  const [again, out] = [Buffer.alloc(CHUNK_SIZE), Buffer.alloc(CHUNK_SIZE)];
  const hash = contentHash();
  return [
    sync('stream', 'lz4: pack a block', CHUNK_SIZE, () => lz4.encodeBlock(plain, again)),
    sync('stream', 'lz4: unpack a block', CHUNK_SIZE, () => lz4.decodeBlock(packed, out)),
    sync('stream', 'xxh128 of a block', CHUNK_SIZE, () => hash.update(plain)),
  ];
}

function engineCases(engine: NativeEngine): Case[] {
  return [
    sync('addon', 'call into it, an object comes back', 0, () => engine.port()),
    roundTrip('addon', "a command to the worker's thread and back", () => engine.submit('nic.list', {})),
    roundTrip('addon', 'snapshot of all statistics', () => engine.submit('stats', {})),
  ];
}

const documentCases = REPORTED.map((devices) => {
  const text = report(devices);
  return sync('documents', `parse and check a host's report of ${devices}`, text.length, () =>
    parseReportDocument(text),
  );
});

function openEngine(name: string): NativeEngine {
  const { Engine } = loadAddon();
  const config = {
    ...{
      role: 'iohv' as const,
      worker: 0,
      interfaces: [name],
      mtu: 0,
      ethertype: 0x88b5,
      cpu: -1,
      nice: 0,
      spinUs: 75,
    },
    ...{ superFrames: 'auto' as const, integrity: 2, slots: 256, bufferBytes: 16 << 20, fifo: false },
  };
  return new Engine(config, () => {});
}

const [, , networkInterface = '', only = ''] = process.argv;
const engine = openEngine(networkInterface);
try {
  for (const one of [...documentCases, ...streamCases(), ...engineCases(engine)]) {
    if (`${one.group}: ${one.name}`.includes(only)) {
      const result: MicroResult = resultOf(one.group, one.name, one.bytes, await one.measure());
      process.stdout.write(`${JSON.stringify(result)}\n`);
    }
  }
} finally {
  engine.stop();
}
