// The error registry: every error that an operator or an API client can see, with its code, HTTP status,
// exit code of the CLI, title and hint. Code that refuses something throws `refuse(code, detail, values)`;
// the API turns it into an RFC 9457 problem, the CLI into two lines on stderr. docs/errors.md is generated
// from this table (`src/api/write-docs.ts`) and a test keeps them equal.

export interface ErrorEntry {
  /** HTTP status of the problem response; 0 for errors that never travel over HTTP. */
  status: number;
  /** Exit code of the command line: one of EXIT. */
  exit: number;
  title: string;
  /** How to mend it. `{name}` is replaced by the values given to refuse(). */
  hint: string;
}

/** Exit codes of `outrigger`; docs/control.md lists them. */
export const EXIT = { ok: 0, refused: 1, usage: 2, unreachable: 3, config: 78 } as const;

export const ERRORS = {
  // What the command line finds out by itself.
  usage: { status: 0, exit: EXIT.usage, title: 'Wrong command line', hint: 'see `outrigger {command} --help`' },
  unreachable: {
    status: 0,
    exit: EXIT.unreachable,
    title: 'The supervisor cannot be reached',
    hint: 'check that it runs (`systemctl status outrigger-iohv` or `outrigger-host`) and that --socket or --url is right',
  },
  config_invalid: {
    status: 0,
    exit: EXIT.config,
    title: 'The configuration cannot be used',
    hint: 'mend the file and start again; `outrigger config check {file}` tells whether it is right',
  },

  // Starting a supervisor.
  state_locked: {
    status: 0,
    exit: EXIT.refused,
    title: 'Another supervisor uses this state directory',
    hint: 'stop it first (`systemctl stop outrigger-iohv`), or give this one another state_dir',
  },
  state_version: {
    status: 0,
    exit: EXIT.refused,
    title: 'The state was written by a newer version',
    hint: 'start the version of outrigger that wrote {file}, or restore the copy you took before the upgrade',
  },
  state_unreadable: {
    status: 0,
    exit: EXIT.refused,
    title: 'The desired state cannot be read',
    hint: 'check the permissions and the health of the file system of {file}',
  },
  socket_in_use: {
    status: 0,
    exit: EXIT.refused,
    title: 'Another process listens on the socket',
    hint: 'stop the other supervisor, or give this one another run_dir',
  },
  run_dir_locked: {
    status: 0,
    exit: EXIT.refused,
    title: 'Another supervisor uses this run directory',
    hint: 'stop it first, or wait until it has ended; or give this one another run_dir',
  },
  listen_failed: {
    status: 0,
    exit: EXIT.refused,
    title: 'Cannot listen',
    hint: 'choose another address or port in the api section of the configuration',
  },

  // Requests.
  invalid_request: {
    status: 400,
    exit: EXIT.refused,
    title: 'The request is malformed',
    hint: 'GET /v1/openapi.json describes every request',
  },
  unauthorized: {
    status: 401,
    exit: EXIT.refused,
    title: 'A valid bearer token is needed',
    hint: 'send `Authorization: Bearer TOKEN`; `outrigger token add FILE NAME` on the server makes one',
  },
  route_not_found: {
    status: 404,
    exit: EXIT.refused,
    title: 'No such address',
    hint: 'GET /v1/openapi.json lists every address',
  },

  // Volumes.
  volume_not_found: { status: 404, exit: EXIT.refused, title: 'No such volume', hint: 'known volumes: {known}' },
  volume_exists: {
    status: 409,
    exit: EXIT.refused,
    title: 'A volume of this name exists and differs',
    hint: 'choose another name, or look at it with `outrigger volume show {volume}`',
  },
  volume_in_use: {
    status: 409,
    exit: EXIT.refused,
    title: 'The volume is attached',
    hint: 'detach it first: {commands}',
  },
  volume_busy: {
    status: 409,
    exit: EXIT.refused,
    title: 'The volume is attached elsewhere',
    hint: 'detach it there (`outrigger detach {vm} --disk {disk}`); several VMs may share a volume only when all attach it read-only',
  },
  volume_read_only: {
    status: 409,
    exit: EXIT.refused,
    title: 'The volume is read-only',
    hint: 'attach it read-only: `--disk {volume},ro`',
  },
  volume_deleting: {
    status: 409,
    exit: EXIT.refused,
    title: 'The volume is being removed',
    hint: 'wait until `outrigger volume ls` no longer shows it',
  },
  volume_file_exists: {
    status: 409,
    exit: EXIT.refused,
    title: 'The file of the new volume exists',
    hint: 'use what it holds with `outrigger volume create {volume} --adopt {path}`, or remove the file',
  },
  volume_path_taken: {
    status: 409,
    exit: EXIT.refused,
    title: 'The file is another volume',
    hint: 'use the volume {volume}; two volumes on one file would destroy each other',
  },
  volume_unsuitable: {
    status: 422,
    exit: EXIT.refused,
    title: 'The file cannot be a volume',
    hint: 'a volume is a regular raw file or a block device whose size is a multiple of its block size',
  },
  volume_not_ready: {
    status: 409,
    exit: EXIT.refused,
    title: 'The volume cannot be read now',
    hint: '`outrigger volume show {volume}` says why; try again when its state is open',
  },
  volume_in_transfer: {
    status: 409,
    exit: EXIT.refused,
    title: 'The volume is being exported or imported',
    hint: 'wait until that has ended, or end it: `outrigger volume export`, `digest` or `import` of {volume}',
  },
  volume_has_clones: {
    status: 409,
    exit: EXIT.refused,
    title: 'Clones need it',
    hint: 'remove them first: {commands}; to keep one, `outrigger volume export` it and import it under another name',
  },
  volume_layered: {
    status: 409,
    exit: EXIT.refused,
    title: 'The volume is more than one file',
    hint: 'save its content with `outrigger volume export {volume} FILE`, then remove it without --keep',
  },
  volume_without_snapshots: {
    status: 409,
    exit: EXIT.refused,
    title: 'The volume can have no snapshots and clones',
    hint: 'ram and null volumes live in the engine; a read-only volume never changes: clone it as it is (`outrigger volume create NAME --from {volume}`)',
  },
  volume_cutting: {
    status: 409,
    exit: EXIT.refused,
    title: 'A snapshot of the volume is being taken',
    hint: 'try again when `outrigger volume snapshot ls {volume}` shows it as ready; a flush of the storage is under way',
  },
  volume_too_deep: {
    status: 409,
    exit: EXIT.refused,
    title: 'The volume has too many layers',
    hint: 'remove snapshots that are not needed, or give it one file again: `outrigger volume export {volume} FILE`, then `outrigger volume import` under another name',
  },
  snapshot_not_found: {
    status: 404,
    exit: EXIT.refused,
    title: 'The volume has no such snapshot',
    hint: 'snapshots of {volume}: {known}',
  },
  snapshot_exists: {
    status: 409,
    exit: EXIT.refused,
    title: 'The volume has a snapshot of this name',
    hint: 'choose another name, or remove it first: `outrigger volume snapshot rm {volume} {snapshot}`',
  },
  volume_pinned: {
    status: 409,
    exit: EXIT.refused,
    title: 'The volume is pinned to another worker',
    hint: 'pin it there (`outrigger volume set {volume} --worker N`), or to none (`--worker auto`)',
  },
  worker_not_found: {
    status: 404,
    exit: EXIT.refused,
    title: 'No such worker',
    hint: 'workers: {known}; `worker.count` in the configuration of the I/O hypervisor says how many there are',
  },
  cache_off: {
    status: 409,
    exit: EXIT.refused,
    title: 'There is no block cache',
    hint: 'give it memory with `cache.size` in the configuration of the I/O hypervisor, and restart the supervisor',
  },
  cache_size: {
    status: 422,
    exit: EXIT.refused,
    title: 'The block cache cannot be of this size',
    hint: 'choose {least} to {most}',
  },
  volume_uncached: {
    status: 409,
    exit: EXIT.refused,
    title: 'The volume is not on the block cache',
    hint: 'volumes with a file are, while they are open; ram and null volumes need none',
  },
  volume_without_file: {
    status: 409,
    exit: EXIT.refused,
    title: 'Only volumes with a file can be exported',
    hint: 'ram and null volumes live in the engine: copy {volume} from within a VM',
  },
  stream_foreign: {
    status: 422,
    exit: EXIT.refused,
    title: 'This is no export of a volume that this version reads',
    hint: 'make it with `outrigger volume export`; a raw image becomes a volume with `outrigger volume create NAME --adopt PATH`',
  },
  stream_damaged: {
    status: 422,
    exit: EXIT.refused,
    title: 'The export of a volume is damaged',
    hint: 'nothing was kept of it; copy or export it again (`outrigger volume export` ends with exit code 0 only when all of it was right)',
  },
  transfer_broken: {
    status: 400,
    exit: EXIT.refused,
    title: 'The transfer broke off',
    hint: 'nothing was kept of it; start again, and if it breaks again look at the log of the supervisor',
  },
  storage_failed: {
    status: 507,
    exit: EXIT.refused,
    title: 'The storage refused',
    hint: 'check space, permissions and health of {path}',
  },

  // VMs and attachments.
  host_not_found: {
    status: 404,
    exit: EXIT.refused,
    title: 'No such host',
    hint: 'known hosts: {known}; hosts are listed in the configuration of the I/O hypervisor (`hosts:`, then SIGHUP)',
  },
  vm_not_found: { status: 404, exit: EXIT.refused, title: 'No such VM', hint: 'known VMs: {known}' },
  disk_not_found: {
    status: 404,
    exit: EXIT.refused,
    title: 'The VM has no such disk',
    hint: 'disks of {vm}: {known}',
  },
  disk_exists: {
    status: 409,
    exit: EXIT.refused,
    title: 'The VM has a disk of this name that differs',
    hint: 'detach it first (`outrigger detach {vm} --disk {disk}`) or give the new one another name (`--disk VOLUME,name=NAME`)',
  },
  vm_on_other_host: {
    status: 409,
    exit: EXIT.refused,
    title: 'The VM runs on another host',
    hint: 'attach to --host {host}, or detach the VM there first: `outrigger detach {vm}`',
  },
  device_running: {
    status: 409,
    exit: EXIT.refused,
    title: 'A guest is using the disk or NIC',
    hint: 'shut the guest down or unplug it first; --force takes it away: the guest sees I/O errors of a disk, and the link of a NIC go down',
  },
  nic_not_attached: { status: 404, exit: EXIT.refused, title: 'The VM has no such NIC', hint: 'NICs of {vm}: {known}' },

  // Protection domains.
  domain_not_found: {
    status: 404,
    exit: EXIT.refused,
    title: 'No such protection domain',
    hint: 'known domains: {known}',
  },
  domain_exists: {
    status: 409,
    exit: EXIT.refused,
    title: 'A protection domain of this name exists and differs',
    hint: 'choose another name, or look at it with `outrigger protect domain show {domain}`',
  },
  domain_bytes: {
    status: 422,
    exit: EXIT.refused,
    title: 'The domain cannot hold so much',
    hint: 'choose {least} to {most}; `protect.total` in the configuration of the I/O hypervisor is the bound of all domains together',
  },
  domain_journal: {
    status: 422,
    exit: EXIT.refused,
    title: 'The journal is too small',
    hint: 'choose {least} or more, or leave the size of the journal out',
  },
  domain_not_created: {
    status: 409,
    exit: EXIT.refused,
    title: 'The domain cannot be opened, and was not made',
    hint: 'its VMs go on without; mend that (the journal is made in `protect.journal_dir`, of twice what the domain may hold), and create it again',
  },
  domain_member: {
    status: 409,
    exit: EXIT.refused,
    title: 'The VM is in a protection domain already',
    hint: 'take it out first: `outrigger protect domain remove {domain} {vm}`',
  },
  domain_member_not_found: {
    status: 404,
    exit: EXIT.refused,
    title: 'The VM is not in this protection domain',
    hint: 'VMs of {domain}: {known}',
  },
  domain_nic_elsewhere: {
    status: 409,
    exit: EXIT.refused,
    title: 'The NIC is with another worker than the domain',
    hint: 'NICs do not move while they are open: detach {nic}, add the VM to the domain, and attach it again; all NICs of a hub are with one worker',
  },
  domain_shared: {
    status: 409,
    exit: EXIT.refused,
    title: 'Other copies of the VM would write without the domain',
    hint: 'detach them first: {commands}',
  },
  domain_deleting: {
    status: 409,
    exit: EXIT.refused,
    title: 'The protection domain is being removed',
    hint: 'wait until `outrigger protect domain ls` no longer shows it',
  },
  domain_standby: {
    status: 409,
    exit: EXIT.refused,
    title: 'It is not clear which copy takes over',
    hint: 'standbys: {known}; name one of each VM with --vm, make one with `outrigger protect domain add {domain} VM --standby`, or only stop what runs, also a copy that has taken over, with --fence-only',
  },
  domain_fence_only: {
    status: 422,
    exit: EXIT.refused,
    title: 'Nobody takes over when everything is fenced only',
    hint: 'name the VMs that take over, or fence only: leave one of them out',
  },
  domain_pending: {
    status: 503,
    exit: EXIT.refused,
    title: 'The takeover or reset is decided, but not done yet',
    hint: 'no copy may resume yet: repeat the command until it succeeds, which decides nothing anew; `outrigger protect domain show {domain}` and `outrigger status` say what is in the way',
  },
  domain_unprotected: {
    status: 409,
    exit: EXIT.refused,
    title: 'More is out than the last checkpoint knows of',
    hint: 'a copy that resumes there has lost what others saw; --force takes over all the same',
  },
  domain_stale: {
    status: 409,
    exit: EXIT.refused,
    title: 'The generation is not the present one',
    hint: 'another copy has taken over, and this one must stop; the present generation is {generation}',
  },
  domain_epoch: {
    status: 409,
    exit: EXIT.refused,
    title: 'The epoch cannot be committed',
    hint: 'only one that was cut can: `outrigger protect domain cut {domain}` says which',
  },
  domain_busy: {
    status: 503,
    exit: EXIT.refused,
    title: 'Too many epochs are under way',
    hint: 'commit those that were cut, and try again; `outrigger protect domain show {domain}` shows them',
  },
  domain_running: {
    status: 409,
    exit: EXIT.refused,
    title: 'The present generation runs',
    hint: 'what it did can only be dropped when it is fenced: `outrigger protect domain takeover {domain}`, which aborts too',
  },
  domain_rewind: {
    status: 409,
    exit: EXIT.refused,
    title: 'The VM must be taken back to the last committed epoch first',
    hint: 'then `outrigger protect domain reset {domain}`; --force removes the domain as it is',
  },
  domain_not_rewind: {
    status: 409,
    exit: EXIT.refused,
    title: 'There is nothing to reset',
    hint: 'a reset is for a domain in the state rewind; `outrigger protect domain show {domain}` shows it',
  },
  domain_not_open: {
    status: 503,
    exit: EXIT.refused,
    title: 'The engine does not have the domain open',
    hint: '`outrigger protect domain show {domain}` says why',
  },
  domain_refused: {
    status: 409,
    exit: EXIT.refused,
    title: 'The domain cannot do this in its state',
    hint: '`outrigger protect domain show {domain}` shows it: in the state rewind see `protect domain reset`; a journal that failed needs another engine (`outrigger engine upgrade`)',
  },
  domain_unusable: {
    status: 409,
    exit: EXIT.refused,
    title: 'The domain cannot be opened',
    hint: 'mend that (see the journal that `outrigger protect domain show {domain}` names); --force removes the domain, and loses what it holds',
  },
  volume_protected: {
    status: 409,
    exit: EXIT.refused,
    title: 'The volume is in a protection domain',
    hint: 'detach it from the VMs of {domain}, and wait until `outrigger protect domain show {domain}` no longer has it; it is with the worker of the domain',
  },

  // NICs.
  nic_not_found: { status: 404, exit: EXIT.refused, title: 'No such NIC', hint: 'known NICs: {known}' },
  nic_exists: {
    status: 409,
    exit: EXIT.refused,
    title: 'A NIC of this name exists and differs',
    hint: 'choose another name, or look at it with `outrigger nic show {nic}`; rate, link and addresses can be changed with `outrigger nic set {nic}`',
  },
  nic_in_use: { status: 409, exit: EXIT.refused, title: 'The NIC is attached', hint: 'detach it first: {command}' },
  nic_busy: {
    status: 409,
    exit: EXIT.refused,
    title: 'The NIC is attached already',
    hint: 'a NIC belongs to one VM: detach it there first (`outrigger detach {vm} --nic {nic}`), or create another one',
  },
  nic_deleting: {
    status: 409,
    exit: EXIT.refused,
    title: 'The NIC is being removed',
    hint: 'wait until `outrigger nic ls` no longer shows it',
  },
  nic_mac_taken: {
    status: 409,
    exit: EXIT.refused,
    title: 'The MAC address is that of another NIC',
    hint: 'leave --mac out to get one that is free, or remove the NIC {nic}',
  },
  nic_interface_taken: {
    status: 409,
    exit: EXIT.refused,
    title: 'The interface is that of another NIC',
    hint: 'choose another --tap, or remove the NIC {nic}',
  },
  nic_mtu_too_large: {
    status: 422,
    exit: EXIT.refused,
    title: 'The interface below the NIC cannot carry its MTU',
    hint: 'raise it (`ip link set {interface} mtu {mtu}`, and on the switch behind it), or give the NIC a lesser --mtu',
  },
  bridge_not_found: {
    status: 422,
    exit: EXIT.refused,
    title: 'No such bridge',
    hint: 'make it on the I/O hypervisor (`ip link add {bridge} type bridge && ip link set {bridge} up`), or look for the right name with `ip link show type bridge`',
  },
  parent_not_found: {
    status: 422,
    exit: EXIT.refused,
    title: 'No such network interface',
    hint: '`ip link` on the I/O hypervisor shows which there are; {interface} is none of them',
  },
  interface_unsuitable: {
    status: 422,
    exit: EXIT.refused,
    title: 'The interface cannot be used so',
    hint: '`ip -details link show {interface}` on the I/O hypervisor shows what it is; choose another one',
  },
  net_not_permitted: {
    status: 503,
    exit: EXIT.refused,
    title: 'The supervisor may not set up network interfaces',
    hint: 'run it as root or with CAP_NET_ADMIN (in its unit: AmbientCapabilities=CAP_NET_ADMIN), or use NICs with --hub',
  },
  net_tools_missing: {
    status: 503,
    exit: EXIT.refused,
    title: 'iproute2 is missing',
    hint: 'install it on the I/O hypervisor (`apt-get install iproute2`), with `ip` in the PATH of the supervisor',
  },
  net_setup_failed: {
    status: 502,
    exit: EXIT.refused,
    title: 'The network interface could not be set up',
    hint: 'run the command that is named by hand on the I/O hypervisor, and see the kernel log (`dmesg`)',
  },

  // Us.
  engine_unavailable: {
    status: 503,
    exit: EXIT.refused,
    title: 'The engine is not running',
    hint: 'the supervisor restarts it; `outrigger status` shows why it ended',
  },
  engine_busy: {
    status: 409,
    exit: EXIT.refused,
    title: 'The engine is being replaced',
    hint: 'wait until that is over; `outrigger engine ls` shows which one runs',
  },
  engine_upgrade_failed: {
    status: 502,
    exit: EXIT.refused,
    title: 'The engine could not be replaced as planned',
    hint: 'the running one was left alone, or another one is started: see `outrigger engine show` and the log that it names',
  },
  engine_refused: {
    status: 502,
    exit: EXIT.refused,
    title: 'The engine refused a command',
    hint: 'the log of the supervisor and that of the engine (`outrigger status --json` names the file) say more',
  },
  internal: {
    status: 500,
    exit: EXIT.refused,
    title: 'A defect in outrigger',
    hint: 'please report it with the log of the supervisor',
  },
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof ERRORS;

/** The `type` of a problem: a reference to the address of the same API that explains it. */
export function problemType(code: ErrorCode): string {
  return `/v1/errors/${code}`;
}

/** An error with an entry in the registry. */
export class OutriggerError extends Error {
  readonly code: ErrorCode;
  readonly hint: string;

  constructor(code: ErrorCode, detail: string, hint: string) {
    super(detail);
    this.name = 'OutriggerError';
    this.code = code;
    this.hint = hint;
  }

  get entry(): ErrorEntry {
    return ERRORS[this.code];
  }
}

/** The error `code`; `detail` is one sentence about this case, `values` fill the hint. */
export function refuse(code: ErrorCode, detail: string, values: Record<string, string> = {}): OutriggerError {
  const hint = ERRORS[code].hint.replace(/\{(\w+)\}/g, (_, key: string) => values[key] ?? key.toUpperCase());
  return new OutriggerError(code, detail, hint.replace(/ {2,}/g, ' '));
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The errno name (`ENOENT`) of a system error, or ''. */
export function errnoOf(error: unknown): string {
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
  return typeof code === 'string' ? code : '';
}

/** `a, b, c` for a hint; says so when there is none. */
export function listNames(names: Iterable<string>): string {
  const all = [...names];
  return all.length === 0 ? 'none yet' : all.join(', ');
}
