#include "engine/wg_load.h"

#include <smartvpn/base.h>
#include <string.h>

#include "base/clock.h"

enum {
    COOKIES_BURST = SV_WG_COOKIES_PER_SEC / 8,
    OPENED_BURST = SV_WG_OPENED_PER_SEC / 8,
};

int sv_wg_load_init(struct sv_wg_load *load, const uint8_t secret[16])
{
    memset(load, 0, sizeof *load);
    sv_bucket_init(&load->cookies, SV_WG_COOKIES_PER_SEC, COOKIES_BURST);
    sv_bucket_init(&load->opened, SV_WG_OPENED_PER_SEC, OPENED_BURST);
    return sv_sources_init(&load->asking, secret) || sv_sources_init(&load->proven, secret) ? SV_E_NOMEM : 0;
}

void sv_wg_load_clear(struct sv_wg_load *load)
{
    sv_sources_clear(&load->asking);
    sv_sources_clear(&load->proven);
}

bool sv_wg_load_note(struct sv_wg_load *load, uint64_t now)
{
    if (now - load->window >= SV_NS_PER_S) {
        load->window = now;
        load->count = 0;
    }
    if (++load->count > SV_WG_LOAD_PER_SEC) {
        load->until = now + SV_NS_PER_S;
    }
    return now < load->until;
}

bool sv_wg_load_may_ask(struct sv_wg_load *load, uint64_t now, const uint8_t source[16])
{
    if (!sv_sources_pass(&load->asking, now, source) &&
        sv_bucket_when(&load->cookies, now, COOKIES_BURST / 2) > now) {
        return false;
    }
    return sv_bucket_take(&load->cookies, now, 1);
}

bool sv_wg_load_may_enter(struct sv_wg_load *load, uint64_t now, const uint8_t source[16])
{
    return sv_sources_pass(&load->proven, now, source) && sv_bucket_take(&load->opened, now, 1);
}
