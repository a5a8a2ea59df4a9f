/* Who may begin a handshake: a rate per source, and each ephemeral key once a minute. Fixed tables: strangers cannot make them grow.
 * Not thread-safe: the hub's lock is held. */
#ifndef SV_ENGINE_ADMISSION_H
#define SV_ENGINE_ADMISSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SV_ADMISSION_RATE = 20,       /* handshakes per second and source (/32, /56), and the burst */
    SV_ADMISSION_SOURCES = 16384, /* buckets remembered; the fullest of a set is forgotten first */
    SV_ADMISSION_WAYS = 4,
    SV_ADMISSION_EPHEMERALS = 65536, /* per generation */
};

struct sv_source {
    uint64_t key;      /* keyed hash of the source; 0: free */
    uint64_t empty_at; /* ns: when its bucket would be full again */
};

/* The rate of each source. */
struct sv_sources {
    uint64_t secret[2]; /* hash key */
    struct sv_source *table;
};

struct sv_admission {
    uint64_t secret[2]; /* hash key */
    struct sv_sources sources;
    uint64_t *young, *old; /* keyed hashes of ephemerals, open addressing; 0: free */
    size_t young_count;
    uint64_t turned_at; /* when young was begun, ns */
};

/* SV_E_NOMEM; cleared all the same. */
int sv_sources_init(struct sv_sources *sources, const uint8_t secret[16]);
void sv_sources_clear(struct sv_sources *sources);
/* Takes one out of the source's bucket; false: over its rate. */
bool sv_sources_pass(struct sv_sources *sources, uint64_t now, const uint8_t source[16]);

int sv_admission_init(struct sv_admission *admission, const uint8_t secret[16]);
void sv_admission_clear(struct sv_admission *admission);

/* Takes one handshake out of the source's bucket; false: over its rate. */
bool sv_admission_source_passes(struct sv_admission *admission, uint64_t now, const uint8_t source[16]);

/* false: this ephemeral key came within the last 60 s. Remembers it. */
bool sv_admission_ephemeral_is_new(struct sv_admission *admission, uint64_t now, const uint8_t ephemeral[32]);

#endif
