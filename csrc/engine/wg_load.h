/* What handshakes may cost a WireGuard device, whoever sends them (WireGuard paper, section 5.3).
 *
 * Until many come, each is opened. Under load who has no cookie yet is sent one, and who shows one is let in: at most SV_ADMISSION_RATE a second of a
 * source, SV_WG_COOKIES_PER_SEC and SV_WG_OPENED_PER_SEC of all. What is over that costs its reading and one MAC, so data goes on beside a flood.
 * Time is an argument. Not thread-safe: the device's lock is held. */
#ifndef SV_ENGINE_WG_LOAD_H
#define SV_ENGINE_WG_LOAD_H

#include "engine/admission.h"
#include "policy/bucket.h"

enum {
    SV_WG_LOAD_PER_SEC = 256,      /* handshake messages in a second that make the device ask for cookies */
    SV_WG_COOKIES_PER_SEC = 16384, /* a tenth of a processor's time */
    SV_WG_OPENED_PER_SEC = 2048,   /* under load; a third of a processor's time */
};

struct sv_wg_load {
    uint64_t window, until; /* ns: when counting began, how long the load lasts */
    uint32_t count;         /* of this window */
    struct sv_sources asking, proven;
    struct sv_bucket cookies, opened;
};

/* SV_E_NOMEM; cleared all the same. */
int sv_wg_load_init(struct sv_wg_load *load, const uint8_t secret[16]);
void sv_wg_load_clear(struct sv_wg_load *load);

/* A handshake message with a right mac1 has come. true: the device is under load. */
bool sv_wg_load_note(struct sv_wg_load *load, uint64_t now);
/* Whether a source without a cookie is sent one. Sources over their rate leave half of all to others. */
bool sv_wg_load_may_ask(struct sv_wg_load *load, uint64_t now, const uint8_t source[16]);
/* Whether a source that showed its cookie is let in. */
bool sv_wg_load_may_enter(struct sv_wg_load *load, uint64_t now, const uint8_t source[16]);

#endif
