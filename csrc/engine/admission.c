#include "engine/admission.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/siphash.h"
#include "policy/prefix.h"
#include <smartvpn/base.h>

enum { TABLE = SV_ADMISSION_EPHEMERALS * 2 };

static const uint64_t GENERATION = 60 * SV_NS_PER_S;
static const uint64_t COST = SV_NS_PER_S / SV_ADMISSION_RATE;

static void set_secret(uint64_t to[2], const uint8_t secret[16])
{
    to[0] = sv_load64le(secret);
    to[1] = sv_load64le(secret + 8);
}

static uint64_t hash(const uint64_t secret[2], const uint8_t *bytes, size_t len)
{
    uint64_t h = sv_siphash(secret, bytes, len);

    return h ? h : 1;
}

/* ---- sources ---- */

int sv_sources_init(struct sv_sources *sources, const uint8_t secret[16])
{
    set_secret(sources->secret, secret);
    sources->table = calloc(SV_ADMISSION_SOURCES, sizeof *sources->table);
    return sources->table ? 0 : SV_E_NOMEM;
}

void sv_sources_clear(struct sv_sources *sources)
{
    free(sources->table);
    memset(sources, 0, sizeof *sources);
}

/* The bucket of the source; a new source takes the place of the one that has been quiet longest in its set. */
static struct sv_source *find_source(struct sv_sources *sources, uint64_t key)
{
    struct sv_source *set =
        &sources->table[key % (SV_ADMISSION_SOURCES / SV_ADMISSION_WAYS) * SV_ADMISSION_WAYS];
    struct sv_source *quietest = set;

    for (size_t i = 0; i < SV_ADMISSION_WAYS; i++) {
        if (set[i].key == key) {
            return &set[i];
        }
        if (set[i].empty_at < quietest->empty_at) {
            quietest = &set[i];
        }
    }
    *quietest = (struct sv_source){.key = key};
    return quietest;
}

bool sv_sources_pass(struct sv_sources *sources, uint64_t now, const uint8_t source[16])
{
    struct sv_source *bucket = find_source(sources,
                                           hash(sources->secret, source, sv_addr_is4(source) ? 16 : 7));
    uint64_t from = bucket->empty_at > now ? bucket->empty_at : now;

    if (from + COST > now + SV_NS_PER_S) {
        return false;
    }
    bucket->empty_at = from + COST;
    return true;
}

/* ---- handshakes ---- */

int sv_admission_init(struct sv_admission *admission, const uint8_t secret[16])
{
    memset(admission, 0, sizeof *admission);
    set_secret(admission->secret, secret);
    admission->young = calloc(TABLE, sizeof *admission->young);
    admission->old = calloc(TABLE, sizeof *admission->old);
    return sv_sources_init(&admission->sources, secret) || !admission->young || !admission->old ? SV_E_NOMEM
                                                                                                : 0;
}

void sv_admission_clear(struct sv_admission *admission)
{
    sv_sources_clear(&admission->sources);
    free(admission->young);
    free(admission->old);
    memset(admission, 0, sizeof *admission);
}

bool sv_admission_source_passes(struct sv_admission *admission, uint64_t now, const uint8_t source[16])
{
    return sv_sources_pass(&admission->sources, now, source);
}

static bool contains(const uint64_t *table, uint64_t key)
{
    for (size_t i = key % TABLE; table[i]; i = (i + 1) % TABLE) {
        if (table[i] == key) {
            return true;
        }
    }
    return false;
}

static void insert(uint64_t *table, uint64_t key)
{
    size_t i = key % TABLE;

    while (table[i]) {
        i = (i + 1) % TABLE;
    }
    table[i] = key;
}

/* Two generations of a minute each; a full one is turned early, so that a table is never more than half full. */
static void turn(struct sv_admission *admission, uint64_t now)
{
    uint64_t *table = admission->old;

    if (now - admission->turned_at < GENERATION && admission->young_count < SV_ADMISSION_EPHEMERALS) {
        return;
    }
    memset(table, 0, TABLE * sizeof *table);
    admission->old = admission->young;
    admission->young = table;
    admission->young_count = 0;
    admission->turned_at = now;
}

bool sv_admission_ephemeral_is_new(struct sv_admission *admission, uint64_t now, const uint8_t ephemeral[32])
{
    uint64_t key = hash(admission->secret, ephemeral, 32);

    turn(admission, now);
    if (contains(admission->young, key) || contains(admission->old, key)) {
        return false;
    }
    insert(admission->young, key);
    admission->young_count++;
    return true;
}
