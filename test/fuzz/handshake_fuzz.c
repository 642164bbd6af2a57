/* Handshakes that are not as they should be: frames that are changed on the way, messages that say something
 * else under the right key, clients of other names and keys, hosts that come and go on the server, and time
 * that passes meanwhile. In the end an honest client still gets its session.
 *
 * First byte: see world_open, and the client's least integrity. Then commands, see run_command. */
#include "session_world.h"

/* Bytes of a frame under way, anywhere behind the Ethernet addresses; and its length. */
static void mutate(struct world *w, struct input *in, enum side from)
{
    struct memory_port *p = &w->ports[from];
    uint8_t which = input_u8(in);
    if (p->count == 0)
        return;
    struct frame *f = &p->queue[which % p->count];
    for (uint32_t n = which >> 6; n < 4; n++) {
        uint8_t at = input_u8(in);
        f->bytes[6 + at % (f->length - 6)] ^= input_u8(in);
    }
    if (which & 32) {
        struct frame cut = frame_new(f->bytes, f->length - input_u8(in) % f->length);
        free(f->bytes);
        *f = cut;
        if (cut.length < OR_ETH_HEADER + sizeof(struct or_frame_header)) {
            receive(w, from, f);
            frame_remove(p, which % p->count);
        }
    }
}

static void raw_frame(struct world *w, struct input *in, enum side from)
{
    uint8_t bytes[256];
    uint32_t length = input_u8(in);
    input_bytes(in, bytes, length);
    struct frame f = frame_new(bytes, length);
    receive(w, from, &f);
    free(f.bytes);
}

static void change_payload(struct world *w, struct input *in, enum side side)
{
    uint8_t count = input_u8(in) % 4 + 1;
    for (uint8_t i = 0; i < count; i++) {
        uint8_t at = input_u8(in);
        w->change[side][at % sizeof w->change[0]] ^= input_u8(in);
    }
}

static void other_client(struct world *w, uint8_t how)
{
    static const char *const names[] = {"vmhost1",  "vmhost2",
                                        "vmhost3",  "",
                                        "vmhost11", "012345678901234567890123456789012345678901234567890123456789012"};
    or_client_destroy(w->client);
    client_open(w, names[how % 6], (uint8_t)(7 + (how >> 3 & 1)), how >> 6);
}

static void change_hosts(struct world *w, uint8_t how)
{
    uint8_t psk[32];
    memset(psk, 7, sizeof psk);
    switch (how % 4) {
    case 0:
        or_server_admit_host(w->server, "vmhost1", how & 128);
        break;
    case 1:
        or_server_add_host(w->server, "vmhost3", psk);
        break;
    case 2:
        or_server_remove_host(w->server, "vmhost3");
        break;
    default:
        or_server_set_document(w->server, "vmhost1", "{}", 2);
        break;
    }
}

static void run_command(struct world *w, struct input *in)
{
    uint8_t command = input_u8(in);
    enum side from = command >> 7 ? SERVER : CLIENT;
    uint32_t count = w->ports[from].count;
    switch (command % 12) {
    case 0:
    case 1:
        mutate(w, in, from);
        break;
    case 2:
        raw_frame(w, in, from);
        break;
    case 3:
    case 4:
        change_payload(w, in, from);
        break;
    case 5:
        deliver(w, from, 0);
        break;
    case 6:
        if (count > 0)
            frame_remove(&w->ports[from], input_u8(in) % count);
        break;
    case 7:
        if (count > 0) {
            struct frame copy = frame_new(w->ports[from].queue[0].bytes, w->ports[from].queue[0].length);
            receive(w, from, &copy);
            free(copy.bytes);
        }
        break;
    case 8:
        other_client(w, input_u8(in));
        break;
    case 9:
        change_hosts(w, input_u8(in));
        break;
    case 10:
        run(w, (command >> 4) + 1u);
        break;
    default:
        turn(w, (uint64_t)input_u16(in) * 100000);
        break;
    }
}

/* Whatever happened before: within seconds a client with the key is let in. */
static void honest_client(struct world *w)
{
    or_client_destroy(w->client);
    memset(w->change, 0, sizeof w->change);
    or_server_admit_host(w->server, "vmhost1", true);
    client_open(w, "vmhost1", 7, OR_INTEGRITY_CRC);
    for (int i = 0; i < 200 && !or_client_up(w->client); i++) {
        run(w, 2);
        turn(w, 50 * MS);
    }
    MUST(or_client_up(w->client));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint8_t how = input_u8(&in);
    world_open(&world, how, how >> 4 & 3);
    for (int i = 0; i < 60 && !input_end(&in); i++)
        run_command(&world, &in);
    honest_client(&world);
    world_close(&world);
    return 0;
}
