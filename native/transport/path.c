/* Theory of operation: path.h. Constants follow RFC 9002 where it has one; the time constants are
 * larger, because on shared cores a peer may lose its processor for a few milliseconds and a probe
 * that comes too early only adds load. */
#include "path.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "plant.h"

#define US 1000ull
#define MS 1000000ull

#define ACK_DELAY_NS (500 * US) /* the longest an acknowledgement waits for a frame to ride on */
#define ACK_EVERY 16u           /* frames received after which it waits no longer */
#define RTT_INITIAL_NS (5 * MS)
#define PTO_SLACK_NS (2 * MS) /* least room for the peer's acknowledgement delay and wake-up */
#define PTO_MAX_NS (50 * MS)  /* so that a peer that is back, or another in its place, is found soon */
#define PTO_SHRINK 3u         /* probes without an answer after which the window shrinks */
#define CWND_INITIAL 16u
#define CWND_MIN 2u
#define QUEUE_NS (10 * MS)           /* a queue this long is the network's; shorter ones are the scheduler's */
#define BASE_RTT_AGE_NS (10000 * MS) /* after which what was learned of the path is doubted */
#define REORDER_INITIAL 3u
#define REORDER_MAX 128u

static uint32_t cwnd(const struct or_path *p)
{
    uint32_t w = p->cwnd_x16 / 16;
    return w < p->peer_frames ? w : p->peer_frames;
}

static struct or_record *record(const struct or_path *p, uint32_t i)
{
    return &p->records[i % OR_PATH_RECORDS];
}

int or_path_open(struct or_path *p, const struct or_path_config *c, uint64_t now)
{
    *p = (struct or_path){
        .owner = c->owner,
        .port = c->port,
        .channel = c->channel,
        .link = c->link,
        .peer_session = c->peer_session,
        .mtu = c->mtu,
        .peer_frames = c->peer_frames,
        .next_counter = 1,
        .srtt_ns = RTT_INITIAL_NS,
        .rttvar_ns = RTT_INITIAL_NS / 2,
        .base_rtt_ns = UINT64_MAX,
        .round_min_ns = UINT64_MAX,
        .loss_deadline = UINT64_MAX,
        .ack_deadline = UINT64_MAX,
        .ssthresh = UINT32_MAX,
        .cwnd_x16 = CWND_INITIAL * 16,
        .reorder = REORDER_INITIAL,
        .jitter = c->jitter_seed | 1,
        .rx_last_ns = now,
        .base_since_ns = now,
    };
    memcpy(p->peer_mac, c->peer_mac, 6);
    p->records = calloc(OR_PATH_RECORDS, sizeof *p->records);
    p->items = calloc(OR_PATH_ITEMS, sizeof *p->items);
    if (!p->records || !p->items || or_tx_keys_open(&p->tx_keys, c->integrity, c->tx_key, c->phase_frames, now) ||
        or_rx_keys_open(&p->rx_keys, c->integrity, c->rx_key)) {
        or_path_close(p);
        return -ENOMEM;
    }
    return 0;
}

void or_path_close(struct or_path *p)
{
    if (p->frame)
        p->port->finish = NULL; /* the buffer is the next one's */
    or_tx_keys_close(&p->tx_keys);
    or_rx_keys_close(&p->rx_keys);
    free(p->records);
    free(p->items);
    *p = (struct or_path){0};
}

/* --- sending ------------------------------------------------------------------------------------ */

/* or_port.finish */
static void finish_frame(void *arg)
{
    or_path_end(arg);
}

static bool begin_frame(struct or_path *p, uint64_t now)
{
    p->frame = or_port_tx_begin(p->port, p->peer_mac);
    p->frame_ns = now;
    p->used = sizeof(struct or_frame_header);
    p->frame_items = 0;
    if (p->frame) {
        p->port->finish = finish_frame;
        p->port->finish_arg = p;
    }
    return p->frame != NULL;
}

/* `words` 64-bit words of the receive window, newest frame first. */
static void ack_bits(const struct or_path *p, uint64_t *bits, uint32_t words)
{
    const uint32_t n = OR_PATH_WINDOW / 64;
    uint32_t shift = (uint32_t)(p->rx_largest % 64);
    for (uint32_t w = 0; w < words; w++) {
        /* The 64 counters ending at largest - 64 w, highest first: reverse the bits of the run. */
        uint64_t word = p->rx_largest / 64 - w;
        uint64_t hi = p->rx_window[word % n], lo = word ? p->rx_window[(word - 1) % n] : 0;
        uint64_t run = shift == 63 ? hi : hi << (63 - shift) | lo >> (shift + 1);
        uint64_t reversed = 0;
        for (uint32_t i = 0; i < 64; i += 8)
            reversed |= (uint64_t)(uint8_t)((((run >> i) & 0xff) * 0x0202020202ull & 0x010884422010ull) % 1023)
                        << (56 - i);
        bits[w] = reversed;
    }
}

static void put_ack(struct or_path *p, uint64_t now)
{
    uint64_t span = p->rx_largest - p->acked_to_peer;
    uint32_t words = (uint32_t)(span / 64 + 2);
    if (words > OR_ACK_WORDS_MAX)
        words = OR_ACK_WORDS_MAX;
    struct or_message_ack *ack = (void *)(p->frame + OR_ETH_HEADER + p->used);
    uint64_t delay_us = (now - p->rx_largest_ns) / US;
    *ack = (struct or_message_ack){
        .type = OR_MSG_ACK,
        .words = (uint8_t)words,
        .length = (uint16_t)(16 + 8 * words),
        .delay_us = delay_us > UINT32_MAX ? UINT32_MAX : (uint32_t)delay_us,
        .largest = p->rx_largest,
    };
    uint64_t bits[OR_ACK_WORDS_MAX];
    ack_bits(p, bits, words);
    memcpy(ack->bits, bits, 8 * words);
    p->used += ack->length;
    p->acked_to_peer = p->rx_largest;
    p->ack_pending = 0;
    p->ack_now = false;
    p->ack_deadline = UINT64_MAX;
}

bool or_path_uses_envelopes(const struct or_path *p)
{
    return p->super.state == OR_SUPER_USED && p->port->envelopes == OR_ENVELOPES_READY;
}

void or_path_move(struct or_path *p, struct or_port *port, const uint8_t mac[6])
{
    if (p->port != port || memcmp(p->peer_mac, mac, 6) != 0)
        or_super_reset(&p->super);
    p->port = port;
    memcpy(p->peer_mac, mac, 6);
}

/* probe: of envelopes, filled up to the full size. */
static void end_frame_as(struct or_path *p, bool probe)
{
    uint64_t now = p->frame_ns;
    struct or_frame_header *h = (void *)(p->frame + OR_ETH_HEADER);
    *h = (struct or_frame_header){
        .version = OR_WIRE_VERSION,
        .type = OR_FRAME_DATA,
        .channel = p->channel,
        .link = p->link,
        .session = p->peer_session,
        .counter = p->next_counter++,
        .length = (uint16_t)p->used,
    };
    or_tx_keys_protect(&p->tx_keys, h, p->largest_acked, now);
    if (p->frame_items) {
        *record(p, p->tail++) = (struct or_record){
            .counter = h->counter,
            .sent_ns = now,
            .item_first = p->item_tail - p->frame_items,
            .item_count = (uint16_t)p->frame_items,
            .state = OR_RECORD_IN_FLIGHT,
        };
        p->in_flight++;
        p->last_sent_ns = now;
        if (!p->waiting_since)
            p->waiting_since = now;
    }
    p->port->finish = NULL;
    if (probe) {
        memset(p->frame + OR_ETH_HEADER + p->used, 0, p->mtu - p->used);
        or_port_tx_commit_as(p->port, OR_ETH_HEADER + p->mtu, OR_TX_PROBE);
    } else {
        enum or_tx_form form = or_path_uses_envelopes(p) ? OR_TX_MERGE : OR_TX_PLAIN;
        or_port_tx_commit_as(p->port, OR_ETH_HEADER + p->used, form);
    }
    p->frame = NULL;
}

static void end_frame(struct or_path *p)
{
    end_frame_as(p, false);
}

/* Forgets the oldest frames that are done with, so that their records and items can be used again. A lost one
 * is kept for a while, to recognise that it was only late; not so long that no room is left to send anything. */
static void forget(struct or_path *p)
{
    while (p->head != p->tail) {
        struct or_record *r = record(p, p->head);
        bool old =
            p->next_counter - r->counter > OR_PATH_RECORDS / 2 || p->item_tail - p->item_head > OR_PATH_ITEMS / 2;
        if (r->state == OR_RECORD_IN_FLIGHT || (r->state == OR_RECORD_LOST && !old))
            break;
        p->item_head = r->item_first + r->item_count;
        p->head++;
    }
    if (p->head == p->tail && !p->frame)
        p->item_head = p->item_tail;
}

static bool may_begin(struct or_path *p)
{
    if (p->in_flight >= cwnd(p)) {
        p->limited = true;
        if (!p->probe)
            return false;
    }
    if (p->tail - p->head >= OR_PATH_RECORDS)
        return false;
    p->probe = false;
    return true;
}

uint32_t or_path_room(const struct or_path *p)
{
    if (p->tail - p->head >= OR_PATH_RECORDS || p->item_tail - p->item_head >= OR_PATH_ITEMS)
        return 0;
    uint32_t w = cwnd(p);
    return p->in_flight < w ? w - p->in_flight : p->probe;
}

bool or_path_fits(const struct or_path *p, uint32_t bytes)
{
    return p->frame && p->used + ((bytes + 7) & ~7u) <= p->mtu;
}

bool or_path_takes_datagram(struct or_path *p, uint32_t bytes)
{
    if (or_path_fits(p, bytes))
        return true;
    uint32_t w = cwnd(p), kept = w / 8 ? w / 8 : 1;
    if (p->item_tail - p->item_head >= OR_PATH_ITEMS / 8 * 7)
        return false;
    if (p->in_flight + (p->frame != NULL) + kept < w)
        return true;
    p->limited = true;
    return false;
}

void *or_path_message(struct or_path *p, uint32_t bytes, struct or_item item, uint64_t now)
{
    uint32_t padded = (bytes + 7) & ~7u;
    if (p->frame && p->used + padded > p->mtu)
        end_frame(p);
    if (p->item_tail - p->item_head >= OR_PATH_ITEMS)
        return NULL;
    if (!p->frame) {
        if (!may_begin(p) || !begin_frame(p, now))
            return NULL;
        /* Whatever goes out takes an acknowledgement along; a full-sized fragment leaves no room for
         * one, then the acknowledgement goes by itself in or_path_flush. */
        if (p->ack_pending && sizeof(struct or_message_ack) + p->used + padded <= p->mtu)
            put_ack(p, now);
    }
    uint8_t *message = p->frame + OR_ETH_HEADER + p->used;
    memset(message + padded - 8, 0, 8); /* padding carries nothing of the frame before */
    p->used += padded;
    p->frame_ns = now;
    p->items[p->item_tail++ % OR_PATH_ITEMS] = item;
    p->frame_items++;
    return message;
}

static void put_ping(struct or_path *p, uint64_t now)
{
    struct or_message *m = or_path_message(p, sizeof *m, (struct or_item){.slot = OR_ITEM_PING}, now);
    if (m)
        *m = (struct or_message){.type = OR_MSG_PING, .length = sizeof *m};
}

void or_path_end(struct or_path *p)
{
    if (p->frame)
        end_frame(p);
}

/* Asks whether envelopes reach the peer, which does answer. The plain ping behind them makes it tell soon when they
 * do not. */
static void probe_envelopes(struct or_path *p, uint64_t now)
{
    or_path_end(p);
    uint64_t first = p->next_counter;
    uint32_t ack_pending = p->ack_pending;
    p->ack_pending = 0; /* what may be lost takes no acknowledgement along */
    for (uint32_t i = 0; i < OR_SUPER_PROBE_FRAMES; i++) {
        p->probe = true;
        put_ping(p, now);
        if (p->frame)
            end_frame_as(p, true);
    }
    p->ack_pending = ack_pending;
    if (p->next_counter - first != OR_SUPER_PROBE_FRAMES)
        return; /* no room; what went out is a ping like any other */
    or_super_asked(&p->super, first, now);
    or_path_probe(p);
}

void or_path_flush(struct or_path *p, uint64_t now)
{
    /* An interface whose MTU was lowered has no room for a whole frame: its link is on the way down. */
    if (p->port->envelopes == OR_ENVELOPES_READY && p->port->mtu >= p->mtu && p->progress_ns &&
        or_super_due(&p->super, now))
        probe_envelopes(p, now);
    if (p->want_ping && !p->frame)
        put_ping(p, now);
    p->want_ping = false;
    or_path_end(p);
    bool due = p->ack_pending >= ACK_EVERY || (p->ack_pending && (p->ack_now || now >= p->ack_deadline));
    if (due && begin_frame(p, now)) {
        put_ack(p, now);
        end_frame(p);
    }
}

/* --- receiving ---------------------------------------------------------------------------------- */

enum or_refuse or_path_verify(struct or_path *p, const struct or_frame_header **header, uint64_t now)
{
    const struct or_frame_header *h = *header;
    if (h->counter == 0)
        return OR_REFUSE_REPLAY;
    if (h->counter <= p->rx_largest && !OR_PLANTED(OR_PLANT_NO_REPLAY_WINDOW)) {
        if (p->rx_largest - h->counter >= OR_PATH_WINDOW - 64)
            return OR_REFUSE_REPLAY;
        if (p->rx_window[h->counter / 64 % (OR_PATH_WINDOW / 64)] >> h->counter % 64 & 1)
            return OR_REFUSE_REPLAY;
    }
    h = or_rx_keys_unprotect(&p->rx_keys, h, now);
    if (!h)
        return OR_REFUSE_DIGEST;
    *header = h;
    return OR_REFUSE_NONE;
}

/* RFC 6479: a bitmap used as a ring of words, cleared as the window moves on. */
void or_path_accept(struct or_path *p, const struct or_frame_header *h, bool eliciting, uint64_t now)
{
    const uint32_t n = OR_PATH_WINDOW / 64;
    if (h->counter > p->rx_largest) {
        uint64_t from = p->rx_largest / 64, to = h->counter / 64;
        uint64_t steps = to - from < n ? to - from : n;
        for (uint64_t i = 1; i <= steps; i++)
            p->rx_window[(from + i) % n] = 0;
        if (h->counter != p->rx_largest + 1)
            p->ack_now = true; /* a gap: let the peer know early */
        p->rx_largest = h->counter;
        p->rx_largest_ns = now;
    } else {
        p->ack_now = true;
    }
    p->rx_window[h->counter / 64 % n] |= 1ull << h->counter % 64;
    p->rx_last_ns = now;
    p->waiting_since = 0;
    if (eliciting && p->ack_pending++ == 0)
        p->ack_deadline = now + ACK_DELAY_NS;
}

void or_path_defer(struct or_path *p, uint64_t now)
{
    p->rx_last_ns = now;
    p->waiting_since = 0;
    p->ack_pending++;
    p->ack_deadline = now;
}

static void sample_rtt(struct or_path *p, uint64_t rtt, uint64_t delay_ns)
{
    if (rtt < p->base_rtt_ns)
        p->base_rtt_ns = rtt;
    if (rtt < p->round_min_ns)
        p->round_min_ns = rtt;
    if (rtt > p->base_rtt_ns + delay_ns)
        rtt -= delay_ns;
    p->latest_ns = rtt;
    uint64_t diff = rtt > p->srtt_ns ? rtt - p->srtt_ns : p->srtt_ns - rtt;
    p->rttvar_ns += ((int64_t)diff - (int64_t)p->rttvar_ns) / 4;
    p->srtt_ns += ((int64_t)rtt - (int64_t)p->srtt_ns) / 8;
}

static void shrink(struct or_path *p, uint32_t numerator, uint32_t denominator, uint32_t floor)
{
    uint32_t w = cwnd(p) * 16 * numerator / denominator;
    p->cwnd_x16 = w > floor * 16 ? w : floor * 16;
    p->ssthresh = p->cwnd_x16 / 16;
}

static void lose(struct or_path *p, struct or_record *r, bool tell)
{
    r->state = OR_RECORD_LOST;
    p->in_flight--;
    p->frames_lost += !or_super_is_probe(&p->super, r->counter);
    for (uint32_t i = 0; tell && i < r->item_count; i++)
        p->owner.lost(p->owner.arg, p->items[(r->item_first + i) % OR_PATH_ITEMS]);
}

/* Declares lost what newer acknowledged frames have overtaken by `reorder` frames or by time. */
static void detect_loss(struct or_path *p, uint64_t now)
{
    uint64_t rtt = p->srtt_ns > p->latest_ns ? p->srtt_ns : p->latest_ns;
    uint64_t patience = rtt + rtt / 4 + MS;
    bool reduce = false;
    p->loss_deadline = UINT64_MAX;
    for (uint32_t i = p->head; i != p->tail; i++) {
        struct or_record *r = record(p, i);
        if (r->counter >= p->largest_acked)
            break;
        if (r->state != OR_RECORD_IN_FLIGHT)
            continue;
        if (r->counter + p->reorder <= p->largest_acked || now >= r->sent_ns + patience) {
            reduce |= r->counter > p->recovery_until && !or_super_is_probe(&p->super, r->counter);
            lose(p, r, true);
        } else if (r->sent_ns + patience < p->loss_deadline) {
            p->loss_deadline = r->sent_ns + patience;
        }
    }
    if (reduce) {
        shrink(p, 7, 10, CWND_MIN);
        p->recovery_until = p->next_counter - 1;
        or_super_doubt(&p->super);
    }
    or_super_overtaken(&p->super, p->largest_acked, patience, now);
}

/* Once per round trip: a round whose quickest frame took far longer than the path's best found a
 * queue in its way; give way before it overflows. */
static void end_round(struct or_path *p, uint64_t now)
{
    if (p->round_min_ns != UINT64_MAX && p->round_min_ns > 4 * p->base_rtt_ns + QUEUE_NS)
        shrink(p, 9, 10, CWND_INITIAL);
    if (p->round_min_ns != UINT64_MAX && now - p->base_since_ns > BASE_RTT_AGE_NS) {
        p->base_rtt_ns = p->round_min_ns; /* the path may have changed */
        p->reorder = p->reorder / 2 > REORDER_INITIAL ? p->reorder / 2 : REORDER_INITIAL;
        p->base_since_ns = now;
    }
    p->round_min_ns = UINT64_MAX;
    p->round_end = p->next_counter - 1;
}

static void grow(struct or_path *p, uint32_t acked)
{
    if (!p->limited || cwnd(p) >= p->peer_frames)
        return;
    uint32_t w = p->cwnd_x16 / 16;
    p->cwnd_x16 += w < p->ssthresh ? acked * 16 : acked * 16 / w + 1;
    p->limited = false;
}

static bool ack_covers(const struct or_message_ack *ack, uint64_t counter)
{
    uint64_t back = ack->largest - counter;
    if (back >= 64u * ack->words)
        return false;
    uint64_t word;
    memcpy(&word, (const uint8_t *)ack->bits + 8 * (back / 64), 8);
    return word >> back % 64 & 1;
}

void or_path_on_ack(struct or_path *p, const struct or_message_ack *ack, uint64_t now)
{
    if (ack->largest >= p->next_counter)
        return; /* acknowledges what was never sent */
    uint32_t newly = 0;
    for (uint32_t i = p->head; i != p->tail; i++) {
        struct or_record *r = record(p, i);
        if (r->counter > ack->largest)
            break;
        if (r->state == OR_RECORD_ACKED || !ack_covers(ack, r->counter))
            continue;
        if (r->state == OR_RECORD_LOST) {
            /* It was late, not lost: wait for more overtaking next time. */
            p->spurious++;
            p->reorder = p->reorder * 2 < REORDER_MAX ? p->reorder * 2 : REORDER_MAX;
        } else {
            p->in_flight--;
            newly++;
            if (r->counter == ack->largest)
                sample_rtt(p, now - r->sent_ns, ack->delay_us * US);
        }
        r->state = OR_RECORD_ACKED;
        or_super_acked(&p->super, r->counter, now);
        if (r->sent_ns > p->progress_ns)
            p->progress_ns = r->sent_ns;
        for (uint32_t k = 0; k < r->item_count; k++)
            p->owner.acked(p->owner.arg, p->items[(r->item_first + k) % OR_PATH_ITEMS]);
    }
    if (ack->largest > p->largest_acked)
        p->largest_acked = ack->largest;
    if (newly) {
        p->pto_count = 0;
        grow(p, newly);
        if (p->largest_acked > p->round_end)
            end_round(p, now);
    }
    detect_loss(p, now);
    forget(p);
}

/* --- time --------------------------------------------------------------------------------------- */

uint64_t or_path_patience(const struct or_path *p)
{
    uint64_t var = 4 * p->rttvar_ns > MS ? 4 * p->rttvar_ns : MS;
    return p->srtt_ns + var + PTO_SLACK_NS;
}

static uint64_t pto_deadline(const struct or_path *p)
{
    if (!p->in_flight)
        return UINT64_MAX;
    uint64_t first = or_path_patience(p), most = 2 * first > PTO_MAX_NS ? 2 * first : PTO_MAX_NS;
    uint64_t pto = first << (p->pto_count < 8 ? p->pto_count : 8);
    if (pto > most)
        pto = most;
    pto += pto / 8 * (p->jitter % 8) / 8; /* so that many hosts do not probe in step */
    return p->last_sent_ns + pto;
}

/* Nothing came back for long: send the oldest unacknowledged items again, one frame beyond the window. */
static void on_pto(struct or_path *p, uint64_t now)
{
    p->pto_count++;
    or_super_doubt(&p->super);
    p->jitter = p->jitter * 1664525u + 1013904223u;
    for (uint32_t i = p->head; i != p->tail; i++) {
        struct or_record *r = record(p, i);
        if (r->state == OR_RECORD_IN_FLIGHT) {
            lose(p, r, true);
            break;
        }
    }
    if (p->pto_count >= PTO_SHRINK) {
        shrink(p, 1, 2, CWND_MIN);
        or_super_give_up(&p->super, now);
    }
    or_path_probe(p);
}

void or_path_probe(struct or_path *p)
{
    p->probe = true;
    p->want_ping = true;
}

void or_path_forfeit(struct or_path *p)
{
    or_path_end(p);
    or_super_reset(&p->super);
    for (uint32_t i = p->head; i != p->tail; i++)
        if (record(p, i)->state == OR_RECORD_IN_FLIGHT)
            lose(p, record(p, i), !OR_PLANTED(OR_PLANT_LINK_DEATH_LOSES));
    forget(p);
    p->pto_count = 0;
    p->loss_deadline = UINT64_MAX;
    p->recovery_until = p->next_counter - 1;
    p->cwnd_x16 = CWND_INITIAL * 16;
    p->ssthresh = UINT32_MAX;
    p->waiting_since = 0;
}

void or_path_tick(struct or_path *p, uint64_t now)
{
    if (now >= p->loss_deadline) {
        detect_loss(p, now);
        forget(p);
    }
    if (now >= pto_deadline(p)) {
        on_pto(p, now);
        forget(p);
    }
}

uint64_t or_path_deadline(const struct or_path *p)
{
    uint64_t d = pto_deadline(p);
    uint64_t ack = or_path_ack_deadline(p);
    if (p->loss_deadline < d)
        d = p->loss_deadline;
    return ack < d ? ack : d;
}

uint64_t or_path_ack_deadline(const struct or_path *p)
{
    return p->ack_pending ? p->ack_deadline : UINT64_MAX;
}
