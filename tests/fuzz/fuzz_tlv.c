/* Hello, settings and updates: what is read can be written, and what was written reads as the same. */
#include <smartvpn/base.h>
#include <stdlib.h>
#include <string.h>

#include "proto/settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void fuzz_hello(const uint8_t *data, size_t size)
{
    struct sv_hello hello, again;
    uint8_t list[SV_HELLO_MAX];
    if (sv_hello_read(&hello, data, size) == 0) {
        size_t len = sv_hello_write(&hello, list, sizeof list);
        require(len > 0 && sv_hello_read(&again, list, len) == 0);
        require(again.capabilities == hello.capabilities && strcmp(again.software, hello.software) == 0);
        require(again.has_resume == hello.has_resume && again.has_instance == hello.has_instance);
        require(memcmp(again.resume_id, hello.resume_id, 16) == 0);
        require(memcmp(again.instance, hello.instance, 16) == 0);
    }
}

/* Writing is a function of what was read: twice written is the same bytes. */
static void require_stable(const struct sv_settings *settings)
{
    static struct sv_settings again;
    static uint8_t list[SV_SETTINGS_MAX], second[SV_SETTINGS_MAX];
    require(settings->dns_count <= SV_SETTINGS_DNS_MAX && settings->route_count <= SV_SETTINGS_ROUTES_MAX);
    size_t len = sv_settings_write(settings, list, sizeof list);
    require(len > 0 && sv_settings_read(&again, list, len) == 0);
    require(sv_settings_write(&again, second, sizeof second) == len && memcmp(list, second, len) == 0);
}

static void fuzz_update(const struct sv_settings *start, const uint8_t *data, size_t size)
{
    static struct sv_settings settings;
    settings = *start;
    if (sv_settings_apply_update(&settings, data, size) == 0) {
        require_stable(&settings);
    } else {
        require(memcmp(&settings, start, sizeof settings) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t least[] = {0x01, 0,  4,  0,  0,  0,  1, /* capabilities */
                                    0x10, 0,  16, 1,  2,  3,  4, 5,  6,    7, 8, 9, 10,
                                    11,   12, 13, 14, 15, 16,                              /* session */
                                    0x11, 0,  5,  10, 0,  0,  2, 24, 0x15, 0, 2, 5, 0x8c}; /* address, MTU */
    static struct sv_settings settings, start;
    if (size < 1) {
        return 0;
    }
    switch (data[0] % 3) {
    case 0:
        fuzz_hello(data + 1, size - 1);
        break;
    case 1:
        if (sv_settings_read(&settings, data + 1, size - 1) == 0) {
            require_stable(&settings);
        }
        break;
    default:
        require(sv_settings_read(&start, least, sizeof least) == 0);
        fuzz_update(&start, data + 1, size - 1);
        break;
    }
    return 0;
}
