/* Regions and journals whose content is damage with checksums that fit: whatever there is in them, the domain opens, or
 * is refused, and nothing of it leads out of the memory, the volumes or the time that there are. */
#include "intercept/internal.h"

#include "intercept_fixture.h"

#define ROUNDS 3000u

static uint32_t seed = 1;

static uint32_t any(uint32_t below)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % below;
}

/* --- what an engine has left ------------------------------------------------------------------------ */

/* Epochs 1 to 3 are committed and wait for a volume that fails, 4 is closed, 5 open; all have packets. */
struct left {
    struct lab *lab;
    uint8_t *region, *journal;
};

static struct left leave(void)
{
    struct left left = {.lab = lab_open(), .journal = malloc(JOURNAL_BYTES)};
    struct lab *lab = left.lab;
    lab->lowers[0].write_status = lab->lowers[1].write_status = OR_EIO;
    lab->out_full = true;
    for (uint32_t epoch = 1; epoch <= 5; epoch++) {
        put(lab->volumes[0], (epoch / 2) * PAGE, 2 * PAGE, (uint8_t)epoch);
        put(lab->volumes[1], 512 * epoch, 1024, (uint8_t)epoch);
        assert_int_equal(run(lab->volumes[1], OR_OP_WRITE_ZEROES, 0, 8 * PAGE, PAGE, NULL), OR_OK);
        for (uint32_t n = 0; n < 3; n++)
            assert_int_equal(send(lab, 1, 60 + 3000 * n, (uint8_t)epoch), 0);
        if (epoch <= 3)
            checkpoint(lab);
        else if (epoch == 4)
            cut(lab, 1);
    }
    engine_kill(lab);
    left.region = malloc(lab->region_bytes);
    memcpy(left.region, lab->region, lab->region_bytes);
    memcpy(left.journal, lab->journal.memory, JOURNAL_BYTES);
    return left;
}

static void restore(struct left *left)
{
    struct lab *lab = left->lab;
    memcpy(lab->region, left->region, lab->region_bytes);
    memcpy(lab->journal.memory, left->journal, JOURNAL_BYTES);
    lab->lowers[0].write_status = lab->lowers[1].write_status = any(2) ? OR_OK : OR_EIO;
    lab->out_full = any(2);
    lab->outs = 0;
}

static void drop(struct left *left)
{
    free(left->region);
    free(left->journal);
    free(left->lab->lowers[0].memory);
    free(left->lab->lowers[1].memory);
    free(left->lab->journal.memory);
    free(left->lab->region);
    free(left->lab);
}

/* The next engine, which opens what there is and does all that a domain does. Returns what it said. */
static int go_on(struct lab *lab)
{
    static uint8_t data[LOWER_BYTES];
    struct wait w;
    uint64_t epoch;
    engine_open(lab);
    for (uint32_t n = 0; n < 8; n++)
        poll_later(lab);
    if (lab->opened == 0 && info_of(lab).state == OR_DOMAIN_RUNNING) {
        uint64_t generation = info_of(lab).generation;
        attach(lab, generation);
        run(lab->volumes[0], OR_OP_READ, 0, 0, LOWER_BYTES, data);
        struct op op;
        submit(lab->volumes[1], &op, OR_OP_WRITE, 0, 0, 4 * PAGE, data);
        send(lab, generation, 100, 1);
        if (or_domain_cut(lab->domain, generation, &epoch) == 0)
            commit(lab, &w, generation, epoch);
        for (uint32_t n = 0; n < 8; n++)
            poll_later(lab);
        or_domain_halt(lab->domain);
    }
    int opened = lab->opened;
    or_domain_remove(lab->domain);
    struct or_hold_info hold;
    or_hold_read_info(lab->hold, &hold);
    assert_int_equal(hold.bytes, hold.bytes_free);
    or_hold_destroy(lab->hold);
    lab->lowers[0].volume.in_flight = lab->lowers[1].volume.in_flight = lab->journal.volume.in_flight = 0;
    return opened;
}

/* --- damage ------------------------------------------------------------------------------------------- */

static uint64_t odd_number(uint64_t was)
{
    const uint64_t some[] = {0,
                             1,
                             was + 1,
                             was - 1,
                             any(8),
                             any(200),
                             UINT64_MAX - any(2),
                             (UINT64_C(1) << 62) - any(2),
                             UINT64_MAX / PAGE + 1 + any(20), /* a block that is another one in bytes */
                             was ^ UINT64_C(1) << any(64)};
    return some[any(sizeof some / sizeof *some)];
}

static void damage_record(const struct lab *lab)
{
    struct or_hold_record *records = (struct or_hold_record *)(void *)(lab->region + sizeof(struct or_hold_header));
    struct or_hold_record *r = records;
    while (r->id != 11)
        r++;
    uint64_t *fields[] = {&r->open, &r->committed, &r->state, &r->durable, &r->journal_id};
    uint64_t *field = fields[any(5)];
    *field = odd_number(*field);
}

static void damage_slot(const struct lab *lab)
{
    struct or_hold_slot *slots = (struct or_hold_slot *)(void *)(lab->region + OR_HOLD_RECORDS_PAGES * PAGE);
    uint8_t *pages = lab->region + lab->region_bytes - SLOTS * PAGE;
    uint32_t i = any(SLOTS);
    struct or_hold_slot *s = &slots[i];
    uint64_t *words[] = {&s->object, &s->block, &s->epoch, &s->bytes, &s->released};
    uint8_t *bytes[] = {&s->kind, &s->mask, &s->state};
    if (any(4) == 0)
        *s = slots[any(SLOTS)]; /* twice the same */
    else if (any(2))
        *words[any(4)] = odd_number(s->epoch);
    else
        *bytes[any(3)] = (uint8_t)odd_number(1);
    if (any(4))
        s->checksum = or_page_checksum(pages + (uint64_t)i * PAGE, s->object, s->block, s->epoch);
    if (s->kind == OR_HELD_PACKETS && any(2))
        words[4 - any(2)][0] = odd_number(s->bytes);
}

static void damage_super(const struct lab *lab)
{
    for (uint32_t n = 0; n < OR_JOURNAL_SUPERS; n++) {
        struct or_super *s = (struct or_super *)(void *)(lab->journal.memory + n * PAGE);
        uint64_t *fields[] = {&s->sequence, &s->tail, &s->applied, &s->generation, &s->fenced, &s->domain};
        uint64_t *field = fields[any(6)];
        *field = odd_number(*field);
        s->checksum = or_super_checksum(s);
    }
}

static void damage_entry(const struct lab *lab)
{
    uint8_t *ring = lab->journal.memory + OR_JOURNAL_SUPERS * PAGE;
    for (uint32_t at = 0; at < 40; at++) {
        struct or_entry *e = (struct or_entry *)(void *)(ring + at * PAGE);
        if (e->checksum != or_entry_checksum(e) || any(3))
            continue;
        struct or_entry_block *b = &or_entry_table(e)[any(e->count)];
        uint64_t *words[] = {&e->epoch, &e->generation, &e->position, &e->empty, &b->volume, &b->block};
        uint32_t *counts[] = {&e->count, &e->pages};
        uint32_t what = any(10);
        if (what < 6)
            *words[what] = odd_number(*words[what]);
        else if (what == 6)
            *counts[any(2)] = (uint32_t)odd_number(e->count);
        else if (what == 7)
            b->kind = (uint8_t)any(5);
        else if (what == 8)
            b->mask = (uint8_t)any(3);
        else
            or_entry_table(e)[any(e->count)] = *b;
        if (e->count < 100)
            e->checksum = or_entry_checksum(e);
    }
}

/* --- tests -------------------------------------------------------------------------------------------- */

static void a_region_of_any_content_is_taken_up_or_dropped(void **state)
{
    (void)state;
    struct left left = leave();
    uint32_t refused = 0;
    for (uint32_t n = 0; n < ROUNDS; n++) {
        restore(&left);
        for (uint32_t i = any(3) + 1; i > 0; i--)
            (any(3) ? damage_slot : damage_record)(left.lab);
        refused += go_on(left.lab) != 0;
    }
    assert_in_range(refused, 0, ROUNDS / 2); /* the journal is whole */
    drop(&left);
}

static void a_journal_of_any_content_is_loaded_or_refused(void **state)
{
    (void)state;
    struct left left = leave();
    uint32_t refused = 0;
    for (uint32_t n = 0; n < ROUNDS; n++) {
        restore(&left);
        if (any(2))
            region_lose(left.lab);
        (any(2) ? damage_super : damage_entry)(left.lab);
        refused += go_on(left.lab) != 0;
    }
    assert_in_range(refused, ROUNDS / 100, ROUNDS - 1);
    drop(&left);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_region_of_any_content_is_taken_up_or_dropped),
        cmocka_unit_test(a_journal_of_any_content_is_loaded_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
