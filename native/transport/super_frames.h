/* Whether a path's frames may travel in envelopes (envelope.h), which a switch, a firewall or a peer configured
 * otherwise may swallow. Nothing is agreed upon: an acknowledgement tells that an envelope has arrived.
 *
 *   UNTRIED ─────────── probe acknowledged ───────────> USED
 *      │                                                │ ^  a frame was lost, whichever: probed again, used meanwhile
 *      │ two probes lost        two in a row lost, or   │ └─ acknowledged
 *      v                        no answer to anything   v
 *   UNANSWERED <─────────────────────────────────────────
 *      probed again after 1 s, doubling to 60 s; acknowledged: USED
 *
 * A probe is an envelope with two segments of full size, each a ping; a plain ping follows, so a probe is lost when
 * that is acknowledged and it is not. As in path MTU discovery (RFC 8899, section 3) its loss says nothing about
 * congestion. A path that died begins anew. No I/O; one thread. */
#ifndef OR_SUPER_FRAMES_H
#define OR_SUPER_FRAMES_H

#include <stdbool.h>
#include <stdint.h>

#define OR_SUPER_PROBE_FRAMES 2u

enum or_super_state { OR_SUPER_UNTRIED, OR_SUPER_USED, OR_SUPER_UNANSWERED };

struct or_super {
    enum or_super_state state;
    bool asked, doubted;  /* a probe is under way; while USED: one is wanted */
    uint32_t missing;     /* of its frames, that were not acknowledged yet */
    uint32_t failures;    /* probes lost in a row */
    uint64_t first, last; /* numbers of the latest probe's frames; 0: none */
    uint64_t asked_ns;
    uint64_t try_at;   /* the next probe is not sent before */
    uint64_t interval; /* between probes, while UNANSWERED */
};

/* A probe is to be sent. */
bool or_super_due(const struct or_super *super, uint64_t now);
/* It was, in the frames from `first` on. */
void or_super_asked(struct or_super *super, uint64_t first, uint64_t now);
bool or_super_is_probe(const struct or_super *super, uint64_t frame);
/* This frame was acknowledged, whatever it is. */
void or_super_acked(struct or_super *super, uint64_t frame, uint64_t now);
/* Of the frames acknowledged so far this is the latest; one that is overtaken is lost after `patience` ns. */
void or_super_overtaken(struct or_super *super, uint64_t largest_acked, uint64_t patience, uint64_t now);
/* A frame was lost. */
void or_super_doubt(struct or_super *super);
/* Nothing is acknowledged any more. */
void or_super_give_up(struct or_super *super, uint64_t now);
/* The peer is to be reached in another way, or again. */
void or_super_reset(struct or_super *super);

#endif
