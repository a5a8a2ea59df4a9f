/* Loads and stores use the stated byte order at any alignment and undo each other. */
#include "tests/c/check.h"

#include "base/bytes.h"

static const uint8_t bytes[8] = {0x81, 0x02, 0x83, 0x04, 0x85, 0x06, 0x87, 0x08};

static void loads(void)
{
    for (size_t offset = 0; offset < 8; offset++) {
        uint8_t room[16];
        uint8_t *p = room + offset;

        memcpy(p, bytes, sizeof bytes);
        CHECK_EQ(sv_load16be(p), 0x8102);
        CHECK_EQ(sv_load16le(p), 0x0281);
        CHECK_EQ(sv_load32be(p), 0x81028304);
        CHECK_EQ(sv_load32le(p), 0x04830281);
        CHECK(sv_load64be(p) == UINT64_C(0x8102830485068708));
        CHECK(sv_load64le(p) == UINT64_C(0x0887068504830281));
    }
}

/* The bytes around the stored ones stay as they were. */
#define CHECK_STORE(store, value, width)       \
    do {                                       \
        uint8_t got[24];                       \
        uint8_t want[24];                      \
                                               \
        memset(got, 0x5a, sizeof got);         \
        memset(want, 0x5a, sizeof want);       \
        memcpy(want + offset, bytes, (width)); \
        store(got + offset, (value));          \
        CHECK_MEM(got, want, sizeof got);      \
    } while (0)

static void stores(void)
{
    for (size_t offset = 1; offset < 9; offset++) {
        CHECK_STORE(sv_store16be, 0x8102, 2);
        CHECK_STORE(sv_store16le, 0x0281, 2);
        CHECK_STORE(sv_store32be, 0x81028304, 4);
        CHECK_STORE(sv_store32le, 0x04830281, 4);
        CHECK_STORE(sv_store64be, UINT64_C(0x8102830485068708), 8);
        CHECK_STORE(sv_store64le, UINT64_C(0x0887068504830281), 8);
    }
}

int main(void)
{
    RUN(loads);
    RUN(stores);
    return CHECK_DONE("base_bytes");
}
