/* Files and block devices when the storage misbehaves: the kernel's results are changed on their way
 * from the ring (or_uring_set_fault), files shrink, and descriptors are not what they should be. */
#include "volume_fixture.h"

#include <sys/stat.h>

#define CHUNK 65536u

/* What to do to the results: counts every step, and changes those that match. */
struct fault {
    uint32_t steps[OR_FILE_SYNC + 1]; /* seen, by enum or_file_step */
    enum or_file_step step;           /* which to change */
    int32_t result;                   /* into what; a positive one shortens */
    uint32_t times;                   /* how often */
};

static int32_t inject(void *arg, const struct or_io *io, int32_t result)
{
    struct fault *fault = arg;
    fault->steps[io->stage]++;
    if (fault->times == 0 || io->stage != fault->step) {
        return result;
    }
    fault->times--;
    return fault->result > 0 && fault->result > result ? result : fault->result;
}

struct faulty {
    struct fixture *fx;
    struct fault fault;
    uint8_t *out, *in;
};

static struct faulty *faulty_open(enum fixture_kind kind)
{
    struct fixture *fx = fixture_open(kind, 64);
    struct faulty *f = calloc(1, sizeof(*f));
    f->fx = fx;
    f->out = buffer_new(4 * MIB);
    f->in = buffer_new(4 * MIB);
    fill_random(f->out, 4 * MIB);
    or_uring_set_fault(fx->uring, inject, &f->fault);
    return f;
}

static void faulty_close(struct faulty *f)
{
    fixture_close(f->fx);
    free(f->in);
    free(f->out);
    free(f);
}

static void plan(struct faulty *f, enum or_file_step step, int32_t result, uint32_t times)
{
    f->fault = (struct fault){.step = step, .result = result, .times = times};
}

static void errors_end_with_their_status(void **state)
{
    static const struct {
        int32_t error;
        uint8_t status;
    } cases[] = {{-EIO, OR_EIO},    {-ENOSPC, OR_ENOSPACE}, {-EDQUOT, OR_ENOSPACE}, {-EROFS, OR_EREADONLY},
                 {-EINVAL, OR_EIO}, {-ECANCELED, OR_EIO},   {-EOPNOTSUPP, OR_EIO}};
    (void)state;
    struct faulty *f = faulty_open(KIND_DIRECT);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        plan(f, OR_FILE_TRANSFER, cases[i].error, 2);
        assert_int_equal(run(f->fx, OR_OP_READ, 0, 0, CHUNK, f->in), cases[i].status);
        assert_int_equal(run(f->fx, OR_OP_WRITE, 0, 0, CHUNK, f->out), cases[i].status);
        assert_int_equal(run(f->fx, OR_OP_WRITE, 0, 0, CHUNK, f->out), OR_OK);
    }
    plan(f, OR_FILE_PUNCH, -EIO, 1);
    assert_int_equal(run(f->fx, OR_OP_DISCARD, 0, 0, CHUNK, NULL), OR_EIO);
    plan(f, OR_FILE_ZERO_RANGE, -ENOSPC, 1);
    assert_int_equal(run(f->fx, OR_OP_WRITE_ZEROES, 0, 0, CHUNK, NULL), OR_ENOSPACE);
    /* None of these was a sync. */
    assert_int_equal(run(f->fx, OR_OP_FLUSH, 0, 0, 0, NULL), OR_OK);
    faulty_close(f);
}

static void an_error_in_the_middle_fails_the_whole(void **state)
{
    (void)state;
    struct faulty *f = faulty_open(KIND_DIRECT);
    plan(f, OR_FILE_TRANSFER, 4096, 1);
    struct task task;
    task_start(f->fx, &task, OR_OP_WRITE, 0, 0, CHUNK, f->out);
    while (f->fault.times != 0) {
        or_uring_poll(f->fx->uring);
    }
    plan(f, OR_FILE_TRANSFER, -EIO, 1);
    assert_int_equal(task_wait(f->fx, &task), OR_EIO);
    faulty_close(f);
}

static void short_transfers_are_continued(void **state)
{
    (void)state;
    struct faulty *f = faulty_open(KIND_DIRECT);
    const uint32_t length = 3 * MIB;
    for (int write = 1; write >= 0; write--) {
        plan(f, OR_FILE_TRANSFER, 4096, 100);
        assert_int_equal(run(f->fx, write ? OR_OP_WRITE : OR_OP_READ, 0, 512, length, write ? f->out : f->in), OR_OK);
        assert_int_equal(f->fault.steps[OR_FILE_TRANSFER], 101);
    }
    assert_memory_equal(f->in, f->out, length);
    faulty_close(f);
}

static void interrupted_calls_are_made_again(void **state)
{
    static const int32_t errors[] = {-EAGAIN, -EINTR};
    (void)state;
    struct faulty *f = faulty_open(KIND_DIRECT);
    for (size_t i = 0; i < 2; i++) {
        plan(f, OR_FILE_TRANSFER, errors[i], 5);
        assert_int_equal(run(f->fx, OR_OP_WRITE, 0, 0, CHUNK, f->out), OR_OK);
        assert_int_equal(f->fault.steps[OR_FILE_TRANSFER], 6);
        plan(f, OR_FILE_SYNC, errors[i], 3);
        assert_int_equal(run(f->fx, OR_OP_FLUSH, 0, 0, 0, NULL), OR_OK);
        assert_int_equal(f->fault.steps[OR_FILE_SYNC], 4);
        plan(f, OR_FILE_PUNCH, errors[i], 1);
        assert_int_equal(run(f->fx, OR_OP_DISCARD, 0, 0, CHUNK, NULL), OR_OK);
    }
    faulty_close(f);
}

static void a_failed_sync_is_never_reported_good_later(void **state)
{
    static const uint8_t zero_flags = OR_REQ_FUA | OR_REQ_UNMAP;
    (void)state;
    for (enum fixture_kind kind = KIND_DIRECT; kind <= KIND_BUFFERED; kind++) {
        struct faulty *f = faulty_open(kind);
        plan(f, OR_FILE_SYNC, -EIO, 1);
        assert_int_equal(run(f->fx, OR_OP_WRITE, 0, 0, CHUNK, f->out), OR_OK);
        assert_int_equal(run(f->fx, OR_OP_FLUSH, 0, 0, 0, NULL), OR_EIO);
        for (uint32_t again = 0; again < 3; again++) {
            assert_int_equal(run(f->fx, OR_OP_FLUSH, 0, 0, 0, NULL), OR_EIO);
            assert_int_equal(run(f->fx, OR_OP_WRITE, OR_REQ_FUA, 0, CHUNK, f->out), OR_EIO);
            assert_int_equal(run(f->fx, OR_OP_WRITE_ZEROES, zero_flags, 0, CHUNK, NULL), OR_EIO);
        }
        /* Reads and writes that promise nothing go on. */
        assert_int_equal(run(f->fx, OR_OP_WRITE, 0, 0, CHUNK, f->out), OR_OK);
        assert_int_equal(run(f->fx, OR_OP_READ, OR_REQ_FUA, 0, CHUNK, f->in), OR_OK);
        assert_memory_equal(f->in, f->out, CHUNK);
        faulty_close(f);
    }
}

struct heard {
    uint32_t count;
    uint8_t op;
    int error;
    uint64_t offset;
};

static void hear(struct or_volume *volume, const struct or_io *io, int error)
{
    struct heard *heard = volume->owner;
    *heard = (struct heard){heard->count + 1, io->op, error, io->offset};
}

static void the_owner_hears_of_every_error_of_the_storage(void **state)
{
    (void)state;
    struct heard heard = {0};
    struct faulty *f = faulty_open(KIND_BUFFERED);
    f->fx->volume->failed = hear;
    f->fx->volume->owner = &heard;
    plan(f, OR_FILE_TRANSFER, -ENOSPC, 1);
    assert_int_equal(run(f->fx, OR_OP_WRITE, 0, 8192, CHUNK, f->out), OR_ENOSPACE);
    assert_int_equal(heard.count, 1);
    assert_int_equal(heard.op, OR_OP_WRITE);
    assert_int_equal(heard.error, -ENOSPC);
    assert_int_equal(heard.offset, 8192);
    assert_false(f->fx->volume->flush_failed);
    plan(f, OR_FILE_SYNC, -EIO, 1);
    assert_int_equal(run(f->fx, OR_OP_FLUSH, 0, 0, 0, NULL), OR_EIO);
    assert_int_equal(heard.count, 2);
    assert_int_equal(heard.error, -EIO);
    assert_true(f->fx->volume->flush_failed);
    /* What fails from now on because of that is no other error of the storage. */
    assert_int_equal(run(f->fx, OR_OP_FLUSH, 0, 0, 0, NULL), OR_EIO);
    assert_int_equal(heard.count, 2);
    faulty_close(f);
}

static void a_volume_known_to_have_failed_promises_nothing(void **state)
{
    (void)state;
    struct faulty *f = faulty_open(KIND_DIRECT);
    f->fx->volume->flush_failed = true;
    assert_int_equal(run(f->fx, OR_OP_WRITE, 0, 0, CHUNK, f->out), OR_OK);
    assert_int_equal(run(f->fx, OR_OP_FLUSH, 0, 0, 0, NULL), OR_EIO);
    assert_int_equal(run(f->fx, OR_OP_WRITE, OR_REQ_FUA, 0, CHUNK, f->out), OR_EIO);
    faulty_close(f);
}

static void another_volume_is_not_condemned(void **state)
{
    (void)state;
    struct faulty *f = faulty_open(KIND_DIRECT);
    int err;
    int fd = open(f->fx->path, O_RDWR | O_CLOEXEC);
    struct or_volume *condemned = f->fx->volume;
    struct or_volume *other = or_volume_file(f->fx->uring, fd, false, &err);
    assert_non_null(other);
    plan(f, OR_FILE_SYNC, -EIO, 1);
    assert_int_equal(run(f->fx, OR_OP_FLUSH, 0, 0, 0, NULL), OR_EIO);
    f->fx->volume = other;
    assert_int_equal(run(f->fx, OR_OP_FLUSH, 0, 0, 0, NULL), OR_OK);
    f->fx->volume = condemned;
    other->ops->close(other);
    faulty_close(f);
}

static void a_failed_fua_write_condemns_unless_the_disk_was_full(void **state)
{
    (void)state;
    struct faulty *f = faulty_open(KIND_DIRECT);
    assert_true(f->fx->volume->direct);
    plan(f, OR_FILE_TRANSFER, -ENOSPC, 1);
    assert_int_equal(run(f->fx, OR_OP_WRITE, OR_REQ_FUA, 0, CHUNK, f->out), OR_ENOSPACE);
    assert_int_equal(run(f->fx, OR_OP_FLUSH, 0, 0, 0, NULL), OR_OK);
    plan(f, OR_FILE_TRANSFER, -EIO, 1);
    assert_int_equal(run(f->fx, OR_OP_WRITE, OR_REQ_FUA, 0, CHUNK, f->out), OR_EIO);
    assert_int_equal(run(f->fx, OR_OP_FLUSH, 0, 0, 0, NULL), OR_EIO);
    faulty_close(f);
}

static void flushes_share_one_sync_that_began_after_them(void **state)
{
    enum { FLUSHES = 10 };
    struct task tasks[FLUSHES];
    (void)state;
    struct faulty *f = faulty_open(KIND_DIRECT);
    plan(f, OR_FILE_TRANSFER, 0, 0);
    for (uint32_t i = 0; i < FLUSHES; i++) {
        task_start(f->fx, &tasks[i], OR_OP_FLUSH, 0, 0, 0, NULL);
    }
    for (uint32_t i = 0; i < FLUSHES; i++) {
        assert_int_equal(task_wait(f->fx, &tasks[i]), OR_OK);
    }
    assert_int_equal(f->fault.steps[OR_FILE_SYNC], 2);

    /* When the first fails, nobody who waited hears of success. */
    plan(f, OR_FILE_SYNC, -EIO, 1);
    for (uint32_t i = 0; i < FLUSHES; i++) {
        task_start(f->fx, &tasks[i], OR_OP_FLUSH, 0, 0, 0, NULL);
    }
    for (uint32_t i = 0; i < FLUSHES; i++) {
        assert_int_equal(task_wait(f->fx, &tasks[i]), OR_EIO);
    }
    faulty_close(f);
}

/* Fails the transfer, and holds the sync back until that has happened. */
static int32_t fail_transfer_before_sync(void *arg, const struct or_io *io, int32_t result)
{
    bool *failed = arg;
    if (io->stage == OR_FILE_TRANSFER) {
        *failed = true;
        return -EIO;
    }
    return *failed ? result : -EAGAIN;
}

static void a_sync_that_a_failed_fua_write_overtook_is_not_good(void **state)
{
    struct task flush;
    struct task fua;
    bool failed = false;
    (void)state;
    struct faulty *f = faulty_open(KIND_DIRECT);
    or_uring_set_fault(f->fx->uring, fail_transfer_before_sync, &failed);
    task_start(f->fx, &flush, OR_OP_FLUSH, 0, 0, 0, NULL);
    task_start(f->fx, &fua, OR_OP_WRITE, OR_REQ_FUA, 0, CHUNK, f->out);
    assert_int_equal(task_wait(f->fx, &fua), OR_EIO);
    assert_int_equal(task_wait(f->fx, &flush), OR_EIO);
    faulty_close(f);
}

static void fua_is_part_of_a_direct_write_and_a_sync_elsewhere(void **state)
{
    (void)state;
    for (enum fixture_kind kind = KIND_DIRECT; kind <= KIND_BUFFERED; kind++) {
        struct faulty *f = faulty_open(kind);
        assert_int_equal(f->fx->volume->direct, kind == KIND_DIRECT);
        plan(f, OR_FILE_TRANSFER, 0, 0);
        assert_int_equal(run(f->fx, OR_OP_WRITE, OR_REQ_FUA, 0, CHUNK, f->out), OR_OK);
        assert_int_equal(f->fault.steps[OR_FILE_SYNC], kind == KIND_BUFFERED);
        assert_int_equal(run(f->fx, OR_OP_WRITE_ZEROES, OR_REQ_FUA, 0, CHUNK, NULL), OR_OK);
        assert_int_equal(f->fault.steps[OR_FILE_SYNC], 1 + (kind == KIND_BUFFERED));
        assert_int_equal(run(f->fx, OR_OP_WRITE, 0, 0, CHUNK, f->out), OR_OK);
        assert_int_equal(f->fault.steps[OR_FILE_SYNC], 1 + (kind == KIND_BUFFERED));
        faulty_close(f);
    }
}

static void zeroing_falls_back_to_what_the_storage_knows(void **state)
{
    (void)state;
    struct faulty *f = faulty_open(KIND_DIRECT);
    const uint32_t length = 3 * MIB + 512;
    assert_int_equal(run(f->fx, OR_OP_WRITE, 0, 0, 4 * MIB, f->out), OR_OK);
    plan(f, OR_FILE_PUNCH, -EOPNOTSUPP, 1);
    assert_int_equal(run(f->fx, OR_OP_WRITE_ZEROES, OR_REQ_UNMAP, 512, length, NULL), OR_OK);
    assert_int_equal(f->fault.steps[OR_FILE_ZERO_RANGE], 1);

    /* The hook changes results, not the file: what ZERO_RANGE zeroed must be data again. */
    assert_int_equal(run(f->fx, OR_OP_WRITE, 0, 0, 4 * MIB, f->out), OR_OK);
    plan(f, OR_FILE_ZERO_RANGE, -EOPNOTSUPP, 1);
    assert_int_equal(run(f->fx, OR_OP_WRITE_ZEROES, OR_REQ_UNMAP, 512, length, NULL), OR_OK);
    assert_int_equal(f->fault.steps[OR_FILE_PUNCH], 0);

    /* From here on nothing but writing zeroes is tried. */
    assert_int_equal(run(f->fx, OR_OP_WRITE, 0, 0, 4 * MIB, f->out), OR_OK);
    plan(f, OR_FILE_ZERO_WRITE, 4096, 2);
    assert_int_equal(run(f->fx, OR_OP_WRITE_ZEROES, 0, 512, length, NULL), OR_OK);
    assert_int_equal(f->fault.steps[OR_FILE_PUNCH] + f->fault.steps[OR_FILE_ZERO_RANGE], 0);
    assert_true(f->fault.steps[OR_FILE_ZERO_WRITE] > 3);
    assert_int_equal(run(f->fx, OR_OP_READ, 0, 0, 4 * MIB, f->in), OR_OK);
    assert_all_zero(f->in + 512, length);
    memset(f->out + 512, 0, length);
    assert_memory_equal(f->in, f->out, 4 * MIB);
    faulty_close(f);
}

static void discard_without_support_is_unsupported(void **state)
{
    (void)state;
    struct faulty *f = faulty_open(KIND_DIRECT);
    plan(f, OR_FILE_PUNCH, -EOPNOTSUPP, 1);
    assert_int_equal(run(f->fx, OR_OP_DISCARD, 0, 0, CHUNK, NULL), OR_EUNSUPP);
    assert_int_equal(f->fx->volume->discard_granularity, 0);
    assert_int_equal(run(f->fx, OR_OP_DISCARD, 0, 0, CHUNK, NULL), OR_EUNSUPP);
    assert_int_equal(f->fault.steps[OR_FILE_PUNCH], 1);
    faulty_close(f);
}

static uint64_t allocated(const struct fixture *fx)
{
    struct stat info;
    assert_int_equal(stat(fx->path, &info), 0);
    return (uint64_t)info.st_blocks * 512;
}

static void discard_gives_the_space_back(void **state)
{
    (void)state;
    for (enum fixture_kind kind = KIND_DIRECT; kind <= KIND_LOOP; kind++) {
        struct faulty *f = faulty_open(kind);
        assert_int_equal(run(f->fx, OR_OP_WRITE, OR_REQ_FUA, 0, 4 * MIB, f->out), OR_OK);
        assert_true(allocated(f->fx) >= 4 * MIB);
        assert_int_equal(run(f->fx, OR_OP_DISCARD, 0, 0, 2 * MIB, NULL), OR_OK);
        assert_true(allocated(f->fx) < 3 * MIB);
        assert_int_equal(run(f->fx, OR_OP_WRITE_ZEROES, OR_REQ_UNMAP, 2 * MIB, 2 * MIB, NULL), OR_OK);
        assert_true(allocated(f->fx) < MIB);
        faulty_close(f);
    }
}

static void reading_past_a_truncated_end_fails(void **state)
{
    (void)state;
    for (enum fixture_kind kind = KIND_DIRECT; kind <= KIND_TMPFS; kind++) {
        struct faulty *f = faulty_open(kind);
        assert_int_equal(run(f->fx, OR_OP_WRITE, 0, 0, 4 * MIB, f->out), OR_OK);
        assert_int_equal(truncate(f->fx->path, MIB + 100), 0);
        assert_int_equal(run(f->fx, OR_OP_READ, 0, 0, MIB, f->in), OR_OK);
        assert_memory_equal(f->in, f->out, MIB);
        assert_int_equal(run(f->fx, OR_OP_READ, 0, MIB, 4096, f->in), OR_EIO);
        assert_int_equal(run(f->fx, OR_OP_READ, 0, 2 * MIB, 4096, f->in), OR_EIO);
        assert_int_equal(run(f->fx, OR_OP_READ, 0, 0, 2 * MIB, f->in), OR_EIO);
        /* What had been written there is gone: no flush says otherwise. */
        assert_int_equal(run(f->fx, OR_OP_FLUSH, 0, 0, 0, NULL), OR_EIO);
        faulty_close(f);
    }
}

static void a_full_file_system_is_no_space(void **state)
{
    (void)state;
    /* A real one: tmpfs with room for 16 pages. */
    char dir[] = "/dev/shm/or-full-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char command[128];
    snprintf(command, sizeof(command), "mount -t tmpfs -o size=64k none %s", dir);
    if (system(command) != 0) {
        rmdir(dir);
        print_message("cannot mount a small tmpfs\n");
        skip();
    }
    struct faulty *f = faulty_open(KIND_DIRECT);
    struct or_volume *volume = f->fx->volume;
    char path[64];
    int err;
    snprintf(path, sizeof(path), "%s/volume", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, MIB), 0);
    f->fx->volume = or_volume_file(f->fx->uring, fd, false, &err);
    assert_non_null(f->fx->volume);
    assert_int_equal(run(f->fx, OR_OP_WRITE, 0, 0, 4096, f->out), OR_OK);
    assert_int_equal(run(f->fx, OR_OP_WRITE, 0, 0, MIB, f->out), OR_ENOSPACE);
    f->fx->volume->ops->close(f->fx->volume);
    f->fx->volume = volume;
    snprintf(command, sizeof(command), "umount %s", dir);
    assert_int_equal(system(command), 0);
    rmdir(dir);
    faulty_close(f);
}

static void opening_changes_nothing(void **state)
{
    (void)state;
    struct faulty *f = faulty_open(KIND_DIRECT);
    assert_int_equal(run(f->fx, OR_OP_WRITE, 0, 0, 4 * MIB, f->out), OR_OK);
    assert_int_equal(run(f->fx, OR_OP_WRITE, OR_REQ_FUA, FIXTURE_SIZE - 4 * MIB, 4 * MIB, f->out), OR_OK);
    struct stat before;
    struct stat after;
    assert_int_equal(stat(f->fx->path, &before), 0);
    int fd = open(f->fx->path, O_RDWR | O_CLOEXEC);
    struct or_file_traits traits;
    assert_int_equal(or_file_probe(fd, false, &traits), 0);
    assert_int_equal(stat(f->fx->path, &after), 0);
    assert_int_equal(after.st_size, before.st_size);
    assert_int_equal(after.st_blocks, before.st_blocks);
    close(fd);
    assert_int_equal(run(f->fx, OR_OP_READ, 0, FIXTURE_SIZE - 4 * MIB, 4 * MIB, f->in), OR_OK);
    assert_memory_equal(f->in, f->out, 4 * MIB);
    faulty_close(f);
}

static int open_error(struct or_uring *uring, int fd, bool read_only)
{
    int err = 0;
    assert_true(fd >= 0);
    assert_null(or_volume_file(uring, fd, read_only, &err));
    /* The descriptor stayed the caller's. */
    assert_int_equal(close(fd), 0);
    return err;
}

static void unsuitable_descriptors_are_refused(void **state)
{
    (void)state;
    struct fixture *fx = fixture_open(KIND_DIRECT, 8);
    assert_int_equal(open_error(fx->uring, open("/dev/null", O_RDWR), false), -ENOTBLK);
    assert_int_equal(open_error(fx->uring, open("/dev/shm", O_RDONLY | O_DIRECTORY), true), -ENOTBLK);
    assert_int_equal(open_error(fx->uring, open(fx->path, O_RDONLY), false), -EROFS);
    assert_int_equal(truncate(fx->path, 511), 0);
    assert_int_equal(open_error(fx->uring, open(fx->path, O_RDWR), false), -EINVAL);
    fixture_close(fx);
}

static void the_size_is_rounded_down_to_blocks(void **state)
{
    (void)state;
    struct fixture *fx = fixture_open(KIND_DIRECT, 8);
    int err;
    assert_int_equal(truncate(fx->path, 3 * 512 + 511), 0);
    struct or_volume *volume = or_volume_file(fx->uring, open(fx->path, O_RDONLY | O_CLOEXEC), true, &err);
    assert_non_null(volume);
    assert_int_equal(volume->size, 3 * 512);
    assert_true(volume->read_only);
    assert_false(volume->write_zeroes);
    assert_int_equal(volume->discard_granularity, 0);
    volume->ops->close(volume);
    fixture_close(fx);
}

static void impossible_geometries_are_refused(void **state)
{
    (void)state;
    int err = 0;
    assert_null(or_volume_ram(MIB, 1024, &err));
    assert_int_equal(err, -EINVAL);
    assert_null(or_volume_ram(0, 512, &err));
    assert_int_equal(err, -EINVAL);
    assert_null(or_volume_ram(4096 + 512, 4096, &err));
    assert_int_equal(err, -EINVAL);
    assert_null(or_volume_null(513, 512, &err));
    assert_int_equal(err, -EINVAL);
    assert_null(or_volume_ram((uint64_t)1 << 62, 512, &err));
    assert_int_equal(err, -ENOMEM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_end_with_their_status),
        cmocka_unit_test(an_error_in_the_middle_fails_the_whole),
        cmocka_unit_test(short_transfers_are_continued),
        cmocka_unit_test(interrupted_calls_are_made_again),
        cmocka_unit_test(a_failed_sync_is_never_reported_good_later),
        cmocka_unit_test(the_owner_hears_of_every_error_of_the_storage),
        cmocka_unit_test(a_volume_known_to_have_failed_promises_nothing),
        cmocka_unit_test(another_volume_is_not_condemned),
        cmocka_unit_test(a_failed_fua_write_condemns_unless_the_disk_was_full),
        cmocka_unit_test(flushes_share_one_sync_that_began_after_them),
        cmocka_unit_test(a_sync_that_a_failed_fua_write_overtook_is_not_good),
        cmocka_unit_test(fua_is_part_of_a_direct_write_and_a_sync_elsewhere),
        cmocka_unit_test(zeroing_falls_back_to_what_the_storage_knows),
        cmocka_unit_test(discard_without_support_is_unsupported),
        cmocka_unit_test(discard_gives_the_space_back),
        cmocka_unit_test(reading_past_a_truncated_end_fails),
        cmocka_unit_test(a_full_file_system_is_no_space),
        cmocka_unit_test(opening_changes_nothing),
        cmocka_unit_test(unsuitable_descriptors_are_refused),
        cmocka_unit_test(the_size_is_rounded_down_to_blocks),
        cmocka_unit_test(impossible_geometries_are_refused),
    };
    return cmocka_run_group_tests_name("files", tests, NULL, NULL);
}
