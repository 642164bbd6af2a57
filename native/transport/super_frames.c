/* Theory of operation: super_frames.h. */
#include "super_frames.h"

#define MS 1000000ull
#define INTERVAL_FIRST_NS (1000 * MS)
#define INTERVAL_MAX_NS (60000 * MS)
#define VERIFIED_NS (20 * MS) /* for so long no doubt is looked into */
#define FAILURES 2u           /* one may be an accident */

bool or_super_due(const struct or_super *s, uint64_t now)
{
    return !s->asked && now >= s->try_at && (s->state != OR_SUPER_USED || s->doubted);
}

void or_super_asked(struct or_super *s, uint64_t first, uint64_t now)
{
    s->asked = true;
    s->asked_ns = now;
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
    if (!s->asked || !or_super_is_probe(s, frame) || --s->missing)
        return;
    s->state = OR_SUPER_USED;
    s->asked = s->doubted = false;
    s->failures = 0;
    s->interval = 0;
    s->try_at = now + VERIFIED_NS;
}

static void stop_using(struct or_super *s, uint64_t now)
{
    uint64_t next = s->interval * 2 < INTERVAL_MAX_NS ? s->interval * 2 : INTERVAL_MAX_NS;
    s->state = OR_SUPER_UNANSWERED;
    s->asked = s->doubted = false;
    s->interval = s->interval ? next : INTERVAL_FIRST_NS;
    s->try_at = now + s->interval;
}

void or_super_overtaken(struct or_super *s, uint64_t largest_acked, uint64_t patience, uint64_t now)
{
    if (!s->asked || largest_acked <= s->last || now < s->asked_ns + patience)
        return;
    s->asked = false;
    if (++s->failures >= FAILURES)
        stop_using(s, now);
}

void or_super_doubt(struct or_super *s)
{
    s->doubted = true;
}

void or_super_give_up(struct or_super *s, uint64_t now)
{
    if (s->state == OR_SUPER_USED)
        stop_using(s, now);
}

void or_super_reset(struct or_super *s)
{
    *s = (struct or_super){.first = s->first, .last = s->last};
}
