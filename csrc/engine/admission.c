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

int sv_admission_init(struct sv_admission *admission, const uint8_t secret[16])
{
    memset(admission, 0, sizeof *admission);
    admission->secret[0] = sv_load64le(secret);
    admission->secret[1] = sv_load64le(secret + 8);
    admission->sources = calloc(SV_ADMISSION_SOURCES, sizeof *admission->sources);
    admission->young = calloc(TABLE, sizeof *admission->young);
    admission->old = calloc(TABLE, sizeof *admission->old);
    return admission->sources && admission->young && admission->old ? 0 : SV_E_NOMEM;
}

void sv_admission_clear(struct sv_admission *admission)
{
    free(admission->sources);
    free(admission->young);
    free(admission->old);
    memset(admission, 0, sizeof *admission);
}

static uint64_t hash(const struct sv_admission *admission, const uint8_t *bytes, size_t len)
{
    uint64_t h = sv_siphash(admission->secret, bytes, len);

    return h ? h : 1;
}

/* The bucket of the source; a new source takes the place of the one that has been quiet longest in its set. */
static struct sv_admission_source *find_source(struct sv_admission *admission, uint64_t key)
{
    struct sv_admission_source *set =
        &admission->sources[key % (SV_ADMISSION_SOURCES / SV_ADMISSION_WAYS) * SV_ADMISSION_WAYS];
    struct sv_admission_source *quietest = set;

    for (size_t i = 0; i < SV_ADMISSION_WAYS; i++) {
        if (set[i].key == key) {
            return &set[i];
        }
        if (set[i].empty_at < quietest->empty_at) {
            quietest = &set[i];
        }
    }
    *quietest = (struct sv_admission_source){.key = key};
    return quietest;
}

bool sv_admission_source_passes(struct sv_admission *admission, uint64_t now, const uint8_t source[16])
{
    uint64_t key = hash(admission, source, sv_addr_is4(source) ? 16 : 7);
    struct sv_admission_source *bucket = find_source(admission, key);
    uint64_t from = bucket->empty_at > now ? bucket->empty_at : now;

    if (from + COST > now + SV_NS_PER_S) {
        return false;
    }
    bucket->empty_at = from + COST;
    return true;
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
    uint64_t key = hash(admission, ephemeral, 32);

    turn(admission, now);
    if (contains(admission->young, key) || contains(admission->old, key)) {
        return false;
    }
    insert(admission->young, key);
    admission->young_count++;
    return true;
}
