// Commands for the NICs of an I/O hypervisor's engine.
#include <arpa/inet.h>

#include <cstdio>
#include <cstdlib>

#include "arguments.h"
#include "convert.h"

namespace
{

or_nic_kind Kind(const Napi::Object &o)
{
    std::string kind = Text(o, "kind", 16);
    if (kind == "tap")
        return OR_NIC_TAP;
    if (kind == "macvtap")
        return OR_NIC_MACVTAP;
    if (kind == "hub")
        return OR_NIC_HUB;
    Reject(o, "kind", "tap, macvtap or hub");
}

// 52:54:00:12:34:56
bool ParseMac(const std::string &text, uint8_t (&mac)[6])
{
    int end = 0;
    return std::sscanf(text.c_str(), "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0], &mac[1], &mac[2], &mac[3],
                       &mac[4], &mac[5], &end) == 6 &&
           static_cast<size_t>(end) == text.size();
}

// 192.0.2.1, 192.0.2.0/24 or the same of IPv6.
bool ParseAddress(const std::string &text, or_address &address)
{
    size_t slash = text.find('/');
    std::string ip = text.substr(0, slash);
    bool v6 = ip.find(':') != std::string::npos;
    unsigned long most = v6 ? 128 : 32, prefix = most;
    if (slash != std::string::npos) {
        char *end;
        prefix = std::strtoul(text.c_str() + slash + 1, &end, 10);
        if (*end || end == text.c_str() + slash + 1 || prefix > most)
            return false;
    }
    address.family = v6 ? 6 : 4;
    address.prefix = static_cast<uint8_t>(prefix);
    return inet_pton(v6 ? AF_INET6 : AF_INET, ip.c_str(), address.bytes) == 1;
}

Napi::Array List(const Napi::Object &o, const char *key, size_t max)
{
    Napi::Value v = o.Get(key);
    if (!v.IsArray() || v.As<Napi::Array>().Length() > max)
        Reject(o, key, ("a list of at most " + std::to_string(max)).c_str());
    return v.As<Napi::Array>();
}

std::string Element(const Napi::Object &o, const char *key, const Napi::Array &list, uint32_t i)
{
    Napi::Value v = list.Get(i);
    if (!v.IsString())
        Reject(o, key, "a list of strings");
    return v.As<Napi::String>();
}

void FillAddresses(const Napi::Object &o, or_guard &guard)
{
    Napi::Array list = List(o, "addresses", OR_NIC_ADDRESSES_MAX);
    guard.count = list.Length();
    for (uint32_t i = 0; i < guard.count; i++)
        if (!ParseAddress(Element(o, "addresses", list, i), guard.addresses[i]))
            Reject(o, "addresses", "a list of IPv4 or IPv6 addresses, with or without a prefix length");
}

// Feature bits go beyond 2^53: a number, a BigInt or a string of hexadecimal digits.
uint64_t Features(const Napi::Object &o)
{
    Napi::Value v = o.Get("features");
    if (v.IsBigInt()) {
        bool lossless;
        return v.As<Napi::BigInt>().Uint64Value(&lossless);
    }
    if (!v.IsString())
        return U64(o, "features");
    std::string text = v.As<Napi::String>();
    char *end;
    uint64_t bits = std::strtoull(text.c_str(), &end, 16);
    if (text.empty() || *end)
        Reject(o, "features", "a number, a BigInt or hexadecimal digits");
    return bits;
}

// null: none is known.
or_rx_filter *Filter(const Napi::Object &o)
{
    if (o.Get("filter").IsNull())
        return nullptr;
    if (!o.Get("filter").IsObject())
        Reject(o, "filter", "an object or null");
    Napi::Object from = o.Get("filter").As<Napi::Object>();
    Napi::Array macs = List(from, "macs", OR_FILTER_MACS_MAX);
    or_rx_filter filter = {};
    filter.promiscuous = Flag(from, "promiscuous");
    filter.all_multicast = Flag(from, "allMulticast");
    filter.count = macs.Length();
    for (uint32_t i = 0; i < filter.count; i++)
        if (!ParseMac(Element(from, "macs", macs, i), filter.macs[i]))
            Reject(from, "macs", "a list of MAC addresses");
    auto *made = static_cast<or_rx_filter *>(std::malloc(sizeof filter));
    if (!made)
        throw Napi::Error::New(o.Env(), "out of memory");
    *made = filter;
    return made;
}

void FillOpen(or_command *c, const Napi::Object &o)
{
    c->generation = U32(o, "generation");
    CopyText(o, "host", c->host);
    CopyText(o, "name", c->name);
    c->nic.kind = Kind(o);
    if (c->nic.kind == OR_NIC_HUB)
        std::strcpy(c->path, Text(o, "hub", OR_NAME_MAX).c_str());
    else
        Text(o, "interface", 15);
    c->nic.mtu = static_cast<uint32_t>(Number(o, "mtu", 68, 65535));
    if (!ParseMac(Text(o, "mac", 17), c->nic.guard.mac))
        Reject(o, "mac", "a MAC address");
    c->nic.guard.spoof_check = Flag(o, "spoofCheck");
    FillAddresses(o, c->nic.guard);
    c->nic.limit = Limit(o, "limit");
    c->nic.link_up = !Has(o, "linkUp") || Flag(o, "linkUp");
}

void FillChange(or_nic_change &to, const Napi::Object &o)
{
    if ((to.has_limit = Has(o, "limit")))
        to.limit = Limit(o, "limit");
    if ((to.has_features = Has(o, "features")))
        to.features = Features(o);
    if ((to.has_link = Has(o, "linkUp")))
        to.link_up = Flag(o, "linkUp");
    if ((to.has_guard = Has(o, "spoofCheck"))) {
        to.guard.spoof_check = Flag(o, "spoofCheck");
        FillAddresses(o, to.guard);
    }
    if ((to.has_filter = Has(o, "filter")))
        to.filter = Filter(o);
}

Napi::Object Counts(Napi::Env env, const or_nic_counts &c)
{
    Napi::Object o = Napi::Object::New(env), dropped = Napi::Object::New(env);
    Put(o, "packets", c.packets);
    Put(o, "bytes", c.bytes);
    Put(o, "errors", c.errors);
    for (int i = 0; i < OR_NIC_DROP_MAX; i++)
        Put(dropped, or_nic_drop_name(static_cast<or_nic_drop>(i)), c.dropped[i]);
    o.Set("dropped", dropped);
    return o;
}

} // namespace

void FillNicCommand(or_command *c, const Napi::Object &o)
{
    c->id = U32(o, "id");
    if (c->type == OR_CMD_NIC_OPEN)
        FillOpen(c, o);
    if (c->type == OR_CMD_NIC_SET)
        FillChange(c->nic_change, o);
    if (c->type != OR_CMD_NIC_CLOSE)
        FillNicDomain(c, o);
}

Napi::Value Nics(Napi::Env env, const or_command &c)
{
    static const char *const kinds[] = {"tap", "macvtap", "hub"};
    Napi::Array list = Napi::Array::New(env, c.count);
    for (uint32_t i = 0; i < c.count; i++) {
        const or_nic_info &n = c.nics[i];
        Napi::Object o = Napi::Object::New(env), stats = Napi::Object::New(env);
        Put(o, "id", n.id);
        Put(o, "generation", n.generation);
        o.Set("name", n.name);
        o.Set("host", n.host);
        o.Set("kind", kinds[n.kind]);
        o.Set("linkUp", n.link_up);
        o.Set("gone", n.gone);
        stats.Set("tx", Counts(env, n.stats.tx));
        stats.Set("rx", Counts(env, n.stats.rx));
        Put(stats, "rxThrottled", n.stats.rx_throttled);
        Put(stats, "rxWaits", n.stats.rx_waits);
        Put(stats, "segmented", n.stats.segmented);
        o.Set("stats", stats);
        list.Set(i, o);
    }
    return list;
}
