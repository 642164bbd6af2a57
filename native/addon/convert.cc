#include "convert.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "arguments.h"

namespace
{

uint32_t TimeoutMs(const Napi::Object &o)
{
    return static_cast<uint32_t>(Number(o, "ioTimeoutMs", 0, 86400000));
}

template <size_t N> void CopyBytes(const Napi::Object &o, const char *key, uint8_t (&to)[N])
{
    Napi::Value v = o.Get(key);
    if (!v.IsBuffer() || v.As<Napi::Buffer<uint8_t>>().Length() != N)
        Reject(o, key, ("a buffer of " + std::to_string(N) + " bytes").c_str());
    std::memcpy(to, v.As<Napi::Buffer<uint8_t>>().Data(), N);
}

void TakeBytes(const Napi::Object &o, const char *key, or_command *c)
{
    std::string s = Text(o, key, OR_REQ_BYTES_MAX);
    c->bytes = static_cast<uint8_t *>(std::malloc(s.size() ? s.size() : 1));
    if (!c->bytes)
        throw Napi::Error::New(o.Env(), "out of memory");
    std::memcpy(c->bytes, s.data(), s.size());
    c->length = static_cast<uint32_t>(s.size());
}

// A list of one element for each link.
Napi::Array Links(const Napi::Object &o, const char *key)
{
    Napi::Value v = o.Get(key);
    if (!v.IsArray() || v.As<Napi::Array>().Length() < 1 || v.As<Napi::Array>().Length() > OR_LINKS_MAX)
        Reject(o, key, "a list of one or two");
    return v.As<Napi::Array>();
}

void CopyInterfaces(const Napi::Object &o, or_engine_config &c)
{
    Napi::Array list = Links(o, "interfaces");
    for (uint32_t i = 0; i < list.Length(); i++) {
        Napi::Value v = list.Get(i);
        std::string name = v.IsString() ? v.As<Napi::String>().Utf8Value() : "";
        if (name.empty() || name.size() >= sizeof c.interfaces[i])
            Reject(o, "interfaces", "names of 1 to 15 bytes");
        std::memcpy(c.interfaces[i], name.c_str(), name.size() + 1);
    }
}

void CopyMacs(const Napi::Object &o, or_engine_config &c)
{
    Napi::Array list = Links(o, "serverMacs");
    for (uint32_t i = 0; i < list.Length(); i++) {
        Napi::Value v = list.Get(i);
        if (!v.IsBuffer() || v.As<Napi::Buffer<uint8_t>>().Length() != sizeof c.server_macs[i])
            Reject(o, "serverMacs", "buffers of 6 bytes");
        std::memcpy(c.server_macs[i], v.As<Napi::Buffer<uint8_t>>().Data(), sizeof c.server_macs[i]);
    }
}

uint8_t Worker(const Napi::Object &o)
{
    return Has(o, "worker") ? static_cast<uint8_t>(Number(o, "worker", 0, OR_CHANNELS_MAX - 1)) : 0;
}

or_placement Placement(const Napi::Object &o)
{
    return {Worker(o), Has(o, "placement") ? U32(o, "placement") : 0};
}

or_port_mode PortMode(const Napi::Object &o)
{
    std::string mode = Has(o, "portMode") ? Text(o, "portMode", 16) : "packet";
    if (mode == "packet")
        return OR_PORT_PACKET;
    if (mode == "xdp")
        return OR_PORT_XDP;
    Reject(o, "portMode", "packet or xdp");
}

or_volume_kind Kind(const Napi::Object &o)
{
    std::string kind = Text(o, "kind", 16);
    if (kind == "file")
        return OR_VOLUME_FILE;
    if (kind == "ram")
        return OR_VOLUME_RAM;
    if (kind == "null")
        return OR_VOLUME_NULL;
    Reject(o, "kind", "file, ram or null");
}

// A disk, where it is not said.
or_device_kind DeviceKind(const Napi::Object &o)
{
    if (!Has(o, "kind"))
        return OR_DEVICE_BLK;
    std::string kind = Text(o, "kind", 16);
    if (kind == "disk")
        return OR_DEVICE_BLK;
    if (kind == "net")
        return OR_DEVICE_NET;
    Reject(o, "kind", "disk or net");
}

void FillDisk(or_command *c, const Napi::Object &o)
{
    c->size = U64(o, "size");
    c->block_size = U32(o, "blockSize");
    c->physical_block_size = U32(o, "physicalBlockSize");
    c->queues = static_cast<uint32_t>(Number(o, "queues", 1, 16));
    c->read_only = Flag(o, "readOnly");
    c->discard = Flag(o, "discard");
    c->write_zeroes = Flag(o, "writeZeroes");
    CopyText(o, "serial", c->serial);
    c->timeout_ms = TimeoutMs(o);
}

void FillNet(or_command *c, const Napi::Object &o)
{
    c->queues = static_cast<uint32_t>(Number(o, "queues", 1, OR_VHOST_NET_PAIRS_MAX));
    c->mtu = static_cast<uint32_t>(Number(o, "mtu", 68, 65535));
    c->link_up = Flag(o, "linkUp");
}

// Only what is there changes.
void FillDeviceSet(or_command *c, const Napi::Object &o)
{
    c->has_timeout = Has(o, "ioTimeoutMs");
    c->has_limit = Has(o, "limit");
    c->has_link = Has(o, "linkUp");
    c->has_placement = Has(o, "worker");
    c->placement = Placement(o);
    if (c->has_timeout)
        c->timeout_ms = TimeoutMs(o);
    if (c->has_limit)
        c->limit = Limit(o, "limit");
    if (c->has_link)
        c->link_up = Flag(o, "linkUp");
}

Napi::String String(Napi::Env env, const uint8_t *bytes, uint32_t length)
{
    return Napi::String::New(env, reinterpret_cast<const char *>(bytes), length);
}

Napi::Object Refusals(Napi::Env env, const uint64_t (&refused)[OR_REFUSE_MAX])
{
    Napi::Object o = Napi::Object::New(env);
    for (int i = OR_REFUSE_NONE + 1; i < OR_REFUSE_MAX; i++)
        Put(o, or_refuse_name(static_cast<or_refuse>(i)), refused[i]);
    return o;
}

Napi::Array LinkList(Napi::Env env, const or_link_info *links, uint32_t count)
{
    Napi::Array list = Napi::Array::New(env, count);
    for (uint32_t i = 0; i < count; i++) {
        Napi::Object o = Napi::Object::New(env);
        o.Set("up", links[i].up);
        Put(o, "srttUs", links[i].srtt_ns / 1000);
        Put(o, "cwndFrames", links[i].cwnd_frames);
        Put(o, "inFlightFrames", links[i].in_flight_frames);
        Put(o, "framesLost", links[i].frames_lost);
        Put(o, "form", links[i].form);
        list.Set(i, o);
    }
    return list;
}

Napi::Object PacketStats(Napi::Env env, const or_packet_stats &s)
{
    Napi::Object o = Napi::Object::New(env);
    Put(o, "sent", s.sent);
    Put(o, "bytesSent", s.bytes_sent);
    Put(o, "received", s.received);
    Put(o, "bytesReceived", s.bytes_received);
    Put(o, "incomplete", s.incomplete);
    Put(o, "refused", s.refused);
    Put(o, "lost", s.lost);
    return o;
}

// The sessions with the I/O hypervisor's workers, by their numbers.
Napi::Object Workers(Napi::Env env, const struct or_dispatch_stats &s)
{
    Napi::Object all = Napi::Object::New(env);
    for (uint32_t i = 0; i < OR_CHANNELS_MAX; i++) {
        if (!s.workers[i].made)
            continue;
        Napi::Object o = Napi::Object::New(env);
        Put(o, "up", s.workers[i].up);
        Put(o, "inFlight", s.workers[i].in_flight);
        Put(o, "srttUs", s.workers[i].srtt_ns / 1000);
        all.Set(i, o);
    }
    return all;
}

Napi::Value Stats(Napi::Env env, const or_engine_stats &s)
{
    const struct or_client_stats &c = s.dispatch.clients;
    Napi::Object port = Napi::Object::New(env), server = Napi::Object::New(env), uring = Napi::Object::New(env),
                 client = Napi::Object::New(env), loop = Napi::Object::New(env), all = Napi::Object::New(env);
    Put(port, "rxFrames", s.port.rx_frames);
    Put(port, "rxBytes", s.port.rx_bytes);
    Put(port, "txFrames", s.port.tx_frames);
    Put(port, "txBytes", s.port.tx_bytes);
    Put(port, "rxDropped", s.port.rx_dropped);
    Put(port, "rxFiltered", s.port.rx_filtered);
    Put(port, "sessionFilter", s.session_filter);
    Put(port, "xdpForm", s.xdp.form);
    Put(port, "xdpQueues", s.xdp.queues);
    Put(port, "xdpZeroCopyQueues", s.xdp.zero_copy_queues);
    Put(port, "txDropped", s.port.tx_dropped);
    Put(port, "txEnvelopes", s.port.tx_envelopes);
    Put(port, "rxEnvelopes", s.port.rx_envelopes);
    Put(port, "rxMalformed", s.port.rx_malformed);
    Put(port, "syscalls", s.port.syscalls);
    Put(server, "requests", s.server.requests);
    Put(server, "bytesRead", s.server.bytes_read);
    Put(server, "bytesWritten", s.server.bytes_written);
    Put(server, "sessions", s.server.sessions);
    Put(server, "handshakes", s.server.handshakes);
    Put(server, "duplicates", s.server.duplicates);
    Put(server, "queued", s.server.queued);
    Put(server, "stalled", s.server.stalled);
    Put(server, "retransmits", s.server.retransmits);
    Put(server, "framesLost", s.server.frames_lost);
    Napi::Object packets = PacketStats(env, s.server.packets);
    Put(packets, "unknown", s.server.packets_unknown);
    Put(packets, "fenced", s.server.packets_fenced);
    server.Set("packets", packets);
    server.Set("refused", Refusals(env, s.server.refused));
    Put(uring, "steps", s.uring.steps);
    Put(uring, "syscalls", s.uring.syscalls);
    Put(uring, "pinnedBytes", s.uring.pinned_bytes);
    Put(uring, "pinError", static_cast<uint64_t>(-s.uring.pin_error));
    Put(client, "requests", c.requests);
    Put(client, "replies", c.replies);
    Put(client, "bytesRead", c.bytes_read);
    Put(client, "bytesWritten", c.bytes_written);
    Put(client, "sessions", c.sessions);
    Put(client, "retransmits", c.retransmits);
    Put(client, "framesLost", c.frames_lost);
    Put(client, "timeouts", c.timeouts);
    Put(client, "overlapWaits", c.overlap_waits);
    Put(client, "creditWaits", c.credit_waits);
    Put(client, "srttUs", c.srtt_ns / 1000);
    Put(client, "cwndFrames", c.cwnd_frames);
    Put(client, "inFlightFrames", c.in_flight_frames);
    Put(client, "moved", s.dispatch.moved);
    Put(client, "held", s.dispatch.held);
    client.Set("workers", Workers(env, s.dispatch));
    Napi::Object client_packets = PacketStats(env, c.packets);
    Put(client_packets, "unknown", s.packets_unknown);
    Put(client_packets, "fenced", s.packets_fenced);
    client.Set("packets", client_packets);
    client.Set("links", LinkList(env, c.links, c.link_count));
    client.Set("refused", Refusals(env, c.refused));
    Put(loop, "steps", s.steps);
    Put(loop, "sleeps", s.sleeps);
    Put(loop, "sleptMs", s.slept_ns / 1000000);
    Put(loop, "eventsDropped", s.events_dropped);
    all.Set("port", port);
    all.Set("server", server);
    all.Set("uring", uring);
    all.Set("client", client);
    all.Set("loop", loop);
    return all;
}

const char *StateName(uint8_t state)
{
    static const char *const names[] = {"listening", "connected", "running", "broken"};
    return state < 4 ? names[state] : "broken";
}

Napi::Value Hosts(Napi::Env env, const or_command &c)
{
    Napi::Array list = Napi::Array::New(env, c.count);
    for (uint32_t i = 0; i < c.count; i++) {
        const or_host_info &h = c.hosts[i];
        Napi::Object o = Napi::Object::New(env);
        char mac[18];
        std::snprintf(mac, sizeof mac, "%02x:%02x:%02x:%02x:%02x:%02x", h.mac[0], h.mac[1], h.mac[2], h.mac[3],
                      h.mac[4], h.mac[5]);
        o.Set("name", h.name);
        o.Set("up", h.up);
        o.Set("mac", h.up ? Napi::Value(Napi::String::New(env, mac)) : env.Null());
        Put(o, "srttUs", h.srtt_ns / 1000);
        Put(o, "requests", h.requests);
        Put(o, "inFlight", h.in_flight);
        Put(o, "mtu", h.mtu);
        o.Set("links", LinkList(env, h.links, h.link_count));
        list.Set(i, o);
    }
    return list;
}

Napi::Object DiskStats(Napi::Env env, const struct or_vhost_blk_stats &disk)
{
    Napi::Object s = Napi::Object::New(env);
    Put(s, "reads", disk.reads);
    Put(s, "writes", disk.writes);
    Put(s, "flushes", disk.flushes);
    Put(s, "discards", disk.discards);
    Put(s, "writeZeroes", disk.write_zeroes);
    Put(s, "bytesRead", disk.bytes_read);
    Put(s, "bytesWritten", disk.bytes_written);
    Put(s, "errors", disk.errors);
    Put(s, "throttled", disk.throttled);
    Put(s, "kicks", disk.kicks);
    Put(s, "calls", disk.calls);
    Put(s, "callsSuppressed", disk.calls_suppressed);
    Put(s, "acceptFailures", disk.accept_failures);
    return s;
}

Napi::Object NetStats(Napi::Env env, const struct or_vhost_net_stats &net)
{
    Napi::Object s = Napi::Object::New(env);
    Put(s, "txPackets", net.tx_packets);
    Put(s, "txBytes", net.tx_bytes);
    Put(s, "rxPackets", net.rx_packets);
    Put(s, "rxBytes", net.rx_bytes);
    Put(s, "txDroppedDown", net.tx_dropped_down);
    Put(s, "txBadHeader", net.tx_bad_header);
    Put(s, "txTooLong", net.tx_too_long);
    Put(s, "txThrottled", net.tx_throttled);
    Put(s, "txWaits", net.tx_waits);
    Put(s, "rxNoBuffers", net.rx_no_buffers);
    Put(s, "rxNotRunning", net.rx_not_running);
    Put(s, "rxTooLong", net.rx_too_long);
    Put(s, "rxUnsuited", net.rx_unsuited);
    Put(s, "kicks", net.kicks);
    Put(s, "calls", net.calls);
    Put(s, "callsSuppressed", net.calls_suppressed);
    Put(s, "acceptFailures", net.accept_failures);
    return s;
}

Napi::Value Devices(Napi::Env env, const or_command &c)
{
    Napi::Array list = Napi::Array::New(env, c.count);
    for (uint32_t i = 0; i < c.count; i++) {
        const or_device_info &d = c.devices[i];
        Napi::Object o = Napi::Object::New(env);
        Put(o, "id", d.id);
        o.Set("state", StateName(d.state));
        if (d.kind == OR_DEVICE_NET) {
            o.Set("linkUp", d.link_up);
            o.Set("features", Napi::BigInt::New(env, d.features));
            o.Set("stats", NetStats(env, d.net));
        } else {
            o.Set("stats", DiskStats(env, d.blk));
        }
        list.Set(i, o);
    }
    return list;
}

Napi::Value Loads(Napi::Env env, const or_command &c)
{
    Napi::Array list = Napi::Array::New(env, c.count);
    for (uint32_t i = 0; i < c.count; i++) {
        Napi::Object o = Napi::Object::New(env);
        Put(o, "id", c.loads[i].id);
        Put(o, "requests", c.loads[i].requests);
        Put(o, "bytes", c.loads[i].bytes);
        Put(o, "inFlight", c.loads[i].in_flight);
        list.Set(i, o);
    }
    Napi::Object o = Napi::Object::New(env);
    o.Set("exports", list);
    return o;
}

Napi::Value LayerList(Napi::Env env, const or_command &c)
{
    Napi::Array list = Napi::Array::New(env, c.count);
    for (uint32_t i = 0; i < c.count; i++) {
        const or_layer_info &layer = c.layer_infos[i];
        Napi::Object o = Napi::Object::New(env);
        char content[17];
        std::snprintf(content, sizeof content, "%016llx", static_cast<unsigned long long>(layer.content));
        o.Set("content", content);
        o.Set("raw", layer.raw);
        Put(o, "clusters", layer.clusters);
        Put(o, "zeroes", layer.zeroes);
        list.Set(i, o);
    }
    return list;
}

Napi::Value Kept(Napi::Env env, const or_command &c)
{
    Napi::Array ids = Napi::Array::New(env, c.count);
    for (uint32_t i = 0; i < c.count; i++)
        ids.Set(i, Napi::Number::New(env, c.ids[i]));
    Napi::Object o = Napi::Object::New(env);
    o.Set("devices", ids);
    return o;
}

or_super_frames SuperFrames(const Napi::Object &o)
{
    std::string wanted = Text(o, "superFrames", 8);
    if (wanted != "auto" && wanted != "on" && wanted != "off")
        Reject(o, "superFrames", "auto, on or off");
    return wanted == "auto" ? OR_SUPER_FRAMES_AUTO : wanted == "on" ? OR_SUPER_FRAMES_ON : OR_SUPER_FRAMES_OFF;
}

} // namespace

or_engine_config ConfigFrom(const Napi::Object &o)
{
    or_engine_config c = {};
    std::string role = Text(o, "role", 8);
    if (role != "iohv" && role != "host")
        Reject(o, "role", "iohv or host");
    c.role = role == "iohv" ? OR_ROLE_IOHV : OR_ROLE_HOST;
    CopyInterfaces(o, c);
    c.worker = Worker(o);
    c.port_mode = PortMode(o);
    c.mtu = U32(o, "mtu");
    c.ethertype = static_cast<uint16_t>(Number(o, "ethertype", 0x600, 0xffff));
    c.super_frames = SuperFrames(o);
    c.cpu = static_cast<int>(Number(o, "cpu", -1, 1023));
    c.nice = static_cast<int>(Number(o, "nice", -20, 19));
    c.spin_us = static_cast<uint32_t>(Number(o, "spinUs", 0, 1000000));
    if (c.role == OR_ROLE_IOHV) {
        c.integrity = static_cast<uint8_t>(Number(o, "integrity", OR_INTEGRITY_CRC, OR_INTEGRITY_ENCRYPT));
        c.slots = static_cast<uint32_t>(Number(o, "slots", OR_SLOT_DATA + 1, OR_SLOTS_MAX));
        c.buffer_bytes = U64(o, "bufferBytes");
        c.fifo = Flag(o, "fifo");
        FillCacheConfig(&c, o);
    } else {
        CopyText(o, "name", c.name);
        CopyBytes(o, "key", c.psk);
        CopyMacs(o, c);
        c.integrity_min = static_cast<uint8_t>(Number(o, "integrityMin", OR_INTEGRITY_CRC, OR_INTEGRITY_ENCRYPT));
    }
    return c;
}

void FillCommand(or_command *c, const Napi::Object &o)
{
    switch (c->type) {
    case OR_CMD_HOST_ADD:
        CopyText(o, "name", c->name);
        CopyBytes(o, "key", c->key);
        break;
    case OR_CMD_HOST_ADMIT:
    case OR_CMD_HOST_REMOVE:
    case OR_CMD_VOLUME_CLOSE:
    case OR_CMD_VOLUME_GIVE:
    case OR_CMD_VOLUME_CUT:
    case OR_CMD_VOLUME_LAYERS:
    case OR_CMD_VOLUME_FLUSH:
    case OR_CMD_VOLUME_REBASE:
        CopyText(o, "name", c->name);
        break;
    case OR_CMD_LAYER_MERGE:
        c->merge.next = U64(o, "next");
        c->size = U64(o, "bytes");
        break;
    case OR_CMD_VOLUME_OPEN:
        CopyText(o, "name", c->name);
        c->passed = Has(o, "passed") && Flag(o, "passed");
        c->kind = c->passed ? OR_VOLUME_NULL : Kind(o);
        if (c->passed)
            break;
        c->read_only = Flag(o, "readOnly");
        c->flush_failed = Flag(o, "flushFailed");
        FillVolumeCache(c, o);
        if (c->kind != OR_VOLUME_FILE) {
            c->size = U64(o, "size");
            c->block_size = U32(o, "blockSize");
        }
        break;
    case OR_CMD_EXPORT_ADD:
        c->id = U32(o, "id");
        c->generation = U32(o, "generation");
        CopyText(o, "volume", c->name);
        CopyText(o, "host", c->host);
        c->read_only = Flag(o, "readOnly");
        c->pending = Flag(o, "pending");
        c->placement = Placement(o);
        c->elsewhere = Has(o, "elsewhere") && Flag(o, "elsewhere");
        c->weight = static_cast<uint32_t>(Number(o, "weight", 1, OR_WEIGHT_MAX));
        FillExportDomain(c, o);
        break;
    case OR_CMD_EXPORT_SET:
        c->id = U32(o, "id");
        c->weight = static_cast<uint32_t>(Number(o, "weight", 1, OR_WEIGHT_MAX));
        break;
    case OR_CMD_EXPORT_REMOVE:
    case OR_CMD_DEVICE_REMOVE:
        c->id = U32(o, "id");
        break;
    case OR_CMD_DOCUMENT_SET:
        CopyText(o, "host", c->name);
        TakeBytes(o, "document", c);
        break;
    case OR_CMD_DEVICE_ADD:
        c->id = U32(o, "id");
        c->generation = U32(o, "generation");
        CopyText(o, "socket", c->path);
        c->device_kind = DeviceKind(o);
        c->placement = Placement(o);
        if (Has(o, "limit"))
            c->limit = Limit(o, "limit");
        if (c->device_kind == OR_DEVICE_NET)
            FillNet(c, o);
        else
            FillDisk(c, o);
        break;
    case OR_CMD_DEVICE_SET:
        c->id = U32(o, "id");
        FillDeviceSet(c, o);
        break;
    case OR_CMD_KEEP_GIVE_UP:
        FillContent(c, o);
        break;
    case OR_CMD_KEEP:
        CopyText(o, "path", c->path);
        break;
    case OR_CMD_DRAIN:
        c->timeout_ms = static_cast<uint32_t>(Number(o, "ms", 0, 3600000));
        break;
    case OR_CMD_REPORT:
        TakeBytes(o, "document", c);
        break;
    case OR_CMD_VOLUME_CACHE:
    case OR_CMD_CACHE_SET:
        FillCacheCommand(c, o);
        break;
    case OR_CMD_NIC_OPEN:
    case OR_CMD_NIC_SET:
    case OR_CMD_NIC_CLOSE:
        FillNicCommand(c, o);
        break;
    case OR_CMD_DOMAIN_OPEN:
    case OR_CMD_DOMAIN_SET:
    case OR_CMD_DOMAIN_CLOSE:
    case OR_CMD_DOMAIN_CUT:
    case OR_CMD_DOMAIN_COMMIT:
    case OR_CMD_DOMAIN_FENCE:
    case OR_CMD_DOMAIN_RESET:
    case OR_CMD_DOMAIN_ABORT:
    case OR_CMD_VOLUME_PROTECT:
        FillDomainCommand(c, o);
        break;
    default:
        break; /* no arguments */
    }
}

Napi::Value ResultOf(Napi::Env env, const or_command &c)
{
    switch (c.type) {
    case OR_CMD_STATS:
        return Stats(env, c.stats);
    case OR_CMD_HOSTS:
        return Hosts(env, c);
    case OR_CMD_DEVICES:
        return Devices(env, c);
    case OR_CMD_NICS:
        return Nics(env, c);
    case OR_CMD_LOADS:
        return Loads(env, c);
    case OR_CMD_CACHE_LIST:
        return CacheList(env, c);
    case OR_CMD_VOLUME_LAYERS:
        return LayerList(env, c);
    case OR_CMD_DOMAIN_OPEN:
    case OR_CMD_DOMAIN_CUT:
    case OR_CMD_DOMAIN_COMMIT:
    case OR_CMD_DOMAIN_FENCE:
    case OR_CMD_DOMAIN_RESET:
    case OR_CMD_DOMAIN_LIST:
        return DomainResult(env, c);
    case OR_CMD_LAYER_MERGE: {
        Napi::Object o = Napi::Object::New(env);
        Put(o, "next", c.merge.next);
        Put(o, "copied", c.merge.copied);
        o.Set("complete", c.merge.complete);
        return o;
    }
    case OR_CMD_KEEP:
        return Kept(env, c);
    case OR_CMD_KEEP_GIVE_UP: {
        Napi::Object o = Napi::Object::New(env);
        Put(o, "bytes", c.size);
        return o;
    }
    case OR_CMD_DRAIN: {
        Napi::Object o = Napi::Object::New(env);
        Put(o, "inFlight", c.in_flight);
        return o;
    }
    case OR_CMD_DEVICE_ADD: {
        Napi::Object o = Napi::Object::New(env);
        o.Set("restored", c.restored);
        if (c.why[0])
            o.Set("reason", c.why);
        return o;
    }
    case OR_CMD_VOLUME_OPEN: {
        Napi::Object o = Napi::Object::New(env);
        Put(o, "size", c.volume.size);
        Put(o, "blockSize", c.volume.block_size);
        Put(o, "physicalBlockSize", c.volume.physical_block_size);
        o.Set("direct", c.volume.direct);
        o.Set("discard", c.volume.discard);
        o.Set("writeZeroes", c.volume.write_zeroes);
        return o;
    }
    default:
        return env.Undefined();
    }
}

Napi::Value ErrorOf(Napi::Env env, int error, const char *why)
{
    Napi::Error e = Napi::Error::New(env, why);
    const char *name = strerrorname_np(-error);
    e.Set("code", Napi::String::New(env, name ? name : "EIO"));
    return e.Value();
}

Napi::Object EventObject(Napi::Env env, const or_event &e)
{
    static const char *const names[] = {"host.up",      "host.down",        "host.report",  "session.up",
                                        "session.down", "document",         "device.state", "link.up",
                                        "link.down",    "port.up",          "port.down",    "volume.error",
                                        "volume.lost",  "cache.unreadable", "domain",       "segment.intrusion"};
    static_assert(sizeof names / sizeof names[0] == OR_EVENT_INTRUSION + 1);
    Napi::Object data = Napi::Object::New(env), o = Napi::Object::New(env);
    if (e.type <= OR_EVENT_HOST_REPORT)
        data.Set("host", e.name);
    if (e.type == OR_EVENT_HOST_DOWN || e.type == OR_EVENT_SESSION_DOWN || e.type == OR_EVENT_DEVICE_STATE ||
        e.type == OR_EVENT_CACHE_UNREAD)
        data.Set("reason", e.reason);
    if (e.type == OR_EVENT_HOST_REPORT || e.type == OR_EVENT_DOCUMENT)
        data.Set("document", String(env, e.bytes, e.length));
    if (e.type == OR_EVENT_DEVICE_STATE) {
        Put(data, "id", e.id);
        data.Set("state", StateName(e.state));
        if (e.device_kind == OR_DEVICE_NET)
            data.Set("features", Napi::BigInt::New(env, e.features));
    }
    if (e.type == OR_EVENT_INTRUSION) {
        Put(data, "count", e.id);
        data.Set("reason", e.reason);
        data.Set("source", e.name);
    }
    if (e.type >= OR_EVENT_LINK_UP && e.type <= OR_EVENT_PORT_DOWN)
        data.Set("interface", e.interface);
    if (e.type == OR_EVENT_LINK_UP || e.type == OR_EVENT_LINK_DOWN) {
        Put(data, "link", e.id);
        if (e.name[0])
            data.Set("host", e.name);
    }
    if (e.type == OR_EVENT_VOLUME_ERROR) {
        data.Set("volume", e.name);
        data.Set("op", or_op_name(e.error.op));
        const char *error = strerrorname_np(-e.error.error);
        data.Set("error", error ? error : "EIO");
        Put(data, "offset", e.error.offset);
        Put(data, "count", e.error.count);
        data.Set("flushFailed", e.error.flush_failed);
    }
    if (e.type == OR_EVENT_VOLUME_LOST) {
        data.Set("volume", e.name);
        Put(data, "bytes", e.bytes_lost);
    }
    o.Set("event", e.type == OR_EVENT_DOMAIN ? DomainEvent(data, e) : names[e.type]);
    o.Set("data", data);
    return o;
}
