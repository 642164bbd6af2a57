/* The fuzzer's bytes as a stream of small decisions. At the end it gives zeroes, so every prefix of an input
 * is an input; harnesses stop at input_end(). */
#ifndef FUZZ_INPUT_H
#define FUZZ_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct input {
    const uint8_t *at;
    size_t left;
};

static inline bool input_end(const struct input *in)
{
    return in->left == 0;
}

/* The next `length` bytes, filled up with zeroes. */
static inline void input_bytes(struct input *in, void *to, size_t length)
{
    size_t n = length < in->left ? length : in->left;
    if (length > 0)
        memset(to, 0, length);
    if (n > 0)
        memcpy(to, in->at, n);
    in->at += n;
    in->left -= n;
}

static inline uint8_t input_u8(struct input *in)
{
    uint8_t v;
    input_bytes(in, &v, sizeof v);
    return v;
}

static inline uint16_t input_u16(struct input *in)
{
    uint16_t v;
    input_bytes(in, &v, sizeof v);
    return v;
}

static inline uint32_t input_u32(struct input *in)
{
    uint32_t v;
    input_bytes(in, &v, sizeof v);
    return v;
}

static inline uint64_t input_u64(struct input *in)
{
    uint64_t v;
    input_bytes(in, &v, sizeof v);
    return v;
}

/* What libFuzzer calls; declared here for -Wmissing-prototypes. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
