#include "intercept_fixture.h"

static uint8_t data[LOWER_BYTES];

static void restart(struct lab *lab)
{
    uint64_t generation = info_of(lab).generation;
    engine_kill(lab);
    engine_open(lab);
    assert_int_equal(lab->opened, 0);
    attach(lab, generation);
}

/* The machine dies: the region is lost; what was not synced is as the test left it. */
static void lose(struct lab *lab)
{
    engine_kill(lab);
    region_lose(lab);
    engine_open(lab);
    assert_int_equal(lab->opened, 0);
}

static void reset(struct lab *lab, uint64_t generation)
{
    struct wait w = {.fence = {.generation = generation, .done = fence_done}, .err = UNDER_WAY};
    w.fence.owner = &w;
    assert_int_equal(or_domain_reset(lab->domain, &w.fence), 0);
    assert_int_equal(w.err, 0);
    attach(lab, generation);
}

static void held_writes_and_packets_outlive_the_engine(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct wait w;
    put(lab->volumes[0], 512, 2 * PAGE, 1);
    assert_int_equal(send(lab, 1, 5000, 1), 0);
    assert_int_equal(cut(lab, 1), 1);
    put(lab->volumes[0], 1024, 512, 2);
    assert_int_equal(run(lab->volumes[1], OR_OP_WRITE_ZEROES, 0, 0, 2 * PAGE, NULL), OR_OK);
    assert_int_equal(send(lab, 1, 700, 2), 0);
    restart(lab);
    assert_int_equal(info_of(lab).open, 2);
    assert_reads(lab->volumes[0], 512, 512, 1);
    assert_reads(lab->volumes[0], 1024, 512, 2);
    assert_int_equal(send(lab, 1, 8000, 3), 0); /* goes on behind the one before */
    restart(lab);
    commit(lab, &w, 1, cut(lab, 1));
    assert_int_equal(w.err, 0);
    assert_int_equal(lab->outs, 3);
    for (uint8_t n = 0; n < 3; n++)
        assert_int_equal(lab->out[n].first, n + 1);
    assert_filled(lab->lowers[0].memory + 512, 512, 1);
    assert_filled(lab->lowers[0].memory + 1024, 512, 2);
    assert_int_equal(info_of(lab).bytes, 0);
    lab_close(lab);
}

static void a_committed_epoch_is_released_and_applied_by_the_next_engine(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct wait w;
    put(lab->volumes[0], 0, 3 * PAGE, 1);
    assert_int_equal(send(lab, 1, 60, 1), 0);
    lab->lowers[0].manual = lab->out_full = true;
    commit(lab, &w, 1, cut(lab, 1));
    assert_int_equal(w.err, 0);
    assert_int_equal(lab->outs, 0);
    lab->out_full = false;
    lab->lowers[0].manual = false;
    restart(lab);
    assert_int_equal(info_of(lab).committed, 1);
    assert_int_equal(info_of(lab).applied, 1);
    assert_int_equal(lab->outs, 1);
    assert_filled(lab->lowers[0].memory, 3 * PAGE, 1);
    lab_close(lab);
}

/* Commits an epoch of all that the domain may hold and lets some of it come below; returns how many pages are freed. */
static uint64_t apply_in_part(struct lab *lab, uint32_t flushes)
{
    struct lower *l = &lab->lowers[0];
    struct wait w;
    put(lab->volumes[0], 0, 96 * PAGE, 1);
    l->manual = true;
    commit(lab, &w, 1, cut(lab, 1));
    assert_int_equal(w.err, 0);
    put(lab->volumes[0], PAGE, PAGE, 2); /* what waits for room is not under way */
    while (l->flushes <= flushes)
        assert_true(lower_end(l));
    l->manual = false;
    assert_int_equal(info_of(lab).applied, 0);
    return 97 - info_of(lab).bytes / PAGE;
}

static void an_epoch_of_which_a_part_is_freed_is_found_whole(void **state)
{
    (void)state;
    for (uint32_t machine = 0; machine < 2; machine++) {
        struct lab *lab = lab_open();
        lab->bytes_max = 97 * PAGE; /* room for a page of the next epoch */
        restart(lab);
        uint64_t freed = apply_in_part(lab, 2);
        assert_in_range(freed, 2, 95);
        if (machine) {
            memset(lab->lowers[0].memory, 7, 96 * PAGE); /* is written again from the first block on */
            lose(lab);
            assert_int_equal(info_of(lab).applied, 1);
            assert_filled(lab->lowers[0].memory, 96 * PAGE, 1);
            reset(lab, 2);
            put(lab->volumes[0], PAGE, PAGE, 2);
        } else {
            memset(lab->lowers[0].memory + freed * PAGE, 7, (96 - freed) * PAGE);
            restart(lab);
            assert_int_equal(info_of(lab).applied, 1);
            assert_filled(lab->lowers[0].memory, 96 * PAGE, 1);
        }
        assert_reads(lab->volumes[0], 0, PAGE, 1);
        assert_reads(lab->volumes[0], PAGE, PAGE, 2);
        assert_reads(lab->volumes[0], 2 * PAGE, 94 * PAGE, 1);
        checkpoint(lab);
        assert_filled(lab->lowers[0].memory + PAGE, PAGE, 2);
        lab_close(lab);
    }
}

/* Its entry fills the ring, so nothing more can be committed before the journal's tail is behind it. */
static void an_epoch_of_which_all_is_freed_is_not_one_that_held_nothing(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    engine_kill(lab);
    lab->journal.volume.size = (2 + 97 + 1) * PAGE;
    lab->bytes_max = 97 * PAGE;
    engine_open(lab);
    assert_int_equal(lab->opened, 0);
    attach(lab, 1);
    struct lower *l = &lab->lowers[0];
    struct wait w;
    put(lab->volumes[0], 0, 96 * PAGE, 1);
    l->manual = true;
    commit(lab, &w, 1, cut(lab, 1));
    assert_int_equal(w.err, 0);
    lab->journal.manual = true; /* the superblock that says applied does not come there */
    while (info_of(lab).bytes)
        assert_true(lower_end(l));
    assert_int_equal(info_of(lab).applied, 0);
    l->manual = lab->journal.manual = false;
    restart(lab);
    put(lab->volumes[0], 0, PAGE, 2);
    checkpoint(lab);
    assert_int_equal(info_of(lab).applied, 2);
    assert_filled(l->memory, PAGE, 2);
    assert_filled(l->memory + PAGE, 95 * PAGE, 1);
    lab_close(lab);
}

static void an_entry_that_is_complete_counts_though_nobody_was_told(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct wait w;
    put(lab->volumes[0], 0, 3 * PAGE, 1);
    lab->journal.manual = true;
    commit(lab, &w, 1, cut(lab, 1));
    lower_end(&lab->journal);
    lower_end(&lab->journal);
    assert_int_equal(info_of(lab).committed, 0);
    lab->journal.manual = false;
    uint32_t syncs = lab->journal.flushes;
    restart(lab);
    assert_true(lab->journal.flushes > syncs);
    assert_int_equal(info_of(lab).committed, 1);
    lab_close(lab);
}

static void without_the_region_the_journal_is_applied_and_the_domain_wants_a_rewind(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct wait w;
    lab->lowers[0].manual = true; /* nothing is applied */
    for (uint8_t n = 1; n <= 3; n++) {
        put(lab->volumes[0], 0, PAGE, n);
        put(lab->volumes[0], n * PAGE, PAGE + 512, n);
        assert_int_equal(run(lab->volumes[0], OR_OP_WRITE_ZEROES, 0, 10 * PAGE, PAGE, NULL), OR_OK);
        commit(lab, &w, 1, cut(lab, 1));
        assert_int_equal(w.err, 0);
    }
    put(lab->volumes[0], 0, PAGE, 9);
    memset(lab->lowers[0].memory, 7, LOWER_BYTES);
    lab->lowers[0].manual = false;
    lose(lab);
    assert_int_equal(info_of(lab).state, OR_DOMAIN_REWIND);
    assert_int_equal(info_of(lab).committed, 3);
    assert_int_equal(info_of(lab).applied, 3);
    assert_filled(lab->lowers[0].memory, PAGE, 3);
    assert_filled(lab->lowers[0].memory + PAGE, PAGE, 1);
    assert_filled(lab->lowers[0].memory + 2 * PAGE, PAGE, 2);
    assert_filled(lab->lowers[0].memory + 3 * PAGE, PAGE + 512, 3);
    assert_filled(lab->lowers[0].memory + 10 * PAGE, PAGE, 0);
    attach(lab, 1);
    assert_int_equal(run(lab->volumes[0], OR_OP_READ, 0, 0, PAGE, data), OR_EIO);
    assert_int_equal(run(lab->volumes[0], OR_OP_FLUSH, 0, 0, 0, NULL), OR_EIO);
    assert_int_equal(send(lab, 1, 60, 1), -EIO);
    lab->volumes[0]->ops->close(lab->volumes[0]);
    lab->volumes[1]->ops->close(lab->volumes[1]);
    engine_kill(lab);
    engine_open(lab); /* and still does */
    assert_int_equal(info_of(lab).state, OR_DOMAIN_REWIND);
    reset(lab, 2);
    assert_reads(lab->volumes[0], 0, PAGE, 3);
    put(lab->volumes[0], 0, PAGE, 4);
    checkpoint(lab);
    assert_int_equal(info_of(lab).committed, 4);
    lab_close(lab);
}

static void a_torn_entry_does_not_count(void **state)
{
    (void)state;
    for (uint32_t page = 0; page < 4; page++) {
        struct lab *lab = lab_open();
        struct wait w;
        lab->lowers[0].manual = true;
        put(lab->volumes[0], 0, 3 * PAGE, 1);
        commit(lab, &w, 1, cut(lab, 1));
        put(lab->volumes[0], 0, 3 * PAGE, 2);
        commit(lab, &w, 1, cut(lab, 1));
        lab->journal.memory[(2 + 4 + page) * PAGE + 40] ^= 1; /* behind the superblocks and the first entry */
        lab->lowers[0].manual = false;
        lose(lab);
        assert_int_equal(info_of(lab).committed, 1);
        assert_filled(lab->lowers[0].memory, 3 * PAGE, 1);
        lab_close(lab);
    }
}

static void a_torn_superblock_leaves_the_one_before(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    put(lab->volumes[0], 0, PAGE, 1);
    checkpoint(lab);
    put(lab->volumes[0], 0, PAGE, 2);
    checkpoint(lab); /* superblocks: 1 formatted, 2 and 3 applied; the last is in page 1 */
    lab->journal.memory[PAGE + 50] ^= 1;
    lose(lab);
    assert_int_equal(info_of(lab).committed, 2);
    assert_filled(lab->lowers[0].memory, PAGE, 2);
    lab_close(lab);
}

static void a_fence_outlives_the_machine_and_an_aborted_epoch_does_not_come_back(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct wait w, f;
    put(lab->volumes[0], 0, PAGE, 1);
    lab->journal.manual = true;
    commit(lab, &w, 1, cut(lab, 1));
    lower_end(&lab->journal);
    lower_end(&lab->journal);
    lab->journal.manual = false;
    struct or_io *sync = OR_CONTAINER(lab->journal.waiting.next, struct or_io, link);
    or_list_remove(&sync->link); /* the entry is all there, but the sync says no */
    sync->status = OR_EIO;
    or_volume_complete(sync);
    assert_int_equal(w.err, -EIO);
    restart(lab);
    assert_int_equal(info_of(lab).committed, 1);
    put(lab->volumes[0], 0, PAGE, 2);
    lab->journal.write_status = OR_EIO; /* this one is written, though an error is told */
    memset(data, 0, PAGE);
    cut(lab, 1);
    commit(lab, &w, 1, 2);
    assert_int_equal(w.err, -EIO);
    lab->journal.write_status = OR_OK;
    assert_int_equal(fence(lab, &f, 5), 0);
    assert_int_equal(f.committed, 1);
    assert_int_equal(or_domain_abort(lab->domain), 0);
    lose(lab);
    assert_int_equal(info_of(lab).generation, 5);
    assert_int_equal(info_of(lab).committed, 1);
    int err;
    assert_null(or_domain_attach(lab->domain, 1, 6, &err));
    assert_int_equal(err, -ESTALE);
    struct or_volume *late = or_domain_attach(lab->domain, 1, 1, &err);
    assert_int_equal(run(late, OR_OP_FLUSH, 0, 0, 0, NULL), OR_EFENCED);
    lab_close(lab);
}

static void an_entry_of_before_the_fence_does_not_count_after_it(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct wait w, f;
    put(lab->volumes[0], 0, PAGE, 1);
    cut(lab, 1);
    lab->lowers[0].manual = true;
    commit(lab, &w, 1, 1);
    uint8_t *entry = malloc(2 * PAGE); /* epoch 1, complete */
    memcpy(entry, lab->journal.memory + 2 * PAGE, 2 * PAGE);
    lab_close(lab);

    lab = lab_open();
    assert_int_equal(fence(lab, &f, 2), 0);
    memcpy(lab->journal.memory + 2 * PAGE, entry, 2 * PAGE); /* as a write that was under way and told to have failed */
    lose(lab);
    assert_int_equal(info_of(lab).committed, 0);
    free(entry);
    lab_close(lab);
}

static void what_is_no_journal_of_the_domain_is_refused(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    put(lab->volumes[0], 0, PAGE, 1);
    engine_kill(lab);
    uint8_t *copy = malloc(JOURNAL_BYTES);
    memcpy(copy, lab->journal.memory, JOURNAL_BYTES);
    memset(lab->journal.memory, 0, JOURNAL_BYTES); /* the region knows better */
    engine_open(lab);
    assert_int_equal(lab->opened, -EBADMSG);
    assert_int_equal(info_of(lab).state, OR_DOMAIN_UNUSABLE);
    engine_kill(lab);
    memset(lab->journal.memory, 3, JOURNAL_BYTES);
    engine_open(lab);
    assert_int_equal(lab->opened, -EBADMSG);
    engine_kill(lab);
    memcpy(lab->journal.memory, copy, JOURNAL_BYTES);
    engine_open(lab);
    assert_int_equal(lab->opened, 0);
    attach(lab, 1);
    assert_reads(lab->volumes[0], 0, PAGE, 1);
    free(copy);
    lab_close(lab);
}

/* The region has slots of more than it may hold from now on; the table of their entry is as large as it was. */
static void a_domain_may_be_opened_with_less_when_part_of_an_epoch_is_freed(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    engine_kill(lab);
    free(lab->region);
    free(lab->lowers[0].memory);
    free(lab->journal.memory);
    lab->region_bytes = or_hold_bytes(400);
    lab->region = aligned_alloc(PAGE, lab->region_bytes);
    memset(lab->region, 0, lab->region_bytes);
    lower_init(&lab->lowers[0], 4 * LOWER_BYTES);
    lower_init(&lab->journal, 4 * JOURNAL_BYTES);
    lab->bytes_max = 400 * PAGE;
    engine_open(lab);
    attach(lab, 1);
    struct lower *l = &lab->lowers[0];
    struct wait w;
    put(lab->volumes[0], 0, 200 * PAGE, 1);
    put(lab->volumes[0], 200 * PAGE, 200 * PAGE, 1);
    l->manual = true;
    commit(lab, &w, 1, cut(lab, 1));
    assert_int_equal(w.err, 0);
    while (info_of(lab).bytes > 100 * PAGE)
        assert_true(lower_end(l));
    l->manual = false;
    engine_kill(lab);
    lab->bytes_max = 100 * PAGE;
    engine_open(lab);
    assert_int_equal(lab->opened, 0);
    assert_int_equal(info_of(lab).committed, 1);
    poll_later(lab);
    assert_int_equal(info_of(lab).applied, 1);
    assert_filled(l->memory, 400 * PAGE, 1);
    lab_close(lab);
}

static void a_damaged_slot_makes_the_domain_want_a_rewind(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    put(lab->volumes[0], 0, PAGE, 1);
    checkpoint(lab);
    put(lab->volumes[0], 0, SLOTS / 2 * PAGE, 2);
    engine_kill(lab);
    lab->region[lab->region_bytes - SLOTS * PAGE + 10 * PAGE] ^= 1;
    engine_open(lab);
    assert_int_equal(lab->opened, 0);
    assert_int_equal(info_of(lab).state, OR_DOMAIN_REWIND);
    assert_int_equal(info_of(lab).bytes, 0);
    struct or_hold_info hold;
    or_hold_read_info(lab->hold, &hold);
    assert_int_equal(hold.bytes, hold.bytes_free);
    lab_close(lab);
}

static void assert_exposed(const struct lab *lab, bool exposed, bool uncovered)
{
    assert_int_equal(info_of(lab).exposed, exposed);
    assert_int_equal(info_of(lab).uncovered, uncovered);
}

static void that_more_is_out_than_a_checkpoint_has_outlives_the_engine(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct wait w;
    assert_exposed(lab, false, false);
    put(lab->volumes[0], 0, PAGE, 1);
    or_domain_expose(lab->domain);
    checkpoint(lab); /* which is none */
    restart(lab);
    assert_exposed(lab, true, true);
    uint64_t epoch = cut(lab, 1);
    or_domain_cover(lab->domain, epoch);
    cut(lab, 1);
    or_domain_cover(lab->domain, epoch + 1); /* the first one is enough */
    restart(lab);
    assert_exposed(lab, true, false);
    commit(lab, &w, 1, epoch);
    assert_int_equal(w.err, 0);
    assert_exposed(lab, false, false);
    engine_kill(lab);
    lab->journal.manual = true;
    engine_open(lab);
    assert_int_equal(info_of(lab).state, OR_DOMAIN_OPENING);
    assert_exposed(lab, false, false);
    lab->journal.manual = false;
    lower_end_all(&lab->journal);
    assert_int_equal(lab->opened, 0);
    assert_exposed(lab, false, false);
    or_domain_expose(lab->domain);
    lose(lab);
    assert_int_equal(info_of(lab).state, OR_DOMAIN_REWIND);
    assert_exposed(lab, false, false);
    lab_close(lab);
}

static void a_checkpoint_after_an_abort_knows_what_is_out(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct wait f;
    or_domain_expose(lab->domain);
    assert_int_equal(cut(lab, 1), 1); /* not for a checkpoint */
    assert_int_equal(cut(lab, 1), 2);
    or_domain_cover(lab->domain, 2);
    assert_int_equal(fence(lab, &f, 2), 0);
    assert_int_equal(or_domain_abort(lab->domain), 0);
    assert_exposed(lab, true, false);
    uint64_t epoch = cut(lab, 2);
    assert_int_equal(epoch, 1);
    or_domain_cover(lab->domain, epoch);
    struct wait w;
    commit(lab, &w, 2, epoch);
    assert_int_equal(w.err, 0);
    assert_exposed(lab, false, false);
    lab_close(lab);
}

static void a_domain_that_is_removed_leaves_nothing(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    put(lab->volumes[0], 0, PAGE, 1);
    assert_int_equal(send(lab, 1, 60, 1), 0);
    or_domain_remove(lab->domain);
    struct or_hold_info hold;
    or_hold_read_info(lab->hold, &hold);
    assert_int_equal(hold.bytes, hold.bytes_free);
    or_hold_destroy(lab->hold);
    memset(lab->journal.memory, 0, JOURNAL_BYTES);
    engine_open(lab);
    assert_int_equal(lab->opened, 0);
    assert_int_equal(info_of(lab).state, OR_DOMAIN_RUNNING);
    lab_close(lab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(held_writes_and_packets_outlive_the_engine),
        cmocka_unit_test(a_committed_epoch_is_released_and_applied_by_the_next_engine),
        cmocka_unit_test(an_epoch_of_which_a_part_is_freed_is_found_whole),
        cmocka_unit_test(a_domain_may_be_opened_with_less_when_part_of_an_epoch_is_freed),
        cmocka_unit_test(an_epoch_of_which_all_is_freed_is_not_one_that_held_nothing),
        cmocka_unit_test(an_entry_that_is_complete_counts_though_nobody_was_told),
        cmocka_unit_test(without_the_region_the_journal_is_applied_and_the_domain_wants_a_rewind),
        cmocka_unit_test(a_torn_entry_does_not_count),
        cmocka_unit_test(a_torn_superblock_leaves_the_one_before),
        cmocka_unit_test(a_fence_outlives_the_machine_and_an_aborted_epoch_does_not_come_back),
        cmocka_unit_test(an_entry_of_before_the_fence_does_not_count_after_it),
        cmocka_unit_test(what_is_no_journal_of_the_domain_is_refused),
        cmocka_unit_test(a_damaged_slot_makes_the_domain_want_a_rewind),
        cmocka_unit_test(that_more_is_out_than_a_checkpoint_has_outlives_the_engine),
        cmocka_unit_test(a_checkpoint_after_an_abort_knows_what_is_out),
        cmocka_unit_test(a_domain_that_is_removed_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
