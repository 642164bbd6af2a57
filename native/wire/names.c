/* Names of the numbers that counters, logs and the control interface show. A table that misses an entry
 * does not compile; what a peer sends beyond a table is "unknown". */
#include "wire/wire.h"

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static const char *const op_names[] = {
    [0] = "none",
    [OR_OP_READ] = "read",
    [OR_OP_WRITE] = "write",
    [OR_OP_FLUSH] = "flush",
    [OR_OP_DISCARD] = "discard",
    [OR_OP_WRITE_ZEROES] = "write-zeroes",
    [OR_OP_CONTROL_GET] = "control-get",
    [OR_OP_CONTROL_PUT] = "control-put",
};
static_assert(COUNT(op_names) == OR_OP_MAX, "every operation has a name");

static const char *const status_names[] = {
    [OR_OK] = "ok",
    [OR_EIO] = "io-error",
    [OR_EUNSUPP] = "unsupported",
    [OR_ERANGE] = "out-of-range",
    [OR_EREADONLY] = "read-only",
    [OR_EALIGN] = "unaligned",
    [OR_ENOSPACE] = "no-space",
    [OR_EFENCED] = "fenced",
    [OR_ENODEV] = "no-device",
    [OR_ETIMEOUT] = "timeout",
    [OR_EINVAL] = "invalid",
    [OR_EMOVED] = "moved",
};
static_assert(COUNT(status_names) == OR_STATUS_MAX, "every status has a name");

static const char *const refuse_names[] = {
    [OR_REFUSE_NONE] = "none",     [OR_REFUSE_SHORT] = "short",         [OR_REFUSE_VERSION] = "version",
    [OR_REFUSE_TYPE] = "type",     [OR_REFUSE_CHANNEL] = "channel",     [OR_REFUSE_SESSION] = "session",
    [OR_REFUSE_DIGEST] = "digest", [OR_REFUSE_REPLAY] = "replay",       [OR_REFUSE_MESSAGE] = "message",
    [OR_REFUSE_SLOT] = "slot",     [OR_REFUSE_STALE] = "stale",         [OR_REFUSE_FRAGMENT] = "fragment",
    [OR_REFUSE_CREDIT] = "credit", [OR_REFUSE_HANDSHAKE] = "handshake", [OR_REFUSE_HOST] = "host",
    [OR_REFUSE_RATE] = "rate",     [OR_REFUSE_COOKIE] = "cookie",
};
static_assert(COUNT(refuse_names) == OR_REFUSE_MAX, "every reason has a name");

static const char *name_in(const char *const *names, size_t count, size_t index)
{
    return index < count && names[index] ? names[index] : "unknown";
}

const char *or_op_name(uint8_t op)
{
    return name_in(op_names, COUNT(op_names), op);
}

const char *or_status_name(uint8_t status)
{
    return name_in(status_names, COUNT(status_names), status);
}

const char *or_refuse_name(enum or_refuse reason)
{
    return name_in(refuse_names, COUNT(refuse_names), (size_t)reason);
}
