/* Watches for what only strangers, or a broken network, do: many frames in a second that are refused for
 * reasons that a peer with a key gives no cause for. The counters tell how many there were in all; this tells
 * the owner that it is happening. */
#include <stdio.h>
#include <string.h>

#include "engine_internal.h"

#define LOOK_EVERY_NS 1000000000ull
#define TELL_EVERY_NS 10000000000ull
#define HOSTILE_PER_SECOND 100u

/* Refused frames by reason, by the reason's number; what the port's filter kept out comes last. */
#define FILTERED OR_REFUSE_MAX

static bool is_hostile(uint32_t reason)
{
    switch (reason) {
    case OR_REFUSE_SHORT:
    case OR_REFUSE_VERSION:
    case OR_REFUSE_TYPE:
    case OR_REFUSE_CHANNEL:
    case OR_REFUSE_SESSION:
    case OR_REFUSE_DIGEST:
    case OR_REFUSE_REPLAY:
    case OR_REFUSE_HANDSHAKE:
    case OR_REFUSE_HOST:
    case OR_REFUSE_COOKIE:
    case FILTERED:
        return true;
    default:
        return false;
    }
}

static void tell(struct or_engine *e, uint32_t reason, uint64_t count, const uint8_t source[6])
{
    struct or_event *event = or_engine_event(e, OR_EVENT_INTRUSION, NULL, 0);
    if (!event)
        return;
    event->id = count < UINT32_MAX ? (uint32_t)count : UINT32_MAX;
    snprintf(event->reason, sizeof event->reason, "%s", reason == FILTERED ? "filtered" : or_refuse_name(reason));
    if (reason != FILTERED)
        snprintf(event->name, sizeof event->name, "%02x:%02x:%02x:%02x:%02x:%02x", source[0], source[1], source[2],
                 source[3], source[4], source[5]);
    or_engine_emit(e, event);
}

void or_watch_look(struct or_engine *e, uint64_t now)
{
    struct or_watch *w = &e->watch;
    uint64_t counts[OR_REFUSE_MAX + 1], hostile = 0, most = 0;
    uint32_t reason = 0;
    struct or_engine_stats stats;
    uint8_t source[6];
    or_ports_stats(e, &stats);
    e->role->refused(e, counts, source);
    counts[FILTERED] = stats.port.rx_filtered;
    for (uint32_t i = 0; i <= FILTERED; i++) {
        uint64_t grown = is_hostile(i) ? counts[i] - w->counts[i] : 0;
        hostile += grown;
        if (grown > most) {
            most = grown;
            reason = i;
        }
    }
    uint64_t seconds = w->looked_ns ? (now - w->looked_ns) / LOOK_EVERY_NS : 1;
    bool flood = hostile > HOSTILE_PER_SECOND * (seconds ? seconds : 1);
    memcpy(w->counts, counts, sizeof w->counts);
    w->looked_ns = now;
    w->look_at = now + LOOK_EVERY_NS;
    if (flood && (!w->told_ns || now >= w->told_ns + TELL_EVERY_NS)) {
        w->told_ns = now;
        tell(e, reason, hostile, source);
    }
}
