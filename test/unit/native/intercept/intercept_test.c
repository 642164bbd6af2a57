#include "intercept_fixture.h"

static uint8_t data[LOWER_BYTES];

static void a_write_ends_at_once_and_is_read_but_reaches_the_volume_only_when_committed(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct or_volume *v = lab->volumes[0];
    put(v, 512, 3 * PAGE, 5);
    assert_int_equal(run(v, OR_OP_FLUSH, 0, 0, 0, NULL), OR_OK);
    assert_reads(v, 512, 3 * PAGE, 5);
    assert_reads(v, 0, 512, 0);
    assert_int_equal(lab->lowers[0].writes + lab->lowers[0].flushes, 0);
    checkpoint(lab);
    assert_filled(lab->lowers[0].memory + 512, 3 * PAGE, 5);
    assert_int_equal(info_of(lab).applied, 1);
    assert_int_equal(info_of(lab).bytes, 0);
    assert_reads(v, 512, 3 * PAGE, 5);
    lab_close(lab);
}

static void a_read_sees_sectors_of_several_epochs_over_what_is_below(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct or_volume *v = lab->volumes[0];
    memset(lab->lowers[0].memory, 9, LOWER_BYTES);
    put(v, 0, 1024, 1);
    cut(lab, 1);
    put(v, 512, 1024, 2);
    cut(lab, 1);
    put(v, 2048, 512, 3);
    assert_reads(v, 0, 512, 1);
    assert_reads(v, 512, 1024, 2);
    assert_int_equal(lab->lowers[0].reads, 0);
    assert_int_equal(run(v, OR_OP_READ, 0, 0, 2 * PAGE, data), OR_OK);
    assert_int_equal(lab->lowers[0].reads, 1);
    assert_filled(data, 512, 1);
    assert_filled(data + 512, 1024, 2);
    assert_filled(data + 1536, 512, 9);
    assert_filled(data + 2048, 512, 3);
    assert_filled(data + 2560, 2 * PAGE - 2560, 9);
    lab_close(lab);
}

static void zeroes_are_held_without_a_page_and_can_be_written_over(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct or_volume *v = lab->volumes[1];
    memset(lab->lowers[1].memory, 9, LOWER_BYTES);
    put(v, PAGE, PAGE, 4);
    assert_int_equal(run(v, OR_OP_WRITE_ZEROES, 0, 512, 4 * PAGE, NULL), OR_OK);
    put(v, 2 * PAGE + 512, 512, 6);
    checkpoint(lab);
    const uint8_t *m = lab->lowers[1].memory;
    assert_filled(m, 512, 9);
    assert_filled(m + 512, 2 * PAGE, 0);
    assert_filled(m + 2 * PAGE + 512, 512, 6);
    assert_filled(m + 2 * PAGE + 1024, 2 * PAGE - 512, 0);
    assert_filled(m + 4 * PAGE + 512, PAGE, 9);
    lab_close(lab);
}

static void a_commit_is_one_sync_then_packets_go_out_then_volumes_are_written(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct lower *j = &lab->journal;
    struct wait w;
    lab->lowers[0].manual = j->manual = true;
    put(lab->volumes[0], 0, 2 * PAGE, 1);
    assert_int_equal(send(lab, 1, 100, 7), 0);
    uint32_t syncs = j->flushes;
    commit(lab, &w, 1, cut(lab, 1));
    lower_end(j);
    lower_end(j); /* the header, the pages */
    assert_int_equal(j->flushes, syncs + 1);
    assert_int_equal(lab->outs, 0);
    assert_true(or_list_empty(&lab->lowers[0].waiting));
    assert_int_equal(w.err, UNDER_WAY);
    lower_end(j);
    assert_int_equal(w.err, 0);
    assert_int_equal(lab->outs, 1);
    assert_false(or_list_empty(&lab->lowers[0].waiting));
    assert_int_equal(info_of(lab).committed, 1);
    assert_int_equal(info_of(lab).applied, 0);
    lower_end_all(&lab->lowers[0]);
    lower_end_all(j); /* the superblock */
    assert_int_equal(info_of(lab).applied, 1);
    lab_close(lab);
}

static void a_commit_takes_all_older_epochs_with_it_in_order(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct wait w;
    for (uint8_t n = 1; n <= 5; n++) {
        put(lab->volumes[0], 0, 512, n);
        put(lab->volumes[0], n * PAGE, PAGE, n);
        assert_int_equal(send(lab, 1, 3000, n), 0);
        assert_int_equal(send(lab, 1, OR_DOMAIN_PACKET_MAX / 8, (uint8_t)(n + 100)), 0);
        assert_int_equal(cut(lab, 1), n);
    }
    uint32_t syncs = lab->journal.flushes;
    lab->lowers[0].manual = true;
    commit(lab, &w, 1, 4);
    assert_int_equal(w.err, 0);
    assert_int_equal(lab->journal.flushes, syncs + 1);
    assert_int_equal(lab->outs, 8);
    for (uint8_t n = 1; n <= 4; n++) {
        assert_int_equal(lab->out[2 * n - 2].first, n);
        assert_int_equal(lab->out[2 * n - 1].first, n + 100);
    }
    lower_end_all(&lab->lowers[0]);
    assert_filled(lab->lowers[0].memory, 512, 4);
    assert_filled(lab->lowers[0].memory + 5 * PAGE, PAGE, 0);
    commit(lab, &w, 1, 6);
    assert_int_equal(w.err, -EINVAL);
    lab_close(lab);
}

static void what_a_read_will_lay_over_is_not_freed_under_it(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct lower *l = &lab->lowers[0];
    struct op op;
    put(lab->volumes[0], 0, 512, 1);
    l->manual = true;
    submit(lab->volumes[0], &op, OR_OP_READ, 0, 0, PAGE, data);
    struct or_io *below = OR_CONTAINER(l->waiting.next, struct or_io, link);
    or_list_remove(&below->link); /* has read the old bytes, and is slow to say so */
    l->manual = false;
    checkpoint(lab);
    assert_filled(l->memory, 512, 1);
    assert_int_equal(info_of(lab).bytes, PAGE);
    memset(below->data, 0, below->length);
    or_volume_complete(below);
    assert_true(op.done);
    assert_filled(data, 512, 1);
    assert_int_equal(info_of(lab).bytes, 0);
    lab_close(lab);
}

static void what_finds_no_room_waits_until_older_epochs_are_applied(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct op op;
    put(lab->volumes[0], 0, 90 * PAGE, 1);
    memset(data, 2, 10 * PAGE);
    submit(lab->volumes[0], &op, OR_OP_WRITE, 0, 100 * PAGE, 10 * PAGE, data);
    assert_false(op.done);
    assert_int_equal(send(lab, 1, 100, 1), -EAGAIN);
    assert_int_equal(lab->overflows, 1);
    assert_int_equal(info_of(lab).waiting, 1);
    checkpoint(lab); /* the first six blocks are in this one */
    assert_true(op.done);
    assert_reads(lab->volumes[0], 100 * PAGE, 10 * PAGE, 2);
    checkpoint(lab);
    assert_filled(lab->lowers[0].memory + 100 * PAGE, 10 * PAGE, 2);
    lab_close(lab);
}

/* Of an epoch that is all that the domain may hold. What is below meanwhile is of no one epoch. */
static void room_comes_back_before_a_whole_epoch_is_applied_to_who_waited_first(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct lower *l = &lab->lowers[0];
    struct wait w;
    struct op first, second;
    put(lab->volumes[0], 0, 96 * PAGE, 1);
    memset(data, 2, 8 * PAGE);
    submit(lab->volumes[0], &first, OR_OP_WRITE, 0, 120 * PAGE, 4 * PAGE, data);
    submit(lab->volumes[0], &second, OR_OP_WRITE, 0, 100 * PAGE, 8 * PAGE, data);
    l->manual = true;
    commit(lab, &w, 1, cut(lab, 1));
    assert_int_equal(w.err, 0);
    while (!first.done)
        assert_true(lower_end(l));
    assert_int_equal(l->flushes, 1);
    assert_false(second.done);
    while (!second.done)
        assert_true(lower_end(l));
    assert_int_equal(l->flushes, 2);
    assert_int_equal(info_of(lab).applied, 0);
    assert_filled(l->memory, PAGE, 1);
    assert_filled(l->memory + 48 * PAGE, 48 * PAGE, 0);
    l->manual = false;
    lower_end_all(l);
    assert_int_equal(info_of(lab).applied, 1);
    assert_int_equal(info_of(lab).bytes, 12 * PAGE);
    assert_filled(l->memory, 96 * PAGE, 1);
    checkpoint(lab);
    assert_filled(l->memory + 120 * PAGE, 4 * PAGE, 2);
    assert_filled(l->memory + 100 * PAGE, 8 * PAGE, 2);
    lab_close(lab);
}

static void what_a_failed_flush_may_have_lost_is_not_freed(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct lower *l = &lab->lowers[0];
    struct wait w;
    put(lab->volumes[0], 0, 96 * PAGE, 1);
    l->manual = true;
    commit(lab, &w, 1, cut(lab, 1));
    while (l->flushes < 2)
        assert_true(lower_end(l));
    uint64_t held = info_of(lab).bytes;
    assert_in_range(held, PAGE, 95 * PAGE); /* without the first part */
    l->manual = false;
    l->flush_status = OR_EIO;
    lower_end_all(l);
    assert_int_equal(lab->troubles[OR_TROUBLE_APPLY], 1);
    assert_int_equal(info_of(lab).bytes, held);
    memset(l->memory + 96 * PAGE - held, 0, held);
    assert_reads(lab->volumes[0], 0, 96 * PAGE, 1);
    l->flush_status = OR_OK;
    poll_later(lab);
    assert_int_equal(info_of(lab).applied, 1);
    assert_filled(l->memory, 96 * PAGE, 1);
    lab_close(lab);
}

static void packets_wait_while_there_is_no_room_outside(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    assert_int_equal(send(lab, 1, 60, 1), 0);
    assert_int_equal(send(lab, 1, OR_DOMAIN_PACKET_MAX, 2), 0);
    lab->out_full = true;
    checkpoint(lab);
    assert_int_equal(lab->outs, 0);
    lab->out_full = false;
    poll_later(lab);
    assert_int_equal(lab->outs, 2);
    assert_int_equal(lab->out[1].length, OR_DOMAIN_PACKET_MAX);
    assert_int_equal(info_of(lab).bytes, 0);
    assert_int_equal(send(lab, 1, 0, 1), -EINVAL);
    assert_int_equal(send(lab, 1, OR_DOMAIN_PACKET_MAX + 1, 1), -EINVAL);
    lab_close(lab);
}

static void a_fence_refuses_all_of_the_old_generation_and_lets_an_abort_drop_it(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct wait w, late;
    struct op waiting;
    put(lab->volumes[0], 0, PAGE, 1);
    checkpoint(lab);
    put(lab->volumes[0], 0, PAGE, 2);
    cut(lab, 1);
    put(lab->volumes[0], 0, PAGE, 3);
    put(lab->volumes[1], 0, 94 * PAGE, 3);
    submit(lab->volumes[0], &waiting, OR_OP_WRITE, 0, PAGE, PAGE, data);
    assert_false(waiting.done);
    assert_int_equal(or_domain_abort(lab->domain), -EBUSY);
    assert_int_equal(fence(lab, &w, 1), -ESTALE);
    assert_int_equal(fence(lab, &w, 2), 0);
    assert_int_equal(w.err, 0);
    assert_int_equal(w.committed, 1);
    assert_true(waiting.done);
    assert_int_equal(waiting.io.status, OR_EFENCED);
    assert_int_equal(run(lab->volumes[0], OR_OP_WRITE, 0, 0, PAGE, data), OR_EFENCED);
    assert_int_equal(run(lab->volumes[0], OR_OP_READ, 0, 0, PAGE, data), OR_EFENCED);
    assert_int_equal(send(lab, 1, 60, 1), -ESTALE);
    uint64_t epoch;
    assert_int_equal(or_domain_cut(lab->domain, 1, &epoch), -ESTALE);
    commit(lab, &late, 1, 2);
    assert_int_equal(late.err, -ESTALE);
    assert_int_equal(or_domain_abort(lab->domain), 0);
    assert_int_equal(info_of(lab).bytes, 0);
    assert_int_equal(info_of(lab).open, 2);
    attach(lab, 2);
    assert_reads(lab->volumes[0], 0, PAGE, 1);
    assert_int_equal(or_domain_abort(lab->domain), -EBUSY);
    put(lab->volumes[0], 0, PAGE, 4);
    checkpoint(lab);
    assert_filled(lab->lowers[0].memory, PAGE, 4);
    lab_close(lab);
}

static void a_fence_waits_for_reads_and_for_the_epoch_at_the_journal(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct wait first, second, f;
    struct op op;
    put(lab->volumes[0], 0, PAGE, 1);
    cut(lab, 1);
    cut(lab, 1);
    lab->journal.manual = lab->lowers[0].manual = true;
    submit(lab->volumes[0], &op, OR_OP_READ, 0, PAGE, PAGE, data);
    commit(lab, &first, 1, 1);
    commit(lab, &second, 1, 2);
    assert_int_equal(fence(lab, &f, 2), 0);
    assert_int_equal(second.err, -ESTALE);
    lower_end_all(&lab->journal);
    assert_int_equal(first.err, 0);
    assert_int_equal(f.err, UNDER_WAY);
    lower_end(&lab->lowers[0]);
    assert_true(op.done);
    lower_end_all(&lab->journal);
    assert_int_equal(f.err, 0);
    assert_int_equal(f.committed, 1);
    lower_end_all(&lab->lowers[0]);
    lower_end_all(&lab->journal);
    lab_close(lab);
}

/* What it takes would be at the journal when the abort drops it. */
static void a_commit_during_a_fence_is_refused(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct wait old, present, f;
    struct op op;
    put(lab->volumes[0], 0, PAGE, 1);
    cut(lab, 1);
    lab->journal.manual = lab->lowers[0].manual = true;
    submit(lab->volumes[0], &op, OR_OP_READ, 0, PAGE, PAGE, data);
    assert_int_equal(fence(lab, &f, 2), 0);
    assert_true(info_of(lab).fencing);
    commit(lab, &old, 1, 1);
    assert_int_equal(old.err, -ESTALE);
    commit(lab, &present, 2, 1);
    assert_int_equal(present.err, -EAGAIN);
    lower_end(&lab->lowers[0]);
    while (f.err == UNDER_WAY)
        assert_true(lower_end(&lab->journal));
    assert_int_equal(f.err, 0);
    assert_int_equal(f.committed, 0);
    assert_false(info_of(lab).fencing);
    assert_int_equal(or_domain_abort(lab->domain), 0);
    lab->journal.manual = lab->lowers[0].manual = false;
    lower_end_all(&lab->journal);
    assert_int_equal(info_of(lab).committed, 0);
    assert_int_equal(info_of(lab).open, 1);
    lab->journal.write_status = OR_EIO;
    assert_int_equal(fence(lab, &f, 3), 0);
    assert_int_equal(f.err, -EIO);
    commit(lab, &present, 3, 0);
    assert_int_equal(present.err, -EAGAIN); /* until one has ended well */
    lab->journal.write_status = OR_OK;
    assert_int_equal(fence(lab, &f, 3), 0);
    attach(lab, 3);
    put(lab->volumes[0], 0, PAGE, 3);
    checkpoint(lab);
    assert_filled(lab->lowers[0].memory, PAGE, 3);
    lab_close(lab);
}

/* It has ended by then. */
static void a_write_that_waited_for_the_fence_is_not_aborted(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct wait f;
    struct op read, write;
    lab->lowers[0].manual = true;
    submit(lab->volumes[0], &read, OR_OP_READ, 0, 0, PAGE, data);
    assert_int_equal(fence(lab, &f, 2), 0);
    attach(lab, 2);
    memset(data + PAGE, 9, PAGE);
    submit(lab->volumes[0], &write, OR_OP_WRITE, 0, PAGE, PAGE, data + PAGE);
    assert_false(write.done);
    lower_end(&lab->lowers[0]);
    assert_int_equal(f.err, 0);
    assert_true(write.done);
    assert_int_equal(write.io.status, OR_OK);
    assert_int_equal(or_domain_abort(lab->domain), -EBUSY);
    assert_reads(lab->volumes[0], PAGE, PAGE, 9);
    lab_close(lab);
}

static void a_journal_that_cannot_be_written_fails_the_commit_which_may_be_tried_again(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct wait w;
    put(lab->volumes[0], 0, PAGE, 1);
    assert_int_equal(send(lab, 1, 60, 1), 0);
    cut(lab, 1);
    lab->journal.write_status = OR_EIO;
    commit(lab, &w, 1, 1);
    assert_int_equal(w.err, -EIO);
    assert_int_equal(lab->troubles[OR_TROUBLE_JOURNAL], 1);
    assert_int_equal(lab->outs, 0);
    lab->journal.write_status = OR_OK;
    commit(lab, &w, 1, 1);
    assert_int_equal(w.err, 0);
    assert_int_equal(lab->outs, 1);
    lab_close(lab);
}

static void a_sync_that_fails_condemns_the_journal_until_it_is_opened_anew(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct wait w;
    put(lab->volumes[0], 0, PAGE, 1);
    cut(lab, 1);
    lab->journal.flush_status = OR_EIO;
    commit(lab, &w, 1, 1);
    assert_int_equal(w.err, -EIO);
    assert_int_equal(lab->troubles[OR_TROUBLE_CONDEMNED], 1);
    lab->journal.flush_status = OR_OK;
    commit(lab, &w, 1, 1);
    assert_int_equal(w.err, -EIO);
    assert_reads(lab->volumes[0], 0, PAGE, 1);
    uint32_t writes = lab->journal.writes;
    engine_kill(lab);
    engine_open(lab);
    assert_int_equal(lab->opened, 0);
    attach(lab, 1);
    assert_int_equal(info_of(lab).committed, 1); /* it was all there to be read, and is written and synced again: */
    assert_int_equal(lab->journal.writes, writes + 4); /* the superblock, the entry; and a superblock: applied */
    lab_close(lab);
}

static void a_journal_never_has_two_syncs_under_way_and_one_that_fails_is_told_to_all(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct lower *j = &lab->journal;
    struct wait w;
    put(lab->volumes[0], 0, PAGE, 1);
    lab->lowers[0].manual = true;
    checkpoint(lab);
    put(lab->volumes[0], 0, PAGE, 2);
    j->manual = true;
    lower_end_all(&lab->lowers[0]);
    lower_end(j); /* the superblock is written, and is being synced */
    uint32_t syncs = j->flushes;
    struct or_io *sync = OR_CONTAINER(j->waiting.next, struct or_io, link);
    assert_int_equal(sync->op, OR_OP_FLUSH);
    or_list_remove(&sync->link);
    commit(lab, &w, 1, cut(lab, 1));
    lower_end_all(j);
    assert_int_equal(j->flushes, syncs);
    assert_int_equal(w.err, UNDER_WAY);
    sync->status = OR_EIO;
    or_volume_complete(sync);
    assert_int_equal(w.err, -EIO);
    assert_int_equal(info_of(lab).committed, 1);
    assert_int_equal(lab->troubles[OR_TROUBLE_CONDEMNED], 1);
    lab_close(lab);
}

static void an_apply_that_fails_is_tried_again_and_what_it_shall_hold_stays_readable(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    put(lab->volumes[0], 0, PAGE, 1);
    lab->lowers[0].flush_status = OR_EIO;
    checkpoint(lab);
    assert_int_equal(lab->troubles[OR_TROUBLE_APPLY], 1);
    assert_int_equal(info_of(lab).applied, 0);
    memset(lab->lowers[0].memory, 0, PAGE); /* what a failed flush may do */
    assert_reads(lab->volumes[0], 0, PAGE, 1);
    lab->lowers[0].flush_status = OR_OK;
    poll_later(lab);
    assert_int_equal(info_of(lab).applied, 1);
    assert_filled(lab->lowers[0].memory, PAGE, 1);
    lab_close(lab);
}

static void a_full_ring_waits_until_older_epochs_are_applied(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct wait w[3];
    lab->lowers[0].manual = true;
    for (uint64_t n = 0; n < 40; n++) { /* several times round */
        for (uint32_t i = 0; i < 3; i++) {
            put(lab->volumes[0], 0, 30 * PAGE, (uint8_t)(n + i));
            commit(lab, &w[i], 1, cut(lab, 1));
        }
        for (uint32_t round = 0; round < 20; round++)
            lower_end_all(&lab->lowers[0]);
        for (uint32_t i = 0; i < 3; i++)
            assert_int_equal(w[i].err, 0);
        assert_filled(lab->lowers[0].memory, 30 * PAGE, (uint8_t)(n + 2));
    }
    lab_close(lab);
}

static void a_domain_must_fit_its_journal(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct or_domain_config config = {
        .id = 12, .bytes_max = JOURNAL_BYTES, .journal = &lab->journal.volume, .journal_id = 1, .packet = on_packet};
    int err;
    assert_null(or_domain_open(lab->hold, &config, &err));
    assert_int_equal(err, -EFBIG);
    config.bytes_max = OR_DOMAIN_BYTES_MIN;
    config.id = 11;
    assert_null(or_domain_open(lab->hold, &config, &err));
    assert_int_equal(err, -EEXIST);
    assert_int_equal(or_domain_add_volume(lab->domain, 1, &lab->lowers[0].volume), -EEXIST);
    assert_null(or_domain_attach(lab->domain, 5, 1, &err));
    assert_int_equal(err, -ENOENT);
    assert_null(or_domain_attach(lab->domain, 1, 2, &err));
    assert_int_equal(err, -ESTALE);
    lab_close(lab);
}

static void epochs_that_nobody_commits_are_bounded(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    uint64_t epoch;
    for (uint32_t n = 1; n < OR_DOMAIN_EPOCHS; n++)
        assert_int_equal(cut(lab, 1), n);
    assert_int_equal(or_domain_cut(lab->domain, 1, &epoch), -EAGAIN);
    struct wait w;
    commit(lab, &w, 1, 1);
    assert_int_equal(w.err, 0);
    assert_int_equal(cut(lab, 1), OR_DOMAIN_EPOCHS);
    lab_close(lab);
}

/* The journal waits, so a commit that needs it does not end. */
static void an_epoch_that_holds_nothing_is_committed_without_the_journal(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct wait w;
    put(lab->volumes[0], 0, PAGE, 1);
    checkpoint(lab);
    poll_later(lab);
    lab->journal.manual = true;
    for (uint32_t n = 0; n < OR_DOMAIN_EMPTY; n++)
        checkpoint(lab);
    assert_true(or_list_empty(&lab->journal.waiting));
    assert_int_equal(info_of(lab).applied, 1 + OR_DOMAIN_EMPTY);
    commit(lab, &w, 1, cut(lab, 1)); /* once in a while all the same */
    assert_int_equal(w.err, UNDER_WAY);
    while (w.err == UNDER_WAY)
        assert_true(lower_end(&lab->journal));
    lower_end_all(&lab->journal);
    assert_int_equal(send(lab, 1, 60, 7), 0);
    commit(lab, &w, 1, cut(lab, 1));
    assert_int_equal(w.err, UNDER_WAY);
    assert_int_equal(lab->outs, 0); /* a packet needs it */
    while (w.err == UNDER_WAY)
        assert_true(lower_end(&lab->journal));
    assert_int_equal(lab->outs, 1);
    lab_close(lab);
}

/* Two epochs of two blocks each are committed while the lower volume is slow; a pause finds one of them half there. */
static void applying_pauses_at_the_boundary_of_an_epoch(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    struct wait w[2];
    lab->lowers[0].manual = true;
    for (uint8_t n = 0; n < 2; n++) {
        put(lab->volumes[0], 0, PAGE, (uint8_t)(1 + n));
        put(lab->volumes[0], 8 * PAGE, PAGE, (uint8_t)(1 + n));
        commit(lab, &w[n], 1, cut(lab, 1));
    }
    assert_int_equal(w[1].err, 0);
    poll_later(lab);
    assert_true(lower_end(&lab->lowers[0])); /* the first block of the first epoch */
    or_domain_pause(lab->domain);
    assert_int_equal(or_domain_paused(lab->domain), 0);
    while (or_domain_paused(lab->domain) == 0)
        assert_true(lower_end(&lab->lowers[0]));
    lower_end_all(&lab->lowers[0]);
    poll_later(lab);
    assert_int_equal(or_domain_paused(lab->domain), 1);
    assert_filled(lab->lowers[0].memory, PAGE, lab->lowers[0].memory[8 * PAGE]);
    uint8_t at = lab->lowers[0].memory[0];
    assert_true(at == 1 || at == 2);
    put(lab->volumes[0], 0, PAGE, 3);
    checkpoint(lab);
    poll_later(lab);
    lower_end_all(&lab->lowers[0]);
    assert_int_equal(lab->lowers[0].memory[0], at);
    or_domain_resume(lab->domain);
    for (int n = 0; n < 20; n++) {
        lower_end_all(&lab->lowers[0]);
        poll_later(lab);
    }
    assert_filled(lab->lowers[0].memory, PAGE, 3);
    assert_int_equal(info_of(lab).applied, 3);
    lab_close(lab);
}

/* After a failure all is written again from the first epoch on: meanwhile what is below is of none. */
static void a_pause_while_a_volume_fails_says_so(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    put(lab->volumes[0], 0, PAGE, 1);
    lab->lowers[0].write_status = OR_EIO;
    checkpoint(lab);
    poll_later(lab);
    or_domain_pause(lab->domain);
    assert_int_equal(or_domain_paused(lab->domain), -EIO);
    lab->lowers[0].write_status = OR_OK;
    poll_later(lab);
    assert_int_equal(or_domain_paused(lab->domain), 1);
    or_domain_resume(lab->domain);
    lab_close(lab);
}

static void a_volume_leaves_its_domain_and_comes_back(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    put(lab->volumes[0], 0, PAGE, 1);
    put(lab->volumes[1], 0, PAGE, 2);
    assert_true(or_domain_dirty(lab->domain));
    lab->volumes[0]->ops->close(lab->volumes[0]);
    assert_true(or_domain_may_take(lab->domain, 1));
    or_domain_take_volume(lab->domain, 1);
    checkpoint(lab); /* what is held of it waits for it */
    poll_later(lab);
    assert_int_equal(lab->lowers[0].memory[0], 0);
    assert_int_equal(info_of(lab).applied, 0);
    assert_int_equal(or_domain_add_volume(lab->domain, 1, &lab->lowers[0].volume), 0);
    poll_later(lab);
    assert_int_equal(lab->lowers[0].memory[0], 1);
    assert_int_equal(info_of(lab).applied, 1);
    assert_false(or_domain_dirty(lab->domain));
    lab_close(lab);
}

/* The next engine finds what had ended, and gets once more what had not. */
/* As a snapshot holds it; a takeover beside that brings a new attachment. */
static void an_attachment_made_while_the_volume_is_held_is_not_held(void **state)
{
    (void)state;
    static uint8_t data[PAGE];
    struct lab *lab = lab_open();
    struct or_volume *lower = &lab->lowers[0].volume;
    or_volume_hold(lower);
    int err;
    struct or_volume *door = or_domain_attach(lab->domain, 1, 1, &err);
    assert_non_null(door);
    struct op op;
    submit(door, &op, OR_OP_WRITE, 0, 0, PAGE, data);
    assert_true(op.done);
    assert_true(or_list_empty(&lower->waiting));
    or_volume_release(lower, lower);
    door->ops->close(door);
    lab_close(lab);
}

static void a_domain_that_halts_ends_what_waits_and_begins_nothing(void **state)
{
    (void)state;
    struct lab *lab = lab_open();
    static uint8_t data[PAGE];
    struct op op;
    uint64_t epoch;
    for (uint32_t n = 0; n < 96; n++)
        put(lab->volumes[0], n * PAGE, PAGE, 1);
    submit(lab->volumes[0], &op, OR_OP_WRITE, 0, 96 * PAGE, PAGE, data);
    assert_false(op.done);
    assert_false(or_domain_idle(lab->domain));
    or_domain_halt(lab->domain);
    assert_true(op.done);
    assert_int_equal(op.io.status, OR_EIO);
    assert_true(or_domain_idle(lab->domain));
    assert_int_equal(run(lab->volumes[0], OR_OP_WRITE, 0, 0, PAGE, data), OR_EIO);
    assert_int_equal(or_domain_cut(lab->domain, 1, &epoch), -EIO);
    assert_int_equal(send(lab, 1, 60, 1), -EIO);
    engine_kill(lab);
    engine_open(lab);
    assert_int_equal(lab->opened, 0);
    attach(lab, 1);
    assert_reads(lab->volumes[0], 95 * PAGE, PAGE, 1);
    lab_close(lab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_epoch_that_holds_nothing_is_committed_without_the_journal),
        cmocka_unit_test(applying_pauses_at_the_boundary_of_an_epoch),
        cmocka_unit_test(a_pause_while_a_volume_fails_says_so),
        cmocka_unit_test(a_volume_leaves_its_domain_and_comes_back),
        cmocka_unit_test(an_attachment_made_while_the_volume_is_held_is_not_held),
        cmocka_unit_test(a_domain_that_halts_ends_what_waits_and_begins_nothing),
        cmocka_unit_test(a_write_ends_at_once_and_is_read_but_reaches_the_volume_only_when_committed),
        cmocka_unit_test(a_read_sees_sectors_of_several_epochs_over_what_is_below),
        cmocka_unit_test(zeroes_are_held_without_a_page_and_can_be_written_over),
        cmocka_unit_test(a_commit_is_one_sync_then_packets_go_out_then_volumes_are_written),
        cmocka_unit_test(a_commit_takes_all_older_epochs_with_it_in_order),
        cmocka_unit_test(what_a_read_will_lay_over_is_not_freed_under_it),
        cmocka_unit_test(what_finds_no_room_waits_until_older_epochs_are_applied),
        cmocka_unit_test(room_comes_back_before_a_whole_epoch_is_applied_to_who_waited_first),
        cmocka_unit_test(what_a_failed_flush_may_have_lost_is_not_freed),
        cmocka_unit_test(packets_wait_while_there_is_no_room_outside),
        cmocka_unit_test(a_fence_refuses_all_of_the_old_generation_and_lets_an_abort_drop_it),
        cmocka_unit_test(a_fence_waits_for_reads_and_for_the_epoch_at_the_journal),
        cmocka_unit_test(a_commit_during_a_fence_is_refused),
        cmocka_unit_test(a_write_that_waited_for_the_fence_is_not_aborted),
        cmocka_unit_test(a_journal_that_cannot_be_written_fails_the_commit_which_may_be_tried_again),
        cmocka_unit_test(a_sync_that_fails_condemns_the_journal_until_it_is_opened_anew),
        cmocka_unit_test(a_journal_never_has_two_syncs_under_way_and_one_that_fails_is_told_to_all),
        cmocka_unit_test(an_apply_that_fails_is_tried_again_and_what_it_shall_hold_stays_readable),
        cmocka_unit_test(a_full_ring_waits_until_older_epochs_are_applied),
        cmocka_unit_test(a_domain_must_fit_its_journal),
        cmocka_unit_test(epochs_that_nobody_commits_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
