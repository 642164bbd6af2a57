/* Theory of operation: super_frames.h. */
#include "super_frames.h"

#define MS 1000000ull
#define INTERVAL_FIRST_NS (1000 * MS)
#define INTERVAL_MAX_NS (60000 * MS)
#define PAUSE_FIRST_NS (10 * MS)
#define PAUSE_MAX_NS (1000 * MS)
#define PROVEN_NS (1000 * MS) /* used for so long without a doubt, the next one is a first one */

bool or_super_due(const struct or_super *s, uint64_t now)
{
    return (s->state == OR_SUPER_UNTRIED || s->state == OR_SUPER_UNANSWERED) && now >= s->try_at;
}

void or_super_asked(struct or_super *s, uint64_t first)
{
    s->state = OR_SUPER_ASKED;
    s->first = first;
    s->last = first + OR_SUPER_PROBE_FRAMES - 1;
    s->missing = OR_SUPER_PROBE_FRAMES;
}

bool or_super_is_probe(const struct or_super *s, uint64_t frame)
{
    return s->first && frame >= s->first && frame <= s->last;
}

void or_super_acked(struct or_super *s, uint64_t frame, uint64_t now)
{
    if (s->state != OR_SUPER_ASKED || !or_super_is_probe(s, frame) || --s->missing)
        return;
    s->state = OR_SUPER_USED;
    s->interval = 0;
    s->used_since = now;
}

void or_super_lost(struct or_super *s, uint64_t frame, uint64_t now)
{
    if (s->state != OR_SUPER_ASKED || !or_super_is_probe(s, frame))
        return;
    s->interval = !s->interval                        ? INTERVAL_FIRST_NS
                  : s->interval * 2 < INTERVAL_MAX_NS ? s->interval * 2
                                                      : INTERVAL_MAX_NS;
    s->state = OR_SUPER_UNANSWERED;
    s->try_at = now + s->interval;
}

void or_super_doubt(struct or_super *s, uint64_t now)
{
    if (s->state != OR_SUPER_USED)
        return;
    if (now - s->used_since >= PROVEN_NS)
        s->pause = 0;
    else
        s->pause = !s->pause ? PAUSE_FIRST_NS : s->pause * 2 < PAUSE_MAX_NS ? s->pause * 2 : PAUSE_MAX_NS;
    s->state = OR_SUPER_UNTRIED;
    s->try_at = now + s->pause;
}

void or_super_reset(struct or_super *s)
{
    *s = (struct or_super){.first = s->first, .last = s->last};
}
